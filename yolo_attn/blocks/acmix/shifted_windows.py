"""ACmix around the shifted windows of Swin.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, sections 4.3 and 5.1; Liu et al., Swin Transformer, ICCV 2021,
        https://arxiv.org/abs/2103.14030, section 3
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6, Swin-Transformer/models/swin_transformer_acmix.py. Ours differs:
        any H x W >= 1, with positions beyond the map masked; the convolution path sees the map as it is, where theirs
        sees the cyclically shifted one, in which opposite borders are neighbours (`wrap=True` for their numbers);
        masked keys get no weight at all instead of a logit lower by 100; the relative position index is computed.
Shapes  B batch, C channels, h heads, D = C / h, H W height and width, w window side, T = w^2, Y X windows along the
        axes

    q, k, v = W x                                                shared by both paths
    att     = W_o softmax(q k^T / sqrt D + bias[dy, dx]) v       within windows of the map, shifted by `shift`
    conv    = the convolution path of ACmix; its fc has a bias here
    y       = alpha att + beta conv                              alpha = beta = 0.5 at the start
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...layers import check_heads
from ...registry import register
from .operator import CODE, PAPER, TITLE, ConvolutionPath, head_by_head


@register(
    "ACmixWindow",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "softmax": "attention weights within each window (B, Y, X, h, T, T)",
        "att": "what the attention path adds, times its rate",
        "conv": "what the convolution path adds, times its rate",
    },
    row="ACmixWindowRow",
    places={"P4": {}, "P5": {}},
)
class ACmixWindow(nn.Module):
    """Attention within windows, the cheapest form, beside a convolution that carries information across their borders.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        window: Side of the windows.
        shift: Positions by which the windows are shifted up and left, below `window`; Swin alternates 0 and
            window // 2. A map that one window covers along an axis is not shifted along it.
        qkv_bias: Bias in the projection to queries, keys and values.
        qk_scale: Factor on the logits; 1 / sqrt D by default.
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the output.
        kernel_conv: Kernel of the convolution path, odd.
        wrap: With a shift, convolve the cyclically shifted map, as the authors do.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W), any H, W >= 1.

    Raises:
        ValueError: c1 is no multiple of heads, the kernel is even, or the shift is not within a window.
    """

    index: Tensor

    def __init__(
        self,
        c1: int,
        heads: int = 4,
        window: int = 7,
        shift: int = 0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        kernel_conv: int = 3,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        check_heads(c1, heads)
        if not 0 <= shift < window:
            raise ValueError(f"{shift=} must be at least 0 and below {window=}.")
        self.heads, self.head_dim = heads, c1 // heads
        self.window, self.shift, self.wrap = window, shift, wrap
        self.scale = qk_scale or self.head_dim**-0.5
        self.qkv = nn.Conv2d(c1, 3 * c1, 1, bias=qkv_bias)  # channels ordered (D, 3, h)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.softmax, self.attn_drop = nn.Softmax(-1), nn.Dropout(attn_drop)
        self.proj, self.proj_drop = nn.Conv2d(c1, c1, 1), nn.Dropout(proj_drop)
        self.att = nn.Identity()
        self.conv = ConvolutionPath(c1, heads, kernel_conv, bias=True)
        self.rate_att = nn.Parameter(torch.full((1,), 0.5))
        self.rate_conv = nn.Parameter(torch.full((1,), 0.5))
        self.register_buffer("index", _relative_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project once, then attend and convolve."""
        height, width = x.shape[2:]
        qkv_BD3hHW = head_by_head(self.qkv(x), self.heads, self.head_dim)
        att = self.proj(self._attend(qkv_BD3hHW))
        if self.wrap and self.shift:
            there = _turned(height, self.shift, x.device), _turned(width, self.shift, x.device)
            back = _turned(height, -self.shift, x.device), _turned(width, -self.shift, x.device)
            conv = self.conv(_take(qkv_BD3hHW, *there), self.rate_conv)
            conv = _take(conv, *back)
        else:
            conv = self.conv(qkv_BD3hHW, self.rate_conv)
        return self.proj_drop(self.att(self.rate_att * att) + conv)

    def _attend(self, qkv_BD3hHW: Tensor) -> Tensor:
        """Attend within the windows, B C H W."""
        height, width = qkv_BD3hHW.shape[-2:]
        w = self.window
        whole = not torch.jit.is_tracing() and not self.shift and not height % w and not width % w
        if not whole:
            rows, cols = _Axis(height, w, self.shift, qkv_BD3hHW.device), _Axis(width, w, self.shift, qkv_BD3hHW.device)
            qkv_BD3hHW = _take(qkv_BD3hHW, rows.source, cols.source)
        windows = qkv_BD3hHW.unflatten(5, (-1, w)).unflatten(4, (-1, w))  # B D 3 h Y w X w
        q, k, v = windows.permute(2, 0, 4, 6, 3, 5, 7, 1).flatten(5, 6).unbind(0)  # B Y X h T D each
        logits = (q * self.scale) @ k.transpose(-1, -2)
        if logits.dtype == torch.float16:
            logits = logits.clamp(-6e4, 6e4)  # an infinite logit would make the softmax undefined
        logits = logits + self.relative_position_bias_table.t()[:, self.index]
        if not whole:
            logits = logits.masked_fill(~_allowed(rows, cols, w), float("-inf"))
        y_BYXhTD = self.attn_drop(self.softmax(logits)) @ v
        y = y_BYXhTD.unflatten(4, (w, w)).permute(0, 3, 6, 1, 4, 2, 5)  # B h D Y w X w
        y = y.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return y if whole else _take(y, rows.back, cols.back)


class _Axis:
    """How one axis of a map is shifted and padded to whole windows.

    Attributes:
        source: Index on the map of each place of the shifted, padded axis; places beyond the map repeat the last one.
        part: Which part of its window a place belongs to. Parts differ where only the shift made two positions
            neighbours; places beyond the map have a part of their own.
        back: Place of each position of the map.
    """

    def __init__(self, size: int, window: int, shift: int, device: torch.device) -> None:
        padded = size + -size % window
        shift = shift * (padded > window)
        place = torch.arange(padded, device=device)
        position = (place + shift) % padded
        self.source = position.clamp(max=size - 1)
        self.part = torch.where(position < size, (place >= padded - shift).long(), 2)
        self.back = (torch.arange(size, device=device) - shift) % padded


def _allowed(rows: _Axis, cols: _Axis, window: int) -> Tensor:
    """Pairs of positions that may see each other, (Y, X, 1, T, T); at least each position itself."""
    part = rows.part[:, None] * 3 + cols.part
    part = part.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2)  # Y X T
    return part[:, :, None, :, None] == part[:, :, None, None, :]


def _take(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    return x.index_select(-2, rows).index_select(-1, cols)


def _turned(size: int, shift: int, device: torch.device) -> Tensor:
    return (torch.arange(size, device=device) + shift) % size


def _relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of positions in a window, (T, T)."""
    place = torch.arange(window)
    apart = place[:, None] - place + window - 1
    index = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return index.reshape(window**2, window**2)
