"""EMA: positions weighted at two scales, in groups of channels, each scale by the other's summary.

Paper   Ouyang et al., Efficient Multi-Scale Attention Module with Cross-Spatial Learning, ICASSP 2023,
        https://arxiv.org/abs/2305.13563, section 3.2 and figure 3
Code    https://github.com/YOLOonMe/EMA-attention-module; not read: this is written from the paper
Shapes  B batch, C channels, G groups, c = C / G, H W height and width, N = H W; the letter S stands for B G

    x      in G groups                                               S c H W
    h, w   = conv1x1([mean of x over W, mean of x over H])           S c H 1, S c 1 W
    a      = groupnorm(x sigmoid(h) sigmoid(w))                      S c H W    the scale of whole rows and columns
    b      = conv3x3(x)                                              S c H W    the scale of a neighbourhood
    m      = softmax(mean of a) . b + softmax(mean of b) . a         S 1 H W    products over c
    y      = x sigmoid(m)                                            S c H W
"""

from __future__ import annotations

import torch
from torch import nn

from yolo_attn import register


@register(
    paper="https://arxiv.org/abs/2305.13563",
    title="Efficient Multi-Scale Attention Module with Cross-Spatial Learning, ICASSP 2023",
    code="https://github.com/YOLOonMe/EMA-attention-module",
    watch={"gate": "weight of each position in each group (B G, 1, H, W)"},
    row="EMARow",
)
class EfficientMultiScaleAttention(nn.Module):
    """Attends over positions in groups of channels, from whole rows and columns and from 3x3 neighbourhoods.

    Args:
        c1: Channels in and out.
        groups: Groups of channels that share their weights; divides c1.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: The groups do not divide the channels.
    """

    def __init__(self, c1: int, groups: int = 8) -> None:
        super().__init__()
        if groups < 1 or c1 % groups:
            raise ValueError(f"{c1=} must be a multiple of {groups=}; choose a divisor of {c1}.")
        c = c1 // groups
        self.groups = groups
        self.conv1x1 = nn.Conv2d(c, c, 1)
        self.conv3x3 = nn.Conv2d(c, c, 3, padding=1)
        self.norm = nn.GroupNorm(c, c)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weigh the positions of every group."""
        b, c1, h, w = x.shape
        x_ScHW = x.reshape(b * self.groups, c1 // self.groups, h, w)
        rows_ScH1, columns_ScW1 = x_ScHW.mean(3, keepdim=True), x_ScHW.mean(2, keepdim=True).transpose(2, 3)
        rows_ScH1, columns_ScW1 = self.conv1x1(torch.cat((rows_ScH1, columns_ScW1), 2)).split((h, w), 2)
        a_ScHW = self.norm(x_ScHW * rows_ScH1.sigmoid() * columns_ScW1.transpose(2, 3).sigmoid())
        b_ScHW = self.conv3x3(x_ScHW)
        map_S1HW = self._read(a_ScHW, b_ScHW) + self._read(b_ScHW, a_ScHW)
        return (x_ScHW * self.gate(map_S1HW)).reshape(b, c1, h, w)

    @staticmethod
    def _read(summarised_ScHW: torch.Tensor, read_ScHW: torch.Tensor) -> torch.Tensor:
        """Channels of one scale, mixed by the softmax of the other's means: (S, 1, H, W)."""
        share_Sc11 = summarised_ScHW.mean((2, 3), keepdim=True).softmax(1)
        return (share_Sc11 * read_ScHW).sum(1, keepdim=True)

    def extra_repr(self) -> str:
        """The groups."""
        return f"groups={self.groups}"
