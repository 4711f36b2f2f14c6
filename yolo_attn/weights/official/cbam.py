"""CBAM (Jongchan/attention-module)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.cbam import ChannelGate, ConvBlockAttention
from .adapter import Adapter, KeyMap


def _cbam(a: Any) -> nn.Module:
    reduction = min(a.reduction_ratio, a.gate_channels)
    module = ConvBlockAttention(a.gate_channels, reduction, a.pool_types, not a.no_spatial)
    if a.gate_channels < a.reduction_ratio:  # a hidden layer without channels, whose output is the last layer's bias
        module.channel_gate = ChannelGate(a.gate_channels, 0, a.pool_types)
    return module


ADAPTERS = {
    "cbam": Adapter(
        "gate_channels, reduction_ratio=16, pool_types=('avg', 'max'), no_spatial=False",
        _cbam,
        KeyMap(
            (
                (r"^channel_gate\.fc1\.", "ChannelGate.mlp.1."),
                (r"^channel_gate\.fc2\.", "ChannelGate.mlp.3."),
                (r"^spatial_gate\.", "SpatialGate.spatial."),
            )
        ),
    )
}
