"""CBAM: the weights of Jongchan/attention-module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...blocks.cbam import ChannelGate, ConvBlockAttention
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
        module = ConvBlockAttention(gate_channels, min(reduction_ratio, gate_channels), pool_types, not no_spatial)
        # The authors accept a hidden layer without channels, whose output is then the last layer's bias.
        if gate_channels < reduction_ratio:
            module.channel_gate = ChannelGate(gate_channels, 0, pool_types)
        return module

    ours = rename(
        state,
        (r"^ChannelGate\.mlp\.1\.", "channel_gate.fc1."),
        (r"^ChannelGate\.mlp\.3\.", "channel_gate.fc2."),
        (r"^SpatialGate\.spatial\.", "spatial_gate."),
    )
    return build(**kwargs), ours
