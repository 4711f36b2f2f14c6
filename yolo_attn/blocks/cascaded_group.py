"""Cascaded group attention (CGA): each head reads its own channels plus the previous head's output.

Paper   Liu et al., EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention, CVPR 2023,
        https://arxiv.org/abs/2305.07027, section 3.1
Code    https://github.com/microsoft/Cream at 4a13c40, EfficientViT/classification and EfficientViT/downstream. Ours
        differs: any height and width, where a window at the edge holds only positions of the map (`padding="zero"`
        gives the authors' numbers: zeros beyond the edge become keys, values and neighbours); biases are read when
        they are used (theirs are cached by `eval()` and become stale when weights are loaded afterwards);
        queries are scaled before the product.
Shapes  B batch, C channels, H W height and width, h heads, D = C / h channels of a head, E channels of its queries and
        keys, s side of a window, N = s s positions of a window, n windows

    x_i     = chunk_i(x) + y_{i-1}                       B D H W      the cascade: later heads refine earlier ones
    q, k, v = split(bn(conv1x1(x_i)))                    B E H W, B E H W, B D H W
    q       = bn(dwconv_ki(q))                           B E H W      within a window
    y_i     = softmax(q k^T / sqrt(E) + bias_i) v        B D H W      within a window; bias by |dy|, |dx|
    out     = bn(conv1x1(relu(concat_i y_i)))            B C H W
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..layers import BatchNorm2d, ConvNorm, check_heads, check_least, pad_to
from ..registry import register

PAPER = "https://arxiv.org/abs/2305.07027"
TITLE = "EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention, CVPR 2023"
CODE = "https://github.com/microsoft/Cream/tree/main/EfficientViT"


class GroupHead(nn.Module):
    """One head of the cascade.

    Args:
        c1: Channels that it reads.
        key_dim: Channels of queries and keys.
        value_dim: Channels that it gives.
        window_size: Side of the windows.
        kernel_size: Odd kernel size of the queries' depthwise convolution.

    Shape:
        (B, c1, H, W) -> (B, value_dim, H, W).
    """

    def __init__(self, c1: int, key_dim: int, value_dim: int, window_size: int, kernel_size: int) -> None:
        super().__init__()
        self.splits = [key_dim, key_dim, value_dim]
        self.scale = key_dim**-0.5
        self.window_size = window_size
        self.qkv = ConvNorm(c1, sum(self.splits))
        self.dw = ConvNorm(key_dim, key_dim, kernel_size, groups=key_dim)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend within windows; `bias` (1, 1 or n, N, N) goes onto the logits."""
        h, w = x.shape[2:]
        q, k, v = self.qkv(x).split(self.splits, 1)
        q_BnNE = self.to_windows(self.mix(q) * self.scale)
        logits_BnNN = q_BnNE @ self.to_windows(k).transpose(2, 3) + bias.to(q_BnNE.dtype)
        y_BnND = self.softmax(logits_BnNN) @ self.to_windows(v)
        return self.from_windows(y_BnND, h, w)

    def mix(self, q: torch.Tensor) -> torch.Tensor:
        """Depthwise convolution of the queries within each window; BatchNorm statistics without padding."""
        s, (b, e, h, w) = self.window_size, q.shape
        q = pad_to(q, s, s)
        down, across = q.shape[2] // s, q.shape[3] // s
        q = q.reshape(b, e, down, s, across, s).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        q = self.dw.conv(q).reshape(b, down, across, e, s, s).permute(0, 3, 1, 4, 2, 5)
        return self.dw.bn(q.reshape(b, e, down * s, across * s)[:, :, :h, :w])

    def to_windows(self, x: torch.Tensor) -> torch.Tensor:
        """Positions window by window: (B, C, H, W) -> (B, n, N, C), zeros beyond the edge."""
        s, (b, c) = self.window_size, x.shape[:2]
        x = pad_to(x, s, s)
        x = x.reshape(b, c, x.shape[2] // s, s, x.shape[3] // s, s)
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def from_windows(self, x_BnNC: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """The inverse of `to_windows`: (B, n, N, C) -> (B, C, h, w)."""
        s, b, c = self.window_size, x_BnNC.shape[0], x_BnNC.shape[3]
        down, across = h + -h % s, w + -w % s
        x = x_BnNC.reshape(b, down // s, across // s, s, s, c).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(b, c, down, across)[:, :, :h, :w]


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"heads.0.softmax": "weights of the first head within each window (B, n, N, N)"},
    row="CGA",
    places={"P4": {}, "P5": {}},
)
class CascadedGroupAttention(nn.Module):
    """Attends within windows, head after head; needs little memory, and no two heads read the same channels.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        key_dim: Channels of each head's queries and keys.
        window_size: Side of the windows; a map no larger than that is one window.
        kernel_sizes: Odd kernel sizes of the queries' depthwise convolutions, one per head or one for all.
        value_dim: Channels of each head's values; None for `c1` / `heads`, which the cascade requires if there is more
            than one head.
        padding: "mask": windows at the edge hold only positions of the map. "zero": zeros beyond the edge are positions
            like all others, as in the authors' code.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An option does not fit the channels, the number of heads or the list of choices.
    """

    distance: torch.Tensor

    def __init__(
        self,
        c1: int,
        heads: int = 4,
        key_dim: int = 16,
        window_size: int = 7,
        kernel_sizes: Sequence[int] = (5,),
        value_dim: int | None = None,
        padding: str = "mask",
    ) -> None:
        super().__init__()
        check_heads(c1, heads)
        c = value_dim or c1 // heads
        if heads > 1 and c != c1 // heads:
            raise ValueError(f"{value_dim=} must be {c1 // heads}: a head's output is added to the next head's input")
        kernels = list(kernel_sizes) * heads if len(kernel_sizes) == 1 else list(kernel_sizes)
        if len(kernels) != heads or any(k < 1 or k % 2 == 0 for k in kernels):
            raise ValueError(f"{kernel_sizes=} must be odd numbers, one for all {heads=} or one for each")
        check_least(1, window_size=window_size, key_dim=key_dim)
        if padding not in ("mask", "zero"):
            raise ValueError(f"{padding=} must be 'mask' (positions of the map only) or 'zero' (as the authors)")
        self.window_size = window_size
        self.padding = padding
        self.heads = nn.ModuleList(GroupHead(c1 // heads, key_dim, c, window_size, k) for k in kernels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window_size**2))
        y = torch.arange(window_size).repeat_interleave(window_size)
        x = torch.arange(window_size).repeat(window_size)
        distance = (y[:, None] - y).abs() * window_size + (x[:, None] - x).abs()
        self.register_buffer("distance", distance, persistent=False)
        self.relu = nn.ReLU()
        self.proj = ConvNorm(c * heads, c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Head after head, then mix their outputs."""
        h, w = x.shape[2:]
        if self.padding == "zero":
            x = pad_to(x, self.window_size, self.window_size)
        bias_h1nNN = self.attention_biases[:, self.distance][:, None, None]
        if self.padding == "mask":
            bias_h1nNN = bias_h1nNN + self.mask(x)
        outputs: list[torch.Tensor] = []
        for i, (head, part) in enumerate(zip(self.heads, x.chunk(len(self.heads), 1), strict=True)):
            outputs.append(head(part + outputs[-1] if outputs else part, bias_h1nNN[i]))
        return self.proj(self.relu(torch.cat(outputs, 1)))[:, :, :h, :w]

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """Added to the logits to exclude keys beyond the edge: (1, n, 1, N), 0 or a very low number."""
        head: Any = self.heads[0]
        real_1nN1 = head.to_windows(torch.ones_like(x[:1, :1]))
        return (1 - real_1nN1.transpose(2, 3)) * torch.finfo(x.dtype).min

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output, once its BatchNorm is folded."""
        return [] if isinstance(self.proj.bn, BatchNorm2d) else [self.proj.conv]


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"attn.heads.0.softmax": "weights of the first head within each window (B, n, N, N)"},
)
class EfficientViTBlock(nn.Module):
    """EfficientViT's sandwich: one cascaded attention between inexpensive convolutions and feed-forward layers.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        key_dim: Channels of each head's queries and keys.
        window_size: Side of the attention's windows.
        kernel_sizes: Odd kernel sizes of the queries' depthwise convolutions, one per head or one for all.
        padding: "mask" or "zero"; see `CascadedGroupAttention`.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An option does not fit; see `CascadedGroupAttention`.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 4,
        key_dim: int = 16,
        window_size: int = 7,
        kernel_sizes: Sequence[int] = (5,),
        padding: str = "mask",
    ) -> None:
        super().__init__()
        # Each branch ends in a BatchNorm that starts at zero, as the authors': the block starts as the identity.
        self.dw0 = ConvNorm(c1, c1, 3, groups=c1, gamma=0.0)
        self.ffn0 = FeedForward(c1)
        self.attn = CascadedGroupAttention(c1, heads, key_dim, window_size, kernel_sizes, padding=padding)
        self.attn.proj = ConvNorm(c1, c1, gamma=0.0)
        self.dw1 = ConvNorm(c1, c1, 3, groups=c1, gamma=0.0)
        self.ffn1 = FeedForward(c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Five residual branches, one after another."""
        for branch in (self.dw0, self.ffn0, self.attn, self.dw1, self.ffn1):
            x = x + branch(x)
        return x


class FeedForward(nn.Module):
    """Two 1x1 convolutions with BatchNorm around a ReLU, twice as wide inside.

    Args:
        c1: Channels in and out.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.pw1 = ConvNorm(c1, 2 * c1)
        self.act = nn.ReLU()
        self.pw2 = ConvNorm(2 * c1, c1, gamma=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, activate, narrow."""
        return self.pw2(self.act(self.pw1(x)))
