"""MLCA: the weights of wandahangFY/MLCA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...blocks.mlca import MixedLocalChannelAttention
from . import adapts, rename


@adapts("mlca")
def mlca(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """MLCA of the authors' repository."""

    def build(
        in_size: int, local_size: int = 5, gamma: float = 2, b: float = 1, local_weight: float = 0.5
    ) -> nn.Module:
        return MixedLocalChannelAttention(in_size, local_size, gamma, b, local_weight)

    return build(**kwargs), rename(state, (r"^conv\.", "global_conv."), (r"^conv_local\.", "local_conv."))
