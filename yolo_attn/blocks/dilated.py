"""Multi-scale dilated attention (MSDA): each group of heads attends to a small neighbourhood at its own dilation.

Paper   Jiao et al., DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition, IEEE TMM 2023,
        https://arxiv.org/abs/2302.01791, section 3
Code    https://github.com/JIAOJIAYUASD/dilateformer at 99f85bb, models/dilateformer.py. Ours differs: the input is not
        overwritten (theirs is, and its backward pass raises); neighbours are read by shifting, not by copying the map
        k^2 times; queries are scaled before the product.
Shapes  B batch, C channels, H W height and width, h heads, D = C / h channels of a head, g = h / r heads of one of r
        dilations, k side of the neighbourhood, T = k k taps

    q, k, v = conv1x1(x)                                 B C H W each
    l_t     = q . shift_t(k) / sqrt(D)      t = 1 .. T   B g H W      shift by dilation * offset of tap t
    y       = sum_t softmax_t(l)_t shift_t(v)            B g D H W    beyond the edge: key 0, value 0, included
    out     = conv1x1(concat over dilations of y)        B C H W
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..layers import Mlp, check_heads
from ..registry import register
from .trunk import TransformerBlock

PAPER = "https://arxiv.org/abs/2302.01791"
TITLE = "DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition, IEEE TMM 2023"
CODE = "https://github.com/JIAOJIAYUASD/dilateformer"


class DilatedAttention(nn.Module):
    """Attention of every position over the k x k positions around it, `dilation` apart.

    Args:
        heads: Number of heads.
        kernel_size: Odd side of the neighbourhood.
        dilation: Distance of neighbouring taps.
        attn_drop: Dropout rate of the weights.

    Shape:
        Queries (already scaled), keys and values (B, C, H, W) each -> (B, C, H, W).
    """

    def __init__(self, heads: int, kernel_size: int = 3, dilation: int = 1, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.softmax = nn.Softmax(2)
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Logits tap by tap, one softmax, values tap by tap."""
        b, c, h, w = q.shape
        q_BgDHW = q.reshape(b, self.heads, c // self.heads, h, w)
        logits_BgTHW = torch.stack([(q_BgDHW * k_BgDHW).sum(2) for k_BgDHW in self.shifts(k)], 2)
        weights_BgTHW = self.attn_drop(self.softmax(logits_BgTHW))
        y_BgDHW = torch.zeros_like(q_BgDHW)
        for weight_Bg1HW, v_BgDHW in zip(weights_BgTHW.unsqueeze(3).unbind(2), self.shifts(v), strict=True):
            y_BgDHW = torch.addcmul(y_BgDHW, weight_Bg1HW, v_BgDHW)
        return y_BgDHW.reshape(b, c, h, w)

    def shifts(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The map as each tap sees it: views (B, g, D, H, W) of one zero-padded copy, taps row by row."""
        _, c, h, w = x.shape
        pad = self.dilation * (self.kernel_size // 2)
        x_BgDHW = F.pad(x, (pad, pad, pad, pad)).unflatten(1, (self.heads, c // self.heads))
        offsets = range(0, self.dilation * self.kernel_size, self.dilation)
        return [x_BgDHW[..., i : i + h, j : j + w] for i in offsets for j in offsets]


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"dilated.0.softmax": "weights over the taps at the first dilation (B, heads, taps, H, W)"},
    row="MSDA",
    places={"P3": {}},
)
class MultiDilatedLocalAttention(nn.Module):
    """Attends to small neighbourhoods at several dilations; for large, shallow maps, where far positions matter little.

    The paper's dilations are 1, 2, 3, with a number of heads that 3 divides; the defaults here fit channels that are
    multiples of 8.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads, a multiple of the number of dilations; each dilation gets the same share, in order.
        qkv_bias: Biases in the projections to queries, keys and values.
        qk_scale: Factor of queries times keys; None for 1 / sqrt(channels per head).
        attn_drop: Dropout rate of the weights.
        proj_drop: Dropout rate of the output.
        kernel_size: Odd side of the neighbourhoods.
        dilation: Distance of neighbouring taps, one per group of heads.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: Heads do not divide the channels, dilations do not divide the heads, or the kernel is even.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        check_heads(c1, heads)
        if not dilation or heads % len(dilation) or min(dilation) < 1:
            raise ValueError(f"{heads=} must be a multiple of the number of dilations in {dilation=}, each at least 1")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"{kernel_size=} must be odd, so that a neighbourhood has a middle")
        self.scale = qk_scale or (c1 // heads) ** -0.5
        self.qkv = nn.Conv2d(c1, 3 * c1, 1, bias=qkv_bias)
        share = heads // len(dilation)
        self.dilated = nn.ModuleList(DilatedAttention(share, kernel_size, r, attn_drop) for r in dilation)
        self.proj = nn.Conv2d(c1, c1, 1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend at every dilation, then mix."""
        q, k, v = self.qkv(x).chunk(3, 1)
        n = len(self.dilated)
        parts = zip(self.dilated, (q * self.scale).chunk(n, 1), k.chunk(n, 1), v.chunk(n, 1), strict=True)
        return self.proj_drop(self.proj(torch.cat([attend(q_r, k_r, v_r) for attend, q_r, k_r, v_r in parts], 1)))

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output."""
        return [self.proj]


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"attn.dilated.0.softmax": "weights over the taps at the first dilation (B, heads, taps, H, W)"},
)
class DilateBlock(TransformerBlock):
    """DilateFormer's block: position from a depthwise convolution, dilated attention, feed-forward, all residual.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads, a multiple of the number of dilations.
        mlp_ratio: Hidden channels of the feed-forward part over `c1`.
        qkv_bias: Biases in the projections to queries, keys and values.
        qk_scale: Factor of queries times keys; None for 1 / sqrt(channels per head).
        drop: Dropout rate in the feed-forward part.
        attn_drop: Dropout rate of the attention weights.
        drop_path: Probability that an image skips a residual branch in training.
        kernel_size: Odd side of the neighbourhoods.
        dilation: Distance of neighbouring taps, one per group of heads.
        position: Whether the block adds a 3x3 depthwise convolution of its input first (the paper's CPE).
        eps: Epsilon of the two LayerNorms.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An option does not fit; see `MultiDilatedLocalAttention`.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 2, 3, 4),
        position: bool = True,
        eps: float = 1e-6,
    ) -> None:
        attn = MultiDilatedLocalAttention(
            c1, heads, qkv_bias, qk_scale, attn_drop, kernel_size=kernel_size, dilation=dilation
        )
        super().__init__(c1, attn, Mlp(c1, int(c1 * mlp_ratio), drop=drop), drop_path, eps)
        self.pos_embed = nn.Conv2d(c1, c1, 3, padding=1, groups=c1) if position else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Position, attention, feed-forward."""
        return super().forward(x if self.pos_embed is None else x + self.pos_embed(x))
