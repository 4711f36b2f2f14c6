"""GAM: channels weighted at every position, then positions in every channel, without pooling.

Paper   Liu et al., Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions, arXiv 2021,
        https://arxiv.org/abs/2112.05561, section 3
Code    none linked in the paper; written from its equations 1 and 2 and figures 2 and 3
Shapes  B batch, C channels, D = C / reduction, H W height and width

    m_c  = sigmoid(fc2(relu(fc1(x))))                    B C H W    fc1: C -> D, fc2: D -> C, at every position
    x'   = m_c x                                         B C H W
    m_s  = sigmoid(bn(conv7x7(relu(bn(conv7x7(x'))))))   B C H W    C -> D -> C
    y    = m_s x'                                        B C H W

The two 7x7 convolutions have 98 C C / reduction weights: 1.6 million at 256 channels.
"""

from __future__ import annotations

import torch
from torch import nn

from yolo_attn import register


@register(
    paper="https://arxiv.org/abs/2112.05561",
    title="Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions, arXiv 2021",
    watch={
        "channel_gate": "weight of each channel at each position (B, C, H, W)",
        "spatial_gate": "weight of each position in each channel (B, C, H, W)",
    },
    row="GAMRow",
    exceptions={"single_image": "PyTorch's BatchNorm refuses one image with a map of one position in train mode"},
    places={"P4": {}, "P5": {}},
)
class GlobalAttentionMechanism(nn.Module):
    """Attends over channels at every position, then over positions in every channel; keeps all resolution.

    Args:
        c1: Channels in and out.
        reduction: The hidden layers have c1 / reduction channels.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: No channel is left in the hidden layers.
    """

    def __init__(self, c1: int, reduction: int = 4) -> None:
        super().__init__()
        if not 1 <= reduction <= c1:
            raise ValueError(f"{reduction=} must be from 1 to {c1=}, so that the hidden layers have channels.")
        d = c1 // reduction
        self.channels = nn.Sequential(nn.Conv2d(c1, d, 1), nn.ReLU(), nn.Conv2d(d, c1, 1))
        self.positions = nn.Sequential(
            nn.Conv2d(c1, d, 7, padding=3),
            nn.BatchNorm2d(d),
            nn.ReLU(),
            nn.Conv2d(d, c1, 7, padding=3),
            nn.BatchNorm2d(c1),
        )
        self.channel_gate, self.spatial_gate = nn.Sigmoid(), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Channels first, then positions."""
        x = x * self.channel_gate(self.channels(x))
        return x * self.spatial_gate(self.positions(x))
