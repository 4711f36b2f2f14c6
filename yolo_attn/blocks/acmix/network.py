"""ResNet with ACmix: the bottleneck, and the whole network as classifier and as backbone.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, section 5.1 and table 2
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6 (ResNet/ResNet_ImageNet.py). Ours differs: the shift kernels of
        the convolution path survive initialisation (theirs are overwritten by a loop over all convolutions); maps of
        four resolutions for detection.
Shapes  B batch, C channels, H W height and width in cells

    bottleneck  y = relu(shortcut(x) + bn(conv1x1(relu(bn(ACmix(relu(bn(conv1x1(x)))))))))      B C H/s W/s
    network     conv7x7 / 2 -> bn -> relu -> maxpool3x3 / 2                                      B 64 H/4 W/4
                4 stages of bottlenecks, 256 512 1024 2048 channels, strides 1 2 2 2             B C_i H/4..H/32
                mean over H W -> linear
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...layers import BatchNorm2d, ConvNorm, fold_batchnorm
from ...registry import register, suggest
from .operator import CODE, PAPER, TITLE, ACmix, ConvolutionPath

#: Bottlenecks per stage.
SIZES: dict[str, tuple[int, int, int, int]] = {"26": (1, 2, 4, 1), "38": (2, 3, 5, 2), "50": (3, 4, 6, 3)}


@register(
    "ACmixBottleneck",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"conv2.att": "what the attention path adds", "conv2.conv": "what the convolution path adds"},
)
class ACmixBottleneck(nn.Module):
    """ResNet's bottleneck with ACmix in place of its 3x3 convolution: the unit of ACmix-ResNet.

    x -> 1x1, BN, ReLU -> ACmix, BN, ReLU -> 1x1, BN -> + shortcut -> ReLU.

    Args:
        c1: Channels in.
        c2: Channels out; c1 by default. The shortcut gets a 1x1 convolution and BN where c1 or the size changes.
        hidden: Channels inside, a multiple of `heads`; by default a quarter of c2, rounded up to such a multiple.
        heads: Attention heads.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.
        stride: Height and width shrink by this factor, rounded up.
        dilation: Spacing of the attended neighbours.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / stride), ceil(W / stride)), any H, W >= 1.

    Raises:
        ValueError: As ACmix.
    """

    def __init__(
        self,
        c1: int,
        c2: int | None = None,
        hidden: int | None = None,
        heads: int = 4,
        kernel_att: int = 7,
        kernel_conv: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        c2 = c2 or c1
        hidden = hidden or -(-c2 // (4 * heads)) * heads
        self.conv1 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.bn1: nn.Module = BatchNorm2d(hidden)
        self.conv2 = ACmix(hidden, hidden, heads, kernel_att, kernel_conv, stride, dilation)
        self.bn2 = BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, c2, 1, bias=False)
        self.bn3: nn.Module = BatchNorm2d(c2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = ConvNorm(c1, c2, stride) if stride != 1 or c1 != c2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Reduce, mix, expand, add."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))

    def fuse(self) -> None:
        """Fold the BatchNorms that follow a convolution; the one after ACmix, a sum of two paths, stays."""
        if isinstance(self.bn1, BatchNorm2d):
            fold_batchnorm(self.conv1, self.bn1)
            self.bn1 = nn.Identity()
        if isinstance(self.bn3, BatchNorm2d):
            fold_batchnorm(self.conv3, self.bn3)
            self.bn3 = nn.Identity()


class _Trunk(nn.Module):
    """Stem and stages; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int, heads: int, kernel_att: int, kernel_conv: int) -> None:
        super().__init__()
        size = str(size)
        if size not in SIZES:
            raise ValueError(f"no ACmix-ResNet has {size=}.{suggest(size, SIZES)} Sizes: {', '.join(SIZES)}")
        self.channels: tuple[int, ...] = (256, 512, 1024, 2048)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1: nn.Module = BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        c1 = 64
        for i, (c2, depth) in enumerate(zip(self.channels, SIZES[size], strict=True)):
            blocks = [
                ACmixBottleneck(
                    c1 if j == 0 else c2, c2, c2 // 4, heads, kernel_att, kernel_conv, 2 if i and not j else 1
                )
                for j in range(depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
            c1 = c2
        self.apply(_initialise)

    def start(self, x: Tensor) -> Tensor:
        """Image to the first stage's input, a quarter of the size."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def fuse(self) -> None:
        """Fold the stem's BatchNorm; the bottlenecks fold their own."""
        if isinstance(self.bn1, BatchNorm2d):
            fold_batchnorm(self.conv1, self.bn1)
            self.bn1 = nn.Identity()


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """He et al.'s normal, as the authors', except for the shift kernels; runs from the leaves to the root."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, ACmix):
        module.qkv.weight.mul_(3**0.5)  # three convolutions in one: each fans out to a third of its channels
    elif isinstance(module, ConvolutionPath):
        module.reset_shifts()


class ACmixResNetBackbone(_Trunk):
    """ACmix-ResNet as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: A key of `SIZES`: "26", "38" or "50".
        in_channels: Channels of the image.
        heads: Attention heads; they divide 64.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], H / 2^(i+2), W / 2^(i+2)), rounded up.

    Raises:
        ValueError: Unknown size; otherwise as ACmix.
    """

    def __init__(
        self, size: str = "50", in_channels: int = 3, heads: int = 4, kernel_att: int = 7, kernel_conv: int = 3
    ) -> None:
        super().__init__(size, in_channels, heads, kernel_att, kernel_conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, from fine to coarse."""
        x = self.start(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ACmixResNet(_Trunk):
    """ACmix-ResNet as the paper's classifier; all but `head` has the names it has in `ACmixResNetBackbone`.

    Args:
        size: A key of `SIZES`: "26", "38" or "50".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        heads: Attention heads; they divide 64.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size; otherwise as ACmix.
    """

    def __init__(
        self,
        size: str = "50",
        num_classes: int = 1000,
        in_channels: int = 3,
        heads: int = 4,
        kernel_att: int = 7,
        kernel_conv: int = 3,
    ) -> None:
        super().__init__(size, in_channels, heads, kernel_att, kernel_conv)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.start(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))
