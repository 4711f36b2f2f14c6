"""HiLo attention: fine detail in small windows, the rest against a pooled map.

Paper   Pan et al., Fast Vision Transformers with HiLo Attention (LITv2), NeurIPS 2022,
        https://arxiv.org/abs/2205.13213, sections 3.2 and 3.3
Code    https://github.com/ziplab/LITv2 at 7501c86, detection/mmdet/models/backbones/litv2.py. Ours differs:
        - Theirs pads the map with zeros to whole windows and attends to the padding as if it were image. Here padded
          cells are no keys and do not enter an average (padding="masked"); padding="zero" gives their numbers.
        - Theirs scales after the product q k, which overflows float16; here q is scaled first.
        - Theirs ignores attn_drop and proj_drop; here they work.
        - The 1x1 projections that read the same map (Hi-Fi's q, k, v and Lo-Fi's q) are one convolution.
        - 2x2 windows are attended elementwise, all at once; Lo-Fi's N x M weights are never kept.
Shapes  B batch, C channels, H W height and width in cells, s window size, T = s*s cells of a window, n windows,
        h heads of d = C/h channels, of which l = int(h*alpha) are Lo-Fi and h - l Hi-Fi, N = H*W queries, M pooled keys

    hi   = proj(softmax(q k^T / sqrt(d)) v)      q, k, v from x, both within one s x s window
    lo   = proj(softmax(q k^T / sqrt(d)) v)      q from x, k and v from the mean of each s x s window
    HiLo = [hi | lo]                             along the channels; nothing mixes the two halves
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels import accelerated
from ...layers import pad_to
from ...registry import register

LITV2: dict[str, Any] = {
    "paper": "https://arxiv.org/abs/2205.13213",
    "title": "Fast Vision Transformers with HiLo Attention, NeurIPS 2022",
    "code": "https://github.com/ziplab/LITv2",
}


@register(
    **LITV2,
    row="HiLoAttn",
    places={"P4": {"window_size": 2}, "P5": {"window_size": 2}},
    watch={"h_softmax": "Hi-Fi (window_size=2): weight of each key cell for each query cell of a window, B h T T n"},
)
class HiLo(nn.Module):
    """Attends with some heads inside small windows (edges, texture) and with the others to a pooled map (layout).

    Both halves together cost far less than full attention, which suits the maps of strides 16 and 32.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads, shared out between Hi-Fi and Lo-Fi.
        window_size: Side of a Hi-Fi window and of a Lo-Fi pooling cell, at least 1. With 1 nothing is pooled and all
            heads do full attention.
        alpha: Share of Lo-Fi heads, 0 to 1; `int(heads * alpha)` of them, so rounded down.
        qkv_bias: Whether the query, key and value projections have a bias.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        attn_drop: Dropout on attention weights while training.
        proj_drop: Dropout on the output while training.
        padding: What lies beyond the map where a window reaches over its edge: "masked" nothing at all, "zero" cells
            of zeros that take part, as in the authors' code.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        window_size: int = 2,
        alpha: float = 0.5,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        padding: str = "masked",
    ) -> None:
        super().__init__()
        if heads < 1 or c1 % heads:
            raise ValueError(f"{c1=} must be a multiple of {heads=}; choose heads that divide the channels.")
        if window_size < 1:
            raise ValueError(f"{window_size=} must be at least 1; 1 gives full attention, 2 fits strides 16 and 32.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"{alpha=} is the share of Lo-Fi heads and must lie between 0 and 1.")
        if padding not in ("masked", "zero"):
            raise ValueError(f'{padding=} must be "masked" or "zero" (the authors\' numbers).')
        if qk_scale is not None and qk_scale <= 0:
            raise ValueError(f"{qk_scale=} must be positive; None means (c1 / heads) ** -0.5.")
        self.window_size, self.padding = window_size, padding
        self.head_dim = c1 // heads
        self.l_heads = heads if window_size == 1 else int(heads * alpha)
        self.h_heads = heads - self.l_heads
        self.h_dim, self.l_dim = self.h_heads * self.head_dim, self.l_heads * self.head_dim
        self.scale = qk_scale if qk_scale is not None else self.head_dim**-0.5
        self.attn_drop = attn_drop

        self.qkv = nn.Conv2d(c1, 3 * self.h_dim + self.l_dim, 1, bias=qkv_bias)  # Hi-Fi q | k | v, then Lo-Fi q
        if self.h_heads:
            self.h_softmax = nn.Softmax(dim=-2)
            self.h_proj = nn.Conv2d(self.h_dim, self.h_dim, 1)
        if self.l_heads:
            self.l_kv = nn.Conv2d(c1, 2 * self.l_dim, 1, bias=qkv_bias)
            self.l_proj = nn.Conv2d(self.l_dim, self.l_dim, 1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Hi-Fi and Lo-Fi heads side by side."""
        s, (height, width) = self.window_size, x.shape[2:]
        if self.padding == "zero":
            x = pad_to(x, s, s)
        h_qkv, l_q = self.qkv(x).split((3 * self.h_dim, self.l_dim), 1)
        parts = []
        if self.h_heads:
            parts.append(self.h_proj(self._hi_fi(h_qkv)[:, :, :height, :width]))
        if self.l_heads:
            pooled = self._pool(x) if s > 1 else x
            parts.append(self.l_proj(self._lo_fi(l_q[:, :, :height, :width], self.l_kv(pooled))))
        return self.proj_drop(torch.cat(parts, 1) if len(parts) > 1 else parts[0])

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolutions whose outputs, side by side, are this operator's output."""
        return [getattr(self, name) for name in ("h_proj", "l_proj") if hasattr(self, name)]

    def extra_repr(self) -> str:
        """How the heads are shared out."""
        heads = f"h_heads={self.h_heads}, l_heads={self.l_heads}"
        return f"{heads}, window_size={self.window_size}, padding={self.padding!r}"

    @accelerated("window_means", lambda self, x: (x, self.window_size))
    def _pool(self, x: Tensor) -> Tensor:
        """Means over the windows, B C P Q; incomplete windows count the positions that they have."""
        return F.avg_pool2d(x, self.window_size, ceil_mode=True)

    def _hi_fi(self, qkv: Tensor) -> Tensor:
        """Attention within windows; (B, 3*h*d, H, W) -> (B, h*d, H, W), both sides rounded up to whole windows."""
        s, h, d = self.window_size, self.h_heads, self.head_dim
        batch, _, height, width = qkv.shape
        mask = None
        if self.padding == "masked" and (torch.jit.is_tracing() or height % s or width % s):
            real = torch.ones((1, 1, height, width), dtype=qkv.dtype, device=qkv.device)
            mask = self._windows(pad_to(real, s, s))[:, 0] == 0  # 1 T n
            qkv = pad_to(qkv, s, s)
        if qkv.stride(1) == 1:  # channels_last; cells of windows are gathered ten times faster from whole rows
            qkv = qkv.contiguous()
        # Three copies rather than one, so that only what the backward pass needs is kept: q scaled, k, v.
        q, k, v = (self._windows(z).reshape(batch, h, d, s * s, -1) for z in qkv.chunk(3, 1))  # B h d T n
        attend = self._attend_by_cell if s == 2 else self._attend_by_window
        y = attend(q, k, v, mask)
        rows, columns = qkv.shape[2] // s, qkv.shape[3] // s
        y = y.reshape(batch, h * d, s, s, rows, columns).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(batch, h * d, rows * s, columns * s)

    def _windows(self, x: Tensor) -> Tensor:
        """The cells of each window as a dimension of their own: (B, C, H, W) -> (B, C, T, n)."""
        s, (batch, channels, height, width) = self.window_size, x.shape
        x = x.reshape(batch, channels, height // s, s, width // s, s).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(batch, channels, s * s, -1)

    def _attend_by_cell(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention for windows of few cells: sums over d and T, vectorised over windows; no tiny matrix products."""
        logits = ((q * self.scale)[:, :, :, :, None] * k[:, :, :, None]).sum(2)  # B h T T n: query cell, key cell
        if mask is not None:
            logits = logits.masked_fill(mask[:, None, None], float("-inf"))
        weights = F.dropout(self.h_softmax(logits), self.attn_drop, self.training).to(v.dtype)
        return (weights[:, :, None] * v[:, :, :, None]).sum(4)  # B h d T n

    def _attend_by_window(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention for larger windows: one matrix product per head and window, weights never kept."""
        batch, h, d, t, _ = q.shape
        # Windows go with the heads, not the batch: CUDA kernels take at most 65535 batch items.
        q, k, v = (z.permute(0, 1, 4, 3, 2).reshape(batch, -1, t, d) for z in (q, k, v))  # B h*n T d
        keep = None
        if mask is not None:
            keep = ~mask.transpose(1, 2).repeat(1, h, 1)[:, :, None].expand(-1, -1, t, -1)  # 1 h*n T T
        y = F.scaled_dot_product_attention(q, k, v, keep, self._dropout, scale=self.scale)
        return y.reshape(batch, h, -1, t, d).permute(0, 1, 4, 3, 2)  # B h d T n

    def _lo_fi(self, q: Tensor, kv: Tensor) -> Tensor:
        """Attention of every cell to the pooled map; (B, l*d, H, W), (B, 2*l*d, h, w) -> (B, l*d, H, W)."""
        batch, _, height, width = q.shape
        # Channels innermost in memory, or the CPU kernel keeps all N x M weights; its output has the layout of q.
        q = q.flatten(2).transpose(1, 2).contiguous().unflatten(2, (self.l_heads, -1)).transpose(1, 2)  # B l N d
        kv = kv.flatten(2).transpose(1, 2).contiguous().unflatten(2, (2, self.l_heads, -1))  # B M 2 l d
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # B l M d
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self._dropout, scale=self.scale)
        return y.transpose(1, 2).reshape(batch, height, width, self.l_dim).permute(0, 3, 1, 2)

    @property
    def _dropout(self) -> float:
        return self.attn_drop if self.training else 0.0
