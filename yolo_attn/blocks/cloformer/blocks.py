"""CloFormer's blocks: the Clo block, its strided form, the stages and the stem.

Paper   Fan et al., Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023,
        https://arxiv.org/abs/2303.17803, section 3
Code    https://github.com/qhfan/CloFormer at 9181f69, classification/models. Ours differs: BatchNorm2d where the
        authors have SyncBatchNorm (same numbers; `torch.nn.SyncBatchNorm.convert_sync_batchnorm` brings statistics over
        several devices back); any height and width.
Shapes  B batch, C channels, H W height and width

    stem      4 x (conv3x3 -> bn -> relu), strides 2 2 1 1, then conv1x1 -> gn         B C H/4 W/4
    block     x <- x + attn(gn(x));  x <- shortcut(x) + ConvFFN(gn(x))                  gn: one group, over C H W
    ConvFFN   conv1x1 -> gelu -> depthwise conv (stride s) -> conv1x1
    shortcut  stride 1: x;  stride 2: dense conv (stride 2) -> bn -> conv1x1
    stage     plain blocks, then a strided one that projects to the next stage's channels (the last stage has none)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ...layers import BatchNorm2d, ConvNorm, DropPath, Fusible, Mlp, check_least
from ...registry import register
from .operator import CODE, PAPER, TITLE, AttnConv

WATCH = {"attn.local.0.tanh": "weights in (-1, 1) of the first local branch, one per position and channel"}


class Downsample(Fusible):
    """Shortcut of a strided Clo block: a dense strided convolution keeps what the narrow main path might lose.

    Args:
        c1: Input channels.
        c2: Output channels.
        kernel_size: Kernel size of the dense convolution, that of the block's feed-forward part.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 2), ceil(W / 2)) for odd kernels.
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn": "conv"}

    def __init__(self, c1: int, c2: int, kernel_size: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, kernel_size, 2, kernel_size // 2)
        self.bn: nn.Module = BatchNorm2d(c1)
        self.proj = nn.Conv2d(c1, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Strided convolution, BatchNorm, projection."""
        return self.proj(self.bn(self.conv(x)))


@register(paper=PAPER, title=TITLE, code=CODE, watch=WATCH)
class CloBlock(nn.Module):
    """Clo block: `AttnConv`, then a feed-forward part, both residual; local and global context at a small cost.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Heads of the attention.
        group_split: Heads of each local branch, then of the global branch; they add up to `heads`.
        kernel_sizes: Odd kernel sizes of the local branches' depthwise convolutions.
        window_size: Side of the windows that the global branch averages.
        mlp_kernel_size: Odd kernel size of the feed-forward part's depthwise convolution.
        mlp_ratio: Hidden channels of the feed-forward part over `c1`.
        qkv_bias: Biases in the attention's projections.
        attn_drop: Dropout rate of the attention weights.
        mlp_drop: Dropout rate of the attention's output and in the feed-forward part.
        drop_path: Probability that an image skips a residual branch in training.
        pooling: "ceil" or "floor"; see `AttnConv`.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An option does not fit; see `AttnConv`.
    """

    stride: ClassVar[int] = 1

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (3,),
        window_size: int = 2,
        mlp_kernel_size: int = 5,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        mlp_drop: float = 0.0,
        drop_path: float = 0.0,
        pooling: str = "ceil",
    ) -> None:
        super().__init__()
        check_least(1, mlp_kernel_size=mlp_kernel_size)
        if self.stride == 1 and mlp_kernel_size % 2 == 0:
            raise ValueError(f"{mlp_kernel_size=} must be odd, so that main path and shortcut have the same size")
        self.norm1 = nn.GroupNorm(1, c1)
        self.attn = AttnConv(
            c1, heads, group_split, kernel_sizes, window_size, qkv_bias, attn_drop, mlp_drop, pooling=pooling
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.GroupNorm(1, c1)
        self.mlp = _feed_forward(c1, c1, mlp_ratio, mlp_kernel_size, mlp_drop, 1)
        self.downsample: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention, then feed-forward part."""
        return self.feed_forward(self.attend(x))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """First residual: the attention, at the input's resolution."""
        return x + self.drop_path(self.attn(self.norm1(x)))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Second residual: the feed-forward part, which may have a stride."""
        return self.downsample(x) + self.drop_path(self.mlp(self.norm2(x)))


@register(paper=PAPER, title=TITLE, code=CODE, watch=WATCH, stride=2)
class CloDownBlock(CloBlock):
    """Clo block that halves height and width and sets the channels; the paper's downsampling.

    Args:
        c1: Input channels; a multiple of `heads`.
        c2: Output channels.
        heads: Heads of the attention.
        group_split: Heads of each local branch, then of the global branch; they add up to `heads`.
        kernel_sizes: Odd kernel sizes of the local branches' depthwise convolutions.
        window_size: Side of the windows that the global branch averages.
        mlp_kernel_size: Kernel size of the two strided convolutions; odd for half the size, rounded up.
        mlp_ratio: Hidden channels of the feed-forward part over `c1`.
        qkv_bias: Biases in the attention's projections.
        attn_drop: Dropout rate of the attention weights.
        mlp_drop: Dropout rate of the attention's output and in the feed-forward part.
        drop_path: Probability that an image skips a residual branch in training.
        pooling: "ceil" or "floor"; see `AttnConv`.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: An option does not fit; see `AttnConv`.
    """

    stride: ClassVar[int] = 2

    def __init__(
        self,
        c1: int,
        c2: int,
        heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (3,),
        window_size: int = 2,
        mlp_kernel_size: int = 5,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        mlp_drop: float = 0.0,
        drop_path: float = 0.0,
        pooling: str = "ceil",
    ) -> None:
        super().__init__(
            c1,
            heads,
            group_split,
            kernel_sizes,
            window_size,
            mlp_kernel_size,
            mlp_ratio,
            qkv_bias,
            attn_drop,
            mlp_drop,
            drop_path,
            pooling,
        )
        self.mlp = _feed_forward(c1, c2, mlp_ratio, mlp_kernel_size, mlp_drop, 2)
        self.downsample = Downsample(c1, c2, mlp_kernel_size)


class CloLayer(nn.Module):
    """One stage: plain Clo blocks, then a strided one (or a plain one in the last stage).

    Args:
        c1: Channels of the stage.
        c2: Channels of the next stage, None in the last one.
        drop_paths: Drop-path rate of each block; as many blocks as rates.
        **options: Options of `CloBlock`.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 2), ceil(W / 2)), or (B, c1, H, W) in the last stage.
    """

    def __init__(self, c1: int, c2: int | None, drop_paths: Sequence[float], **options: Any) -> None:
        super().__init__()
        *plain, last = drop_paths
        self.blocks = nn.ModuleList(CloBlock(c1, drop_path=rate, **options) for rate in plain)
        if c2 is None:
            self.blocks.append(CloBlock(c1, drop_path=last, **options))
        else:
            self.blocks.append(CloDownBlock(c1, c2, drop_path=last, **options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Block after block."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward_map(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last map (B, c1, H, W) of the stage's own resolution, and the stage's output."""
        last: Any = self.blocks[-1]
        for block in self.blocks[:-1]:
            x = block(x)
        x = last.attend(x)
        return x, last.feed_forward(x)


