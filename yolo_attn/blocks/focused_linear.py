"""Focused linear attention (FLA): softmax-like sharpness at a cost linear in the number of cells.

Paper   Han et al., FLatten Transformer: Vision Transformer using Focused Linear Attention, ICCV 2023,
        https://arxiv.org/abs/2308.00442, section 4
Code    https://github.com/LeapLabTHU/FLatten-Transformer at abdb115, models/flatten_swin.py and flatten_pvt.py. Ours
        differs: any height and width (their position code fixes the size; here it is an option and is resized); finite
        in float16 (they cube before they normalise, which overflows; see `focus`); one convolution serves all heads.
Shapes  B batch, C channels, h heads, d = C / h, N cells, M cells of keys and values (N unless `sr_ratio` > 1)

    q, k, v = conv1x1(x)                                 B C N, B C M, B C M;  k += position code, where wanted
    t(u)    = (relu(u) + 1e-6) / softplus(scale)         per channel
    f(u)    = ||t|| / ||t^p|| * t^p                      focusing factor p = 3; norms over all C channels of a cell
    y_n     = f(q_n) (sum_m f(k_m)^T v_m) / (f(q_n) sum_m f(k_m)^T)           per head: d x d sums, no N x M matrix
    out     = conv1x1(y + dwconv5x5(v))                  the depthwise term restores the rank that y lacks
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..layers import LayerNorm2d
from ..registry import register


@register(
    paper="https://arxiv.org/abs/2308.00442",
    title="FLatten Transformer: Vision Transformer using Focused Linear Attention, ICCV 2023",
    code="https://github.com/LeapLabTHU/FLatten-Transformer",
    watch={"dwc": "the depthwise term: values of each cell's surroundings, per head (B * heads, d, H, W)"},
    row="FLA",
    places={"P4": {}},
)
class FocusedLinearAttention(nn.Module):
    """Attends over the whole map at linear cost; for large maps (P3, P4), where softmax attention is too dear.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        focusing_factor: Power that sharpens queries and keys.
        kernel_size: Odd side of the depthwise convolution of the values.
        qkv_bias: Biases in the projections to queries, keys and values.
        sr_ratio: Side of the blocks of cells that are reduced to one key and value; 1 reduces nothing.
        position: Height and width, in keys, of a learned position code added to the keys; None for no code. At maps of
            another size the code is resized.
        resize: How the position code and reduced values reach another size: over the "map" (bilinear), or along the
            row-major "sequence" (linear), as the authors do with reduced values.
        reduce_edges: With `sr_ratio` > 1, zero-pad the map so that cells beyond the last whole block count too; False
            drops them, as the authors' strided convolution does.
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
        if heads < 1 or c1 % heads:
            raise ValueError(f"{c1=} must be a multiple of {heads=}; choose heads among the divisors of the channels")
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
        d = c1 // heads
        self.dwc = nn.Conv2d(d, d, kernel_size, padding=kernel_size // 2, groups=d)
        self.proj = nn.Conv2d(c1, c1, 1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum keys times values once, then let every query read the sum."""
        b, c, h, w = x.shape
        q, k, v = self.project(x)
        if self.position is not None:
            k = k + self.resized(self.position, k)
        y_bchw = self.attend(q, k, v).reshape(b, c, h, w)
        if self.sr_ratio > 1:
            v = self.resized(v, x)
        local = self.dwc(v.reshape(b * self.heads, c // self.heads, h, w)).reshape(b, c, h, w)
        return self.proj_drop(self.proj(y_bchw + local))

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, C, H, W) and, possibly from a reduced map, keys and values."""
        if self.sr_ratio == 1:
            q, k, v = self.qkv(x).chunk(3, 1)
            return q, k, v
        reduced = x
        if self.reduce_edges:
            reduced = F.pad(x, (0, -x.shape[3] % self.sr_ratio, 0, -x.shape[2] % self.sr_ratio))
        k, v = self.kv(self.norm(self.sr(reduced))).chunk(2, 1)
        return self.q(x), k, v

    def resized(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`t` at the height and width of `like`; exactly `t` where it has them already."""
        if self.resize == "map":
            return F.interpolate(t, size=like.shape[2:], mode="bilinear", align_corners=False)
        h, w = like.shape[2:]
        return F.interpolate(t.flatten(2), size=h * w, mode="linear", align_corners=False).unflatten(2, (h, w))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Linear attention of queries (B, C, H, W) over keys and values -> (B, h, d, N)."""
        f_q, size_q = self.focus(q)  # B h d N, B h 1 N
        f_k, size_k = self.focus(k)
        v_bhdm = v.reshape(v.shape[0], self.heads, v.shape[1] // self.heads, -1)
        # Common factors of all keys of a head, or of one query, cancel, save in the 1e-6 that keeps 0 / 0 away.
        largest = size_k.amax(3, keepdim=True).clamp_min(1e-30)
        f_k = f_k * (size_k / largest)
        root = f_k.shape[3] ** -0.5  # half of the mean on either side: neither factor leaves float16's range
        kv_bhdd = (v_bhdm * root) @ (f_k * root).to(v.dtype).transpose(2, 3)
        norm = (f_q * f_k.mean(3, keepdim=True)).sum(2, keepdim=True) + 1e-6 / (size_q * largest).clamp_min(1e-16)
        y = kv_bhdd @ f_q.to(v.dtype)
        return (y / norm.clamp_min(torch.finfo(v.dtype).tiny)).to(v.dtype)

    def focus(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The focused feature f(u) of each cell and head as direction and size, in at least float32.

        f = ||t|| / ||t^p|| * t^p would overflow float16 twice over: t is divided by its largest channel in the head
        before the power, which leaves directions within [0, 1], and what was divided out goes to the size.

        Returns:
            (B, h, d, N) and (B, h, 1, N), with f(u) = direction * size.
        """
        u = u.to(torch.promote_types(u.dtype, torch.float32))
        t = (F.relu(u) + 1e-6) / F.softplus(self.scale.to(u.dtype))
        t = t.reshape(u.shape[0], self.heads, u.shape[1] // self.heads, -1)
        peak = t.amax(2, keepdim=True)  # of the head
        top = peak.amax(1, keepdim=True)  # of the cell
        unit = t / peak
        direction = unit**self.focusing_factor
        share = peak / top
        t_norm = top * (share.square() * unit.square().sum(2, keepdim=True)).sum(1, keepdim=True).sqrt()
        power = share**self.focusing_factor
        power_norm = (power.square() * direction.square().sum(2, keepdim=True)).sum(1, keepdim=True).sqrt()
        return direction, t_norm * power / power_norm

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output."""
        return [self.proj]
