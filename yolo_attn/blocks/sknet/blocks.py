"""The SK unit: a residual bottleneck around the SK convolution.

Paper   Li et al., Selective Kernel Networks, CVPR 2019, https://arxiv.org/abs/1903.06586, section 3.2
Code    https://github.com/implus/SKNet at 17dd708, models/sknet50.prototxt (Caffe)
Shapes  B batch, C channels, H W height and width, s stride

    y = relu(shortcut(x) + bn(conv1x1(SKConv(relu(bn(conv1x1(x)))))))     B C H/s W/s
"""

from __future__ import annotations

import torch
from torch import nn

from ...layers import ConvNorm
from ...registry import register
from .operator import CODE, PAPER, SKConv


@register(
    paper=PAPER,
    title="Selective Kernel Networks, CVPR 2019",
    code=CODE,
    watch={"sk.softmax": "weight of each kernel size per channel (B, K, C, 1, 1)"},
)
class SKUnit(nn.Module):
    """The paper's SK unit: a residual bottleneck whose 3x3 convolution chooses its kernel size per channel.

    Args:
        c1: Input channels.
        c2: Output channels; c1 if None.
        stride: 2 halves height and width.
        expansion: Channels of the SK convolution over c2.
        branches: Kernels to choose from; see `SKConv`.
        groups: Groups of the SK convolution; see `SKConv`.
        reduction: Squeeze of the fuse step; see `SKConv`.
        L: Fewest channels after the squeeze.

    Shape:
        (B, c1, H, W) -> (B, c2, H / stride, W / stride), rounded up.

    Raises:
        ValueError: Groups that do not divide the channels of the SK convolution.
    """

    def __init__(
        self,
        c1: int,
        c2: int | None = None,
        stride: int = 1,
        expansion: float = 0.5,
        branches: int = 2,
        groups: int | None = None,
        reduction: int = 16,
        L: int = 32,
    ) -> None:
        super().__init__()
        c2 = c2 or c1
        width = int(c2 * expansion)
        if width < 1:
            raise ValueError(f"{expansion=} leaves no channel of {c2=}; it must be at least {1 / c2:.2g}.")
        self.reduce = ConvNorm(c1, width, act=nn.ReLU(inplace=True))
        self.sk = SKConv(width, width, stride, branches, groups, reduction, L)
        self.increase = ConvNorm(width, c2)
        self.shortcut = ConvNorm(c1, c2, stride=stride) if c1 != c2 or stride != 1 else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reduce, select a kernel, increase, add the shortcut."""
        return self.act(self.increase(self.sk(self.reduce(x))) + self.shortcut(x))
