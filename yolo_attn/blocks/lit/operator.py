"""LIT's mechanisms: deformable token merging (DTM), global attention with learned relative positions.

Paper   Pan et al., Less is More: Pay Less Attention in Vision Transformers, AAAI 2022,
        https://arxiv.org/abs/2105.14217, sections 3.2 and 3.3
Code    https://github.com/ziplab/LIT at 742e961, classification and detection. Ours differs:
        - DTM samples with grid_sample where theirs needs a CUDA extension: same numbers, several times faster on CPU
          than torchvision's deform_conv2d, any batch size, exportable. A sampling point exactly on a pixel centre has
          two one-sided slopes for its offset; theirs takes the right one, rounding decides here.
        - Odd maps keep their last row and column (rounding="ceil"); rounding="floor" drops them, as theirs does.
        - The table of relative positions is resized bicubically for maps of another size, as in their detection code.
Shapes  B batch, C channels, H W height and width, N = H W positions, h heads, D = C / h channels of a head, T taps of a
        patch, O = 2 T offsets, R S rows and columns of patches

    attn    proj(softmax(q k^T / sqrt(D) + P) v),  P_ij = table[y_i - y_j, x_i - x_j]          N x N per head
    DTM     gelu(bn(sum_t W_t x(p_t + o_t))),  o = conv_2x2,s2(x)        p_t: the four positions of a 2 x 2 patch
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.graph import attention
from ...layers import BatchNorm2d, Fusible, check_heads, check_least, pad_to
from ...registry import register

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
    watch={
        "conv_offset": "offset (dy, dx) of each tap of a 2x2 patch, in pixels of the map, taps row by row; B 8 H/2 W/2"
    },
)
class DTM(Fusible):
    """Deformable token merging: halves a map; each merged position chooses the four points it is computed from.

    It replaces a strided convolution. At the start all offsets are zero, so it is a 2x2 convolution of stride 2.

    Args:
        c1: Input channels.
        c2: Output channels, `c1` by default (the papers' networks double them).
        patch_size: Side of the merged patch, and so the stride; two numbers for height and width.
        rounding: How odd sizes are halved: "ceil" keeps the last row and column (completed with zeros); "floor" drops
            them, as the authors' code does (which needs a map of at least one patch).

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: Another `rounding`.
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn": "conv"}

    def __init__(
        self, c1: int, c2: int | None = None, patch_size: int | tuple[int, int] = 2, rounding: str = "ceil"
    ) -> None:
        super().__init__()
        if rounding not in ("ceil", "floor"):
            raise ValueError(f'{rounding=} must be "ceil" or "floor" (the authors\' numbers).')
        c2 = c2 or c1
        self.patch_size, self.rounding = pair(patch_size), rounding
        check_least(1, patch_size=min(self.patch_size))
        taps = self.patch_size[0] * self.patch_size[1]
        self.conv_offset = nn.Conv2d(c1, 2 * taps, self.patch_size, self.patch_size)
        self.conv = nn.Conv2d(c1 * taps, c2, 1)  # over the samples: channel c of tap t is channel c * taps + t
        self.bn: nn.Module = BatchNorm2d(c2)
        self.act = nn.GELU()
        for p in self.conv_offset.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """Sample each patch at its offset points and merge the samples."""
        if self.rounding == "ceil":
            x = pad_to(x, *self.patch_size)
        return self.act(self.bn(self.conv(self._sample(x, self.conv_offset(x)))))

    def _sample(self, x: Tensor, offset_BORS: Tensor) -> Tensor:
        """Bilinear samples of x at the patches' positions plus the offsets, 0 beyond the map; -> (B, C T, R, S)."""
        kh, kw = self.patch_size
        batch, channels, height, width = x.shape
        rows, columns = offset_BORS.shape[2:]
        # In float32: float16 cannot represent every coordinate of a large map.
        dy, dx = offset_BORS.float().reshape(batch, kh, kw, 2, rows, columns).unbind(3)  # B kh kw R S each
        row = dy + self._coordinates(rows, kh, x)[:, None, :, None]
        column = dx + self._coordinates(columns, kw, x)[None, :, None, :]
        # grid_sample's coordinates run from -1 to 1 between the outer edges of the map, not its outer pixel centres.
        grid = torch.stack(((2 * column + 1) / width - 1, (2 * row + 1) / height - 1), -1)
        grid = grid.reshape(batch, kh * kw * rows, columns, 2)
        samples = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return samples.to(x.dtype).reshape(batch, channels * kh * kw, rows, columns)

    @staticmethod
    def _coordinates(n: int, k: int, like: Tensor) -> Tensor:
        """Coordinate of tap t of patch i along one side: (k, n)."""
        taps = torch.arange(k, dtype=torch.float32, device=like.device)
        return taps[:, None] + k * torch.arange(n, dtype=torch.float32, device=like.device)


class RelativePosition(nn.Module):
    """A learned number per head for each distance between two positions, added to the attention's logits.

    Args:
        heads: Attention heads.
        resolution: Map size for which every distance has its own entry; the table is resized for other maps.

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
        p_hHWHW = p.reshape(-1, height, height, width, width).transpose(2, 3)  # H W of the query, H W of the key
        return p_hHWHW.reshape(-1, height * width, height * width)


class GlobalAttention(nn.Module):
    """Every position attends to every position, with a learned bias per distance; the cost is quadratic in N.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        resolution: Map size of the table of relative positions; None for none.
        qkv_bias: Bias in the query, key and value projections.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output.

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
        check_heads(c1, heads)
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
        qkv_BN3hD = self.qkv(x).flatten(2).transpose(1, 2).contiguous().unflatten(2, (3, self.heads, -1))
        q_BhND, k_BhND, v_BhND = qkv_BN3hD.permute(2, 0, 3, 1, 4).unbind(0)
        p_hNN = self.position(height, width).to(q_BhND.dtype) if self.position is not None else None
        drop = self.attn_drop if self.training else 0.0
        y_BhND = attention(q_BhND, k_BhND, v_BhND, p_hNN, drop, self.scale)
        y = y_BhND.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return self.proj_drop(self.proj(y))
