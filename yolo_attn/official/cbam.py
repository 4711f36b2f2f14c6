"""CBAM: the weights of Jongchan/attention-module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..blocks.cbam import ConvBlockAttention
from . import adapts, rename


@adapts("cbam")
def cbam(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """CBAM of attention-module."""

    def build(
        gate_channels: int,
        reduction_ratio: int = 16,
        pool_types: Sequence[str] = ("avg", "max"),
        no_spatial: bool = False,
    ) -> nn.Module:
        return ConvBlockAttention(gate_channels, reduction_ratio, pool_types, not no_spatial)

    ours = rename(
        state,
        (r"^ChannelGate\.mlp\.1\.", "channel_gate.fc1."),
        (r"^ChannelGate\.mlp\.3\.", "channel_gate.fc2."),
        (r"^SpatialGate\.spatial\.", "spatial_gate."),
    )
    for k in ("channel_gate.fc1.weight", "channel_gate.fc2.weight"):
        if k in ours and ours[k].dim() == 2:
            ours[k] = ours[k][:, :, None, None]
    return build(**kwargs), ours
