"""The whole SKNet, as classifier and as backbone.

Paper   Li et al., Selective Kernel Networks, CVPR 2019, https://arxiv.org/abs/1903.06586, section 3.2 and table 1
Code    https://github.com/implus/SKNet at 17dd708, models/sknet50.prototxt and sknet101.prototxt (Caffe). Ours differs:
        maps of four resolutions for detection; the stem's pooling also rounds odd sizes up, so that every map has the
        size that a detector's neck expects (sizes that are multiples of 4 give the authors' numbers).
Shapes  B batch, C_i channels of stage i, H W height and width of the image

    stem     conv7x7 / 2 -> bn -> relu -> maxpool3x3 / 2                       B 64 H/4 W/4
    stages   SK units; 256 512 1024 2048 channels, strides 1 2 2 2             B C_i H/2^(i+1) W/2^(i+1)
    head     mean over H W -> linear
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import ConvNorm
from ..trunk import Backbone, Classifier, ResNetTrunk
from .blocks import SKUnit
from .operator import SKConv

#: Units per stage; 26 is the paper's small one.
SIZES: dict[str, dict[str, Any]] = {
    "26": {"depths": (2, 2, 2, 2)},
    "50": {"depths": (3, 4, 6, 3)},
    "101": {"depths": (3, 4, 23, 3)},
}


class _SKNetTrunk(ResNetTrunk):
    """Stem and stages; see `SKNetBackbone`."""

    title: ClassVar[str] = "SKNet"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES

    def build(self, in_channels: int) -> None:
        """Stem and stages."""
        self.stem = ConvNorm(in_channels, self.stem_channels, 7, 2, act=nn.ReLU(inplace=True))
        super().build(in_channels)
        self.apply(_initialise)

    def unit(self, c1: int, c2: int, stride: int) -> nn.Module:
        """An SK unit."""
        return SKUnit(c1, c2, stride)

    def start(self, x: Tensor) -> Tensor:
        """Image to the first stage's input, a quarter of the size."""
        # After a ReLU zeros do not change a maximum; on two sides only, as in the authors' pooling.
        return F.max_pool2d(F.pad(self.stem(x), (0, 2, 0, 2)), 3, 2)


def _initialise(module: nn.Module) -> None:
    """The authors' fillers: fan-in scaled normal for convolutions, a narrow one for the attention's two layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    if isinstance(module, SKConv):
        for layer in (module.fc, *module.fcs):
            nn.init.normal_(layer.weight, std=0.01)


class SKNetBackbone(_SKNetTrunk, Backbone):
    """SKNet as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: A key of `SIZES`: "26", "50" or "101".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: per stage `channels`, `depths`; `outputs` (stages whose maps are
            given; all by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "50", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)


class SKNet(_SKNetTrunk, Classifier):
    """SKNet as the paper's classifier; all but `head` has the names it has in `SKNetBackbone`.

    Args:
        size: A key of `SIZES`: "26", "50" or "101".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `SKNetBackbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "50", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, num_classes, in_channels, options)
