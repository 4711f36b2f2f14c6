"""Selective Kernel: the weights of xmu-xiaoma666/External-Attention-pytorch, pppLang/SKNet and timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..blocks.sknet import SKAttention
from . import adapts


def as_1x1(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """A copy in which the Linear weights under `prefixes` are those of 1x1 convolutions."""
    return {
        k: v[:, :, None, None] if v.dim() == 2 and k.endswith(".weight") and k.startswith(prefixes) else v
        for k, v in state.items()
    }


@adapts("sk_attention")
def sk_attention(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """SKAttention of External-Attention-pytorch."""

    def build(
        channel: int = 512,
        kernels: Sequence[int] = (1, 3, 5, 7),
        reduction: int = 16,
        group: int = 1,
        L: int = 32,  # noqa: N803
    ) -> nn.Module:
        return SKAttention(channel, kernels, reduction, group, L, bias=True)

    return build(**kwargs), as_1x1(state, "fc.", "fcs.")
