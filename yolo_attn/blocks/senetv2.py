"""SENetV2: squeeze-and-excitation with several small dense layers side by side.

Paper   Narayanan, SENetV2: Aggregated dense layer for channelwise and global representations, arXiv 2023,
        https://arxiv.org/abs/2311.10807, section 3
Code    https://github.com/mahendran-narayanan/SENetV2-Aggregated-dense-layer-for-channelwise-and-global-representations
        at e4d57c5, se_v2.py (TensorFlow). Ours differs: the dense layers are one 1x1 convolution, which is the same.
Shapes  B batch, C channels, D squeezed channels, H W height and width

    p  = mean over H W of x                                  B C 1 1
    z  = [relu(fc_1 p), relu(fc_2 p), ...]                    B 4D 1 1    four branches, D = C / reduction
    y  = x + x sigmoid(fc z)                                  B C H W     the input is added back
"""

from __future__ import annotations

import torch
from torch import nn

from ..layers import squeezed
from ..registry import register


@register(
    paper="https://arxiv.org/abs/2311.10807",
    title="SENetV2: Aggregated dense layer for channelwise and global representations, arXiv 2023",
    code="https://github.com/mahendran-narayanan/SENetV2-Aggregated-dense-layer-for-channelwise-and-global-representations",
    watch={"sigmoid": "weight of each channel (B, C, 1, 1)"},
    row="SaE",
    alias="senetv2",
)
class SqueezeAggregatedExcitation(nn.Module):
    """Attends over channels by their mean over the map, through several parallel bottlenecks.

    Args:
        c1: Channels in and out.
        reduction: Each bottleneck has c1 / reduction channels.
        branches: Number of bottlenecks, the paper's cardinality.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: A reduction larger than c1, no branch.
    """

    def __init__(self, c1: int, reduction: int = 16, branches: int = 4) -> None:
        super().__init__()
        if branches < 1:
            raise ValueError(f"{branches=} must be at least 1")
        hidden = branches * squeezed(c1, reduction)
        self.fc1 = nn.Conv2d(c1, hidden, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, c1, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Squeeze, excite, add the input back."""
        gate_BC11 = self.sigmoid(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * (1 + gate_BC11)