class CloStem(nn.Module):
    """Four convolutions that take an image to a quarter of its size.

    Args:
        c1: Channels of the image.
        c2: Output channels.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 4), ceil(W / 4)).
    """

    def __init__(self, c1: int = 3, c2: int = 96) -> None:
        super().__init__()
        self.conv1 = _conv_bn_relu(c1, c2 // 2, 2)
        self.conv2 = _conv_bn_relu(c2 // 2, c2, 2)
        self.conv3 = _conv_bn_relu(c2, c2, 1)
        self.conv4 = _conv_bn_relu(c2, c2, 1)
        self.proj = nn.Conv2d(c2, c2, 1)
        self.norm = nn.GroupNorm(1, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve twice with stride, twice without, project, normalise."""
        return self.norm(self.proj(self.conv4(self.conv3(self.conv2(self.conv1(x))))))


def _conv_bn_relu(c1: int, c2: int, stride: int) -> ConvNorm:
    return ConvNorm(c1, c2, 3, stride, bias=True, act=nn.ReLU())


def _feed_forward(c1: int, c2: int, ratio: float, kernel_size: int, drop: float, stride: int) -> Mlp:
    """ConvFFN: its depthwise convolution comes after the activation and does the downsampling."""
    hidden = int(c1 * ratio)
    return Mlp(c1, hidden, c2, drop=drop, depthwise="after", kernel_size=kernel_size, stride=stride)
