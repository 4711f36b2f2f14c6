"""LIT: no attention on large maps, global attention on small ones, deformable merging in between; nets in `lit_net`.

Paper   Pan et al., Less is More: Pay Less Attention in Vision Transformers, AAAI 2022,
        https://arxiv.org/abs/2105.14217, sections 3.2 and 3.3
Code    https://github.com/ziplab/LIT at 742e961, classification and detection. Ours differs:
        - Deformable token merging samples with grid_sample where theirs needs a CUDA extension: same numbers, several
          times faster on CPU than torchvision's deform_conv2d, any batch size, exportable. A point exactly on a cell
          has two one-sided slopes for its offset; theirs takes the right one, rounding decides here.
        - Odd maps keep their last row and column (rounding="ceil"); rounding="floor" drops them, as theirs does.
        - The table of relative positions is resized bicubically for maps of another size, as in their detection code.
Shapes  B batch, C channels, H W height and width in cells, N = H*W, h heads of d = C/h channels, t taps of a patch

    MLP block    x <- x + W_2 gelu(W_1 ln(x))                                    no mixing between cells
    block        x <- x + attn(ln(x));  x <- x + W_2 gelu(W_1 ln(x))
    attn         proj(softmax(q k^T / sqrt(d) + P) v),  P_ij = table[y_i - y_j, x_i - x_j]     N x N per head
    DTM          gelu(bn(sum_t W_t x(p_t + o_t))),  o = conv_2x2,s2(x)           p_t: the four cells of a 2 x 2 patch
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import BatchNorm2d, fold_batchnorm
from ...registry import register
from ..litv2.operator import pad_to

LIT: dict[str, Any] = {
    "paper": "https://arxiv.org/abs/2105.14217",
    "title": "Less is More: Pay Less Attention in Vision Transformers, AAAI 2022",
    "code": "https://github.com/ziplab/LIT",
}


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width from one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


@register(
    **LIT,
    stride=2,
    watch={"conv_offset": "where each tap of a 2x2 patch looks: its (dy, dx) in cells, taps row by row; B 8 H/2 W/2"},
)
class DTM(nn.Module):
    """Deformable token merging: halves a map, each merged cell choosing the four points it is made of.

    It replaces a strided convolution. At the start every point is its own cell, so it is a 2x2 convolution of stride 2.

    Args:
        c1: Input channels.
        c2: Output channels, `c1` by default (the papers' networks double them).
        patch_size: Side of the patch that is merged, so also the stride; two numbers for height and width.
        rounding: What an odd map's size becomes: "ceil", the last row and column count and nothing lies beyond them;
            "floor", they are left out, as in the authors' code (which needs a map of at least one patch).

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: `rounding` is another word.
    """

    def __init__(
        self, c1: int, c2: int | None = None, patch_size: int | tuple[int, int] = 2, rounding: str = "ceil"
    ) -> None:
        super().__init__()
        if rounding not in ("ceil", "floor"):
            raise ValueError(f'{rounding=} must be "ceil" or "floor" (the authors\' numbers).')
        c2 = c2 or c1
        self.patch_size, self.rounding = pair(patch_size), rounding
        taps = self.patch_size[0] * self.patch_size[1]
        self.conv_offset = nn.Conv2d(c1, 2 * taps, self.patch_size, self.patch_size)
        self.conv = nn.Conv2d(c1 * taps, c2, 1)  # over the samples: channel c of tap t is channel c * taps + t
        self.bn: nn.Module = BatchNorm2d(c2)
        self.act = nn.GELU()
        for p in self.conv_offset.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """Sample each patch at its shifted points and merge the samples."""
        if self.rounding == "ceil":
            x = pad_to(x, *self.patch_size)
        return self.act(self.bn(self.conv(self._sample(x, self.conv_offset(x)))))

    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution over the samples."""
        if isinstance(self.bn, BatchNorm2d):
            fold_batchnorm(self.conv, self.bn)
            self.bn = nn.Identity()

    def _sample(self, x: Tensor, offset: Tensor) -> Tensor:
        """Bilinear samples of x at the patches' cells plus `offset`, 0 beyond the map; -> (B, C*t, rows, columns)."""
        kh, kw = self.patch_size
        batch, channels, height, width = x.shape
        rows, columns = offset.shape[2:]
        # In float32: a float16 cannot even number the cells of a large map.
        dy, dx = offset.float().reshape(batch, kh, kw, 2, rows, columns).unbind(3)  # B kh kw rows columns
        y = dy + self._cells(rows, kh, x)[:, None, :, None]
        x_ = dx + self._cells(columns, kw, x)[None, :, None, :]
        # grid_sample counts from -1 at the map's one edge to 1 at its other, a cell's centre in its middle.
        grid = torch.stack(((2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1), -1)
        grid = grid.reshape(batch, kh * kw * rows, columns, 2)
        samples = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return samples.to(x.dtype).reshape(batch, channels * kh * kw, rows, columns)

    @staticmethod
    def _cells(n: int, k: int, like: Tensor) -> Tensor:
        """Coordinate of tap t of patch i along one side: (k, n)."""
        taps = torch.arange(k, dtype=torch.float32, device=like.device)
        return taps[:, None] + k * torch.arange(n, dtype=torch.float32, device=like.device)


class RelativePosition(nn.Module):
    """A learned number per head for each distance between two cells, added to the attention's logits.

    Args:
        heads: Attention heads.
        resolution: Map size for which each distance has an entry of its own; the table is resized for other maps.

    Shape:
        height, width -> (heads, height*width, height*width); entry [h, i, j] belongs to query i and key j.
    """

    def __init__(self, heads: int, resolution: int | tuple[int, int]) -> None:
        super().__init__()
        height, width = pair(resolution)
        # Its name says bias, so that optimisers leave it out of the weight decay, as the authors do.
        self.table_bias = nn.Parameter(torch.empty(heads, 2 * height - 1, 2 * width - 1))
        nn.init.trunc_normal_(self.table_bias, std=0.02)

    def forward(self, height: int, width: int) -> Tensor:
        """The entries for a map of this size."""
        table: Tensor = self.table_bias
        size = (2 * height - 1, 2 * width - 1)
        if torch.jit.is_tracing() or size != tuple(table.shape[1:]):
            table = F.interpolate(table[None].float(), size=size, mode="bicubic")[0].to(table.dtype)
        y = torch.arange(height, device=table.device)
        x = torch.arange(width, device=table.device)
        dy, dx = y[:, None] - y + height - 1, x[:, None] - x + width - 1
        p = table.index_select(1, dy.flatten()).index_select(2, dx.flatten())
        p = p.reshape(-1, height, height, width, width).transpose(2, 3)  # h, H W of the query, H W of the key
        return p.reshape(-1, height * width, height * width)


class GlobalAttention(nn.Module):
    """Every cell attends to every cell, with a learned bias per distance; cost grows with the square of the cells.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        resolution: Map size of the table of relative positions; None for none.
        qkv_bias: Bias in the query, key and value projections.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        attn_drop: Dropout on attention weights.
        proj_drop: Dropout on the output.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        resolution: int | tuple[int, int] | None = 20,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or c1 % heads:
            raise ValueError(f"{c1=} must be a multiple of {heads=}; choose heads that divide the channels.")
        if resolution is not None and min(pair(resolution)) < 1:
            raise ValueError(f"{resolution=} is a map's height and width, each at least 1, or None for no positions.")
        if qk_scale is not None and qk_scale <= 0:
            raise ValueError(f"{qk_scale=} must be positive; None means (c1 / heads) ** -0.5.")
        self.heads, self.attn_drop = heads, attn_drop
        self.scale = qk_scale if qk_scale is not None else (c1 // heads) ** -0.5
        self.qkv = nn.Conv2d(c1, 3 * c1, 1, bias=qkv_bias)
        self.position = RelativePosition(heads, resolution) if resolution is not None else None
        self.proj = nn.Conv2d(c1, c1, 1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over the whole map."""
        batch, channels, height, width = x.shape
        # Channels innermost in memory, for the CPU kernel that keeps no N x N weights.
        qkv = self.qkv(x).flatten(2).transpose(1, 2).contiguous().unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B h N d
        p = self.position(height, width).to(q.dtype) if self.position is not None else None
        drop = self.attn_drop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, p, drop, scale=self.scale)
        y = y.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return self.proj_drop(self.proj(y))
