"""HiLo attention: fine detail in small windows, the rest against a pooled map.

Paper   Pan et al., Fast Vision Transformers with HiLo Attention (LITv2), NeurIPS 2022,
        https://arxiv.org/abs/2205.13213, sections 3.2 and 3.3
Code    https://github.com/ziplab/LITv2 at 7501c86, detection/mmdet/models/backbones/litv2.py. Ours differs:
        - Theirs pads the map with zeros to whole windows and attends to the padding as if it were image. Here padding
          is neither a key nor part of an average (padding="masked"); padding="zero" gives their numbers.
        - Theirs scales after the product q k, which overflows float16; here q is scaled first.
        - Theirs ignores attn_drop and proj_drop; here they work.
        - The 1x1 projections that read the same map (Hi-Fi's q, k, v and Lo-Fi's q) are one convolution.
        - 2x2 windows are attended elementwise, all at once; Lo-Fi's N x M weights are never held.
Shapes  B batch, C channels, H W height and width, D channels of a head, h Hi-Fi heads, l Lo-Fi heads, s side of a
        window, T = s s positions of a window, n = P Q windows, m = h n, N = H W queries, M = P Q pooled keys

    hi   = proj(softmax(q k^T / sqrt(D)) v)      B hD H W    q, k, v from x, both within one s x s window
    lo   = proj(softmax(q k^T / sqrt(D)) v)      B lD H W    q from x, k and v from the mean of each s x s window
    HiLo = [hi | lo]                             B C H W     nothing mixes the two halves
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels import accelerated, eligibility
from ...kernels.export_hilo import HiLoLayers
from ...layers import check_heads, pad_to
from ...registry import register

LITV2: dict[str, Any] = {
    "paper": "https://arxiv.org/abs/2205.13213",
    "title": "Fast Vision Transformers with HiLo Attention, NeurIPS 2022",
    "code": "https://github.com/ziplab/LITv2",
}


def _kernel_arguments(self: HiLo, x: Tensor) -> tuple[Tensor, HiLoLayers]:
    """The arguments of the kernels of `hilo`."""
    if self.training and self.attn_drop:
        raise eligibility.Ineligible("dropout of attention weights is active")
    if self.h_heads:
        eligibility.softmax(self.h_softmax, -2)
    h_proj = eligibility.pointwise(self.h_proj) if self.h_heads else None
    l_kv = eligibility.pointwise(self.l_kv) if self.l_heads else None
    l_proj = eligibility.pointwise(self.l_proj) if self.l_heads else None
    convs = eligibility.pointwise(self.qkv), h_proj, l_kv, l_proj
    masked = self.padding == "masked"
    return x, HiLoLayers(
        *convs, self.h_heads, self.l_heads, self.head_dim, self.scale, self.window_size, masked
    )  # fmt: skip


@register(
    **LITV2,
    row="HiLoAttn",
    places={"P4": {"window_size": 2}, "P5": {"window_size": 2}},
    watch={
        "h_softmax": "Hi-Fi (window_size=2): weight of each key for each query of a window (B, h, T, T, n)",
        "h_proj": "Hi-Fi's channels of the output (B, h D, H, W)",
        "l_proj": "Lo-Fi's channels of the output (B, l D, H, W)",
    },
)
class HiLo(nn.Module):
    """Attends with some heads inside small windows (edges, texture) and with the others to a pooled map (layout).

    Both halves together cost far less than full attention, which suits the maps of strides 16 and 32.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads, divided between Hi-Fi and Lo-Fi.
        window_size: Side of a Hi-Fi window and of a Lo-Fi pooling window, at least 1. With 1 nothing is pooled and all
            heads do full attention.
        alpha: Share of Lo-Fi heads, 0 to 1; `int(heads * alpha)` of them, so rounded down.
        qkv_bias: Whether the query, key and value projections have a bias.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output.
        padding: What a window that reaches beyond the map holds there: "masked" nothing, "zero" zeros that take part,
            as in the authors' code.

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
        check_heads(c1, heads)
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
        return self.proj_drop(self.mix(x))

    @accelerated("hilo", _kernel_arguments)
    def mix(self, x: Tensor) -> Tensor:
        """The output before dropout, B C H W."""
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
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolutions whose outputs, side by side, are this operator's output."""
        return [getattr(self, name) for name in ("h_proj", "l_proj") if hasattr(self, name)]

    def extra_repr(self) -> str:
        """How the heads are divided."""
        heads = f"h_heads={self.h_heads}, l_heads={self.l_heads}"
        return f"{heads}, window_size={self.window_size}, padding={self.padding!r}"

    @accelerated("window_means", lambda self, x: (x, self.window_size))
    def _pool(self, x: Tensor) -> Tensor:
        """Means over the windows, B C P Q; incomplete windows count the positions that they have."""
        return F.avg_pool2d(x, self.window_size, ceil_mode=True)

    def _hi_fi(self, qkv: Tensor) -> Tensor:
        """Attention within windows; (B, 3 h D, H, W) -> (B, h D, H, W), both sides rounded up to whole windows."""
        s, h = self.window_size, self.h_heads
        height, width = qkv.shape[2:]
        mask_1Tn = None
        if self.padding == "masked" and (torch.jit.is_tracing() or height % s or width % s):
            real = torch.ones((1, 1, height, width), dtype=qkv.dtype, device=qkv.device)
            mask_1Tn = self._windows(pad_to(real, s, s))[:, 0] == 0
            qkv = pad_to(qkv, s, s)
        if qkv.stride(1) == 1:  # channels_last; positions of windows are gathered ten times faster from whole rows
            qkv = qkv.contiguous()
        # Three copies rather than one, so that only what the backward pass needs is saved: q scaled, k, v.
        q_BhDTn, k_BhDTn, v_BhDTn = (self._windows(z).unflatten(1, (h, self.head_dim)) for z in qkv.chunk(3, 1))
        attend = self._attend_by_position if s == 2 else self._attend_by_window
        y_BhDTn = attend(q_BhDTn, k_BhDTn, v_BhDTn, mask_1Tn)
        batch, rows, columns = qkv.shape[0], qkv.shape[2] // s, qkv.shape[3] // s
        y = y_BhDTn.reshape(batch, self.h_dim, s, s, rows, columns).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(batch, self.h_dim, rows * s, columns * s)

    def _windows(self, x: Tensor) -> Tensor:
        """The positions of each window as a dimension of their own: (B, C, H, W) -> (B, C, T, n)."""
        s, (batch, channels, height, width) = self.window_size, x.shape
        x = x.reshape(batch, channels, height // s, s, width // s, s).permute(0, 1, 3, 5, 2, 4)
        return x.flatten(4).flatten(2, 3)

    def _attend_by_position(self, q_BhDTn: Tensor, k_BhDTn: Tensor, v_BhDTn: Tensor, mask_1Tn: Tensor | None) -> Tensor:
        """Attention for small windows: sums over D and T, vectorised over windows; no tiny matrix products."""
        logits_BhTTn = ((q_BhDTn * self.scale)[:, :, :, :, None] * k_BhDTn[:, :, :, None]).sum(2)  # query, key
        if mask_1Tn is not None:
            logits_BhTTn = logits_BhTTn.masked_fill(mask_1Tn[:, None, None], float("-inf"))
        weights_BhTTn = F.dropout(self.h_softmax(logits_BhTTn), self.attn_drop, self.training).to(v_BhDTn.dtype)
        return (weights_BhTTn[:, :, None] * v_BhDTn[:, :, :, None]).sum(4)

    def _attend_by_window(self, q_BhDTn: Tensor, k_BhDTn: Tensor, v_BhDTn: Tensor, mask_1Tn: Tensor | None) -> Tensor:
        """Attention for larger windows: one matrix product per head and window; the weights are never held."""
        h, t = q_BhDTn.shape[1], q_BhDTn.shape[3]
        # Windows go with the heads, not the batch: CUDA kernels take at most 65535 batch items.
        q_BmTD, k_BmTD, v_BmTD = (z.permute(0, 1, 4, 3, 2).flatten(1, 2) for z in (q_BhDTn, k_BhDTn, v_BhDTn))
        keep_1mTT = None
        if mask_1Tn is not None:
            keep_1mTT = ~mask_1Tn.transpose(1, 2).repeat(1, h, 1)[:, :, None].expand(-1, -1, t, -1)
        y_BmTD = F.scaled_dot_product_attention(q_BmTD, k_BmTD, v_BmTD, keep_1mTT, self._dropout, scale=self.scale)
        return y_BmTD.unflatten(1, (h, q_BhDTn.shape[4])).permute(0, 1, 4, 3, 2)

    def _lo_fi(self, q: Tensor, kv: Tensor) -> Tensor:
        """Attention of every position to the pooled map; (B, l D, H, W), (B, 2 l D, P, Q) -> (B, l D, H, W)."""
        batch, _, height, width = q.shape
        # Channels innermost in memory, or the CPU routine holds all N x M weights; its output has the layout of q.
        q_BlND = q.flatten(2).transpose(1, 2).contiguous().unflatten(2, (self.l_heads, self.head_dim)).transpose(1, 2)
        kv_BM2lD = kv.flatten(2).transpose(1, 2).contiguous().unflatten(2, (2, self.l_heads, self.head_dim))
        k_BlMD, v_BlMD = kv_BM2lD.permute(2, 0, 3, 1, 4).unbind(0)
        y_BlND = F.scaled_dot_product_attention(q_BlND, k_BlMD, v_BlMD, dropout_p=self._dropout, scale=self.scale)
        return y_BlND.transpose(1, 2).reshape(batch, height, width, self.l_dim).permute(0, 3, 1, 2)

    @property
    def _dropout(self) -> float:
        return self.attn_drop if self.training else 0.0
