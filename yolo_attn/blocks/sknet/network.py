"""The SK unit and the whole SKNet; the SK convolution itself is in `sknet`.

Paper   Li et al., Selective Kernel Networks, CVPR 2019, https://arxiv.org/abs/1903.06586, section 3.2 and table 1
Code    https://github.com/implus/SKNet at 17dd708, models/sknet50.prototxt and sknet101.prototxt (Caffe). Ours differs:
        maps of four resolutions for detection; the stem's pooling also rounds odd sizes up, so that every map has the
        size that a detector's neck expects (sizes that are multiples of 4 give the authors' numbers).
Shapes  B batch, C channels, H W height and width in cells

    unit     y = relu(shortcut(x) + bn(conv1x1(SKConv(relu(bn(conv1x1(x)))))))     B C H/s W/s
    SKNet    conv7x7 / 2 -> bn -> relu -> maxpool3x3 / 2                             B 64 H/4 W/4
             4 stages of units, 256 512 1024 2048 channels, strides 1 2 2 2          B C_i H/4..H/32
             mean over H W -> linear
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ...registry import suggest
from .blocks import SKUnit
from .operator import Branch, SKConv

#: Units per stage; 26 is the paper's small one.
SIZES: dict[str, tuple[int, int, int, int]] = {"26": (2, 2, 2, 2), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}


class _Trunk(nn.Module):
    """Stem and stages; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int) -> None:
        super().__init__()
        size = str(size)
        if size not in SIZES:
            raise ValueError(f"no SKNet has {size=}.{suggest(size, SIZES)} Sizes: {', '.join(SIZES)}")
        self.channels: tuple[int, ...] = (256, 512, 1024, 2048)
        self.stem = Branch(in_channels, 64, 7, stride=2)
        self.stages = nn.ModuleList()
        c1 = 64
        for i, (c2, depth) in enumerate(zip(self.channels, SIZES[size], strict=True)):
            units = [SKUnit(c1 if j == 0 else c2, c2, 2 if i > 0 and j == 0 else 1) for j in range(depth)]
            self.stages.append(nn.Sequential(*units))
            c1 = c2
        self.apply(_initialise)

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the first stage's input, a quarter of the size."""
        # Behind a ReLU padding with zeros is padding with nothing; on two sides only, as in the authors' pooling.
        return F.max_pool2d(F.pad(self.stem(x), (0, 2, 0, 2)), 3, 2)


def _initialise(module: nn.Module) -> None:
    """The authors' fillers: fan-in scaled normal for convolutions, a small one for the attention's two layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    if isinstance(module, SKConv):
        for layer in (module.fc, *module.fcs):
            nn.init.normal_(layer.weight, std=0.01)


class SKNetBackbone(_Trunk):
    """SKNet as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: A key of `SIZES`: "26", "50" or "101".
        in_channels: Channels of the image.

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], H / 2^(i+2), W / 2^(i+2)), rounded up.

    Raises:
        ValueError: Unknown size.
    """

    def __init__(self, size: str = "50", in_channels: int = 3) -> None:
        super().__init__(size, in_channels)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps, from fine to coarse."""
        x = self.start(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class SKNet(_Trunk):
    """SKNet as the paper's classifier; all but `head` has the names it has in `SKNetBackbone`.

    Args:
        size: A key of `SIZES`: "26", "50" or "101".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size.
    """

    def __init__(self, size: str = "50", num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__(size, in_channels)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the classes."""
        x = self.start(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))
