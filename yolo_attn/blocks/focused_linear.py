"""Focused linear attention (FLA): softmax-like sharpness at a cost linear in the number of positions.

Paper   Han et al., FLatten Transformer: Vision Transformer using Focused Linear Attention, ICCV 2023,
        https://arxiv.org/abs/2308.00442, section 4
Code    https://github.com/LeapLabTHU/FLatten-Transformer at abdb115, models/flatten_swin.py and flatten_pvt.py. Ours
        differs: any height and width (their position code fixes the size; here it is an option and is resized); finite
        in float16 (they cube before they normalise, which overflows; see `focus`); one convolution serves all heads.
Shapes  B batch, C channels, H W height and width, h heads, D = C / h channels of a head, N = H W positions, M keys and
        values (N unless `sr_ratio` > 1)

    q, k, v = conv1x1(x)                                 B C N, B C M, B C M;  k += position code, if there is one
    t(u)    = (relu(u) + 1e-6) / softplus(scale)         per channel
    f(u)    = ||t|| / ||t^p|| * t^p                      focusing factor p = 3; norms over all C channels of a position
    y_n     = f(q_n) (sum_m f(k_m)^T v_m) / (f(q_n) sum_m f(k_m)^T)           per head: D x D sums, no N x M matrix
    out     = conv1x1(y + dwconv5x5(v))                  the depthwise term restores the rank that y lacks
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..layers import LayerNorm2d, check_heads, pad_to
from ..registry import register


@register(
    paper="https://arxiv.org/abs/2308.00442",
    title="FLatten Transformer: Vision Transformer using Focused Linear Attention, ICCV 2023",
    code="https://github.com/LeapLabTHU/FLatten-Transformer",
    watch={"dwc": "the depthwise term: values around each position, per head (B * heads, D, H, W)"},
    row="FLA",
    places={"P4": {}},
)
class FocusedLinearAttention(nn.Module):
    """Attends over the whole map at linear cost; for large maps (P3, P4), where softmax attention is too expensive.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        focusing_factor: Power that sharpens queries and keys.
        kernel_size: Odd side of the depthwise convolution of the values.
        qkv_bias: Biases in the projections to queries, keys and values.
        sr_ratio: Side of the squares of positions that are reduced to one key and value; 1 reduces nothing.
        position: Height and width, in keys, of a learned position code added to the keys; None for no code. At maps of
            another size the code is resized.
        resize: How the position code and reduced values reach another size: over the "map" (bilinear), or along the
            row-major "sequence" (linear), as the authors do with reduced values.
        reduce_edges: With `sr_ratio` > 1, zero-pad the map so that positions beyond the last whole square count too;
            False drops them, as the authors' strided convolution does.
        proj_drop: Dropout rate of the output.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: Heads do not divide the channels, the kernel is even, or `resize` is unknown.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        focusing_factor: float = 3,
        kernel_size: int = 5,
        qkv_bias: bool = True,
        sr_ratio: int = 1,
        position: Sequence[int] | None = None,
        resize: str = "map",
        reduce_edges: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(c1, heads)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"{kernel_size=} must be odd, so that the convolution keeps height and width")
        if resize not in ("map", "sequence"):
            raise ValueError(f"{resize=} must be 'map' or 'sequence'")
        if sr_ratio < 1:
            raise ValueError(f"{sr_ratio=} must be at least 1; 1 keeps every key")
        self.heads = heads
        self.focusing_factor = focusing_factor
        self.sr_ratio = sr_ratio
        self.resize = resize
        self.reduce_edges = reduce_edges
        if sr_ratio > 1:
            self.q = nn.Conv2d(c1, c1, 1, bias=qkv_bias)
            self.kv = nn.Conv2d(c1, 2 * c1, 1, bias=qkv_bias)
            self.sr = nn.Conv2d(c1, c1, sr_ratio, sr_ratio)
            self.norm = LayerNorm2d(c1)
        else:
            self.qkv = nn.Conv2d(c1, 3 * c1, 1, bias=qkv_bias)
        self.scale = nn.Parameter(torch.zeros(1, c1, 1, 1))
        self.position = nn.Parameter(torch.zeros(1, c1, *position)) if position is not None else None
        dim = c1 // heads
        self.dwc = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.proj = nn.Conv2d(c1, c1, 1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum keys times values once, then multiply every query with the sum."""
        b, c, h, w = x.shape
        q, k, v = self.project(x)
        if self.position is not None:
            k = k + self.resized(self.position, k)
        y = self.attend(q, k, v).reshape(b, c, h, w)
        if self.sr_ratio > 1:
            v = self.resized(v, x)
        local = self.dwc(v.reshape(b * self.heads, c // self.heads, h, w)).reshape(b, c, h, w)
        return self.proj_drop(self.proj(y + local))

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, C, H, W) and, possibly from a reduced map, keys and values."""
        if self.sr_ratio == 1:
            q, k, v = self.qkv(x).chunk(3, 1)
            return q, k, v
        reduced = pad_to(x, self.sr_ratio, self.sr_ratio) if self.reduce_edges else x
        k, v = self.kv(self.norm(self.sr(reduced))).chunk(2, 1)
        return self.q(x), k, v

    def resized(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`t` at the height and width of `like`; exactly `t` if it has them already."""
        if self.resize == "map":
            return F.interpolate(t, size=like.shape[2:], mode="bilinear", align_corners=False)
        h, w = like.shape[2:]
        return F.interpolate(t.flatten(2), size=h * w, mode="linear", align_corners=False).unflatten(2, (h, w))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Linear attention of queries (B, C, H, W) over keys and values -> (B, h, D, N)."""
        q_BhDN, q_size_Bh1N = self.focus(q)
        k_BhDM, k_size_Bh1M = self.focus(k)
        v_BhDM = v.reshape(v.shape[0], self.heads, v.shape[1] // self.heads, v.shape[2] * v.shape[3])
        # Factors that all keys of a head, or one query, have in common cancel, except in the 1e-6 that prevents 0 / 0.
        largest_Bh11 = k_size_Bh1M.amax(3, keepdim=True).clamp_min(1e-30)
        k_BhDM = k_BhDM * (k_size_Bh1M / largest_Bh11)
        root = k_BhDM.shape[3] ** -0.5  # half of the mean on either side keeps both factors within float16's range
        kv_BhDD = (v_BhDM * root) @ (k_BhDM * root).to(v.dtype).transpose(2, 3)
        total_Bh1N = (q_BhDN * k_BhDM.mean(3, keepdim=True)).sum(2, keepdim=True)
        total_Bh1N = total_Bh1N + 1e-6 / (q_size_Bh1N * largest_Bh11).clamp_min(1e-16)
        y_BhDN = kv_BhDD @ q_BhDN.to(v.dtype)
        return (y_BhDN / total_Bh1N.clamp_min(torch.finfo(v.dtype).tiny)).to(v.dtype)

    def focus(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The focused feature f(u) of each position and head as direction and size, in at least float32.

        f = ||t|| / ||t^p|| * t^p would overflow float16 twice: t is divided by its largest channel in the head before
        the power, which leaves directions within [0, 1]; the divisor becomes part of the size.

        Returns:
            (B, h, D, N) and (B, h, 1, N), with f(u) = direction * size.
        """
        u = u.to(torch.promote_types(u.dtype, torch.float32))
        t = (F.relu(u) + 1e-6) / F.softplus(self.scale.to(u.dtype))
        t_BhDN = t.reshape(t.shape[0], self.heads, t.shape[1] // self.heads, t.shape[2] * t.shape[3])
        peak_Bh1N = t_BhDN.amax(2, keepdim=True)
        top_B11N = peak_Bh1N.amax(1, keepdim=True)
        unit_BhDN = t_BhDN / peak_Bh1N
        direction_BhDN = unit_BhDN**self.focusing_factor
        share_Bh1N = peak_Bh1N / top_B11N
        norm = top_B11N * (share_Bh1N.square() * unit_BhDN.square().sum(2, keepdim=True)).sum(1, keepdim=True).sqrt()
        power_Bh1N = share_Bh1N**self.focusing_factor
        squares_Bh1N = direction_BhDN.square().sum(2, keepdim=True)
        power_norm = (power_Bh1N.square() * squares_Bh1N).sum(1, keepdim=True).sqrt()
        return direction_BhDN, norm * power_Bh1N / power_norm

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output."""
        return [self.proj]
