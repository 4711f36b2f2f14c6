"""ACmix's blocks: ResNet's bottleneck with ACmix, Swin's block with ACmixWindow, and Swin's patch merging.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, section 5.1; Liu et al., Swin Transformer, ICCV 2021,
        https://arxiv.org/abs/2103.14030, section 3
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6, ResNet/ResNet_ImageNet.py and
        Swin-Transformer/models/swin_transformer_acmix.py. Ours differs: any H x W >= 1.
Shapes  B batch, C channels, H W height and width, s stride

    bottleneck  y = relu(shortcut(x) + bn(conv1x1(relu(bn(ACmix(relu(bn(conv1x1(x)))))))))      B C H/s W/s
    Swin block  x <- x + ACmixWindow(LN x);  x <- x + mlp(LN x)                                  B C H W
    merging     the 4 positions of a 2 x 2 square side by side -> LN -> linear 4C -> 2C          B 2C H/2 W/2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...layers import BatchNorm2d, ConvNorm, Fusible, LayerNorm2d, Mlp, check_least, pad_to
from ...registry import register
from ..trunk import TransformerBlock
from .operator import CODE, PAPER, TITLE, ACmix
from .shifted_windows import ACmixWindow


@register(
    "ACmixBottleneck",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"conv2.att": "what the attention path adds", "conv2.conv": "what the convolution path adds"},
)
class ACmixBottleneck(Fusible):
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

    # The BatchNorm after ACmix, which is a sum of two paths, stays.
    folds: ClassVar[Mapping[str, str | None]] = {"bn1": "conv1", "bn3": "conv3"}

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
        check_least(1, heads=heads, stride=stride, hidden=hidden or 1)
        hidden = hidden or -(-c2 // (4 * heads)) * heads
        self.conv1 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.bn1: nn.Module = BatchNorm2d(hidden)
        self.conv2 = ACmix(hidden, hidden, heads, kernel_att, kernel_conv, stride, dilation)
        self.bn2 = BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, c2, 1, bias=False)
        self.bn3: nn.Module = BatchNorm2d(c2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = ConvNorm(c1, c2, stride=stride) if stride != 1 or c1 != c2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Reduce, mix, expand, add."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


@register(
    "ACmixSwinBlock",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "attn.softmax": "attention weights within each window (B, Y, X, h, T, T)",
        "attn.att": "what the attention path adds, times its rate",
        "attn.conv": "what the convolution path adds, times its rate",
    },
    places={"P4": {}, "P5": {}},
)
class ACmixSwinBlock(TransformerBlock):
    """Swin's block with ACmix: attention within windows beside a convolution, then a feed-forward part, each residual.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        window: Side of the windows.
        shift: Cells by which the windows are shifted; Swin alternates 0 and window // 2.
        mlp_ratio: Hidden channels of the feed-forward part over `c1`.
        qkv_bias: Bias in the projection to queries, keys and values.
        qk_scale: Factor on the logits; 1 / sqrt D by default.
        drop: Dropout rate of both parts' outputs and inside the feed-forward part.
        attn_drop: Dropout rate of the attention weights.
        drop_path: Probability that an image skips a part in training.
        eps: Epsilon of the LayerNorms.
        wrap: With a shift, convolve the cyclically shifted map, as the authors do.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W), any H, W >= 1.

    Raises:
        ValueError: As ACmixWindow.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 4,
        window: int = 7,
        shift: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        wrap: bool = False,
    ) -> None:
        attn = ACmixWindow(c1, heads, window, shift, qkv_bias, qk_scale, attn_drop, drop, wrap=wrap)
        super().__init__(c1, attn, Mlp(c1, int(c1 * mlp_ratio), drop=drop), drop_path, eps)


class PatchMerging(nn.Module):
    """Halves a map: the four positions of a square side by side, normalised, projected to twice the channels.

    Args:
        c1: Channels in.
        eps: Epsilon of the LayerNorm.

    Shape:
        (B, c1, H, W) -> (B, 2 c1, H / 2, W / 2), rounded up.
    """

    def __init__(self, c1: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = LayerNorm2d(4 * c1, eps)
        self.reduction = nn.Conv2d(4 * c1, 2 * c1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge."""
        x = pad_to(x, 2, 2)
        # Down before right: the order of the weights of the authors, and of Swin.
        squares = [x[..., dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
        return self.reduction(self.norm(torch.cat(squares, 1)))
