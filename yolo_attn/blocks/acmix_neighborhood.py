"""Attention over a sliding neighbourhood without a copy per neighbour: the inner loop of ACmix.

Shapes  B batch, h heads, D head channels, H W cells, P Q query cells (H W divided by the stride, rounded up),
        T query tiles, t cells along a tile's side, m cells along the patch of keys that a tile needs

The textbook way (unfold) copies every key and value k^2 times. Here a t x t tile of queries meets the one m x m patch
of keys that all of them share, m = (t - 1) stride + (k - 1) dilation + 1, as a matrix product; a constant mask keeps
each query to its own k x k neighbours.

Beyond the border the map is mirrored without repeating the edge. A map too small for that is mirrored again and again,
down to a single cell: i -> n - 1 - |i mod (2n - 2) - (n - 1)|.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 8  # query cells along a tile's side where the size of the map may not be looked at (trace, export, compile)


def mirrored(index: Tensor, size: int) -> Tensor:
    """Fold any integer index into [0, size) by reflection at both borders.

    Args:
        index: Integers of any shape, negative ones included.
        size: Length of the axis, at least 1; a traced size works too.
    """
    period = 2 * size - 2 + 1 // size  # a single cell has no period: 1 instead of 0
    return size - 1 - (index.remainder(period) - (size - 1)).abs()


def neighbor_mask(kernel: int, stride: int, dilation: int, tile: int = TILE) -> Tensor:
    """Which keys of its patch each query of a tile may see, bool (t*t, m*m)."""
    patch = torch.arange((tile - 1) * stride + (kernel - 1) * dilation + 1)
    offset = patch[None, :] - torch.arange(tile)[:, None] * stride
    near = (offset >= 0) & (offset <= (kernel - 1) * dilation) & (offset % dilation == 0)  # t m, along one axis
    return (near[:, None, :, None] & near[None, :, None, :]).reshape(tile * tile, -1)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """Neighbourhood attention in plain operations: any device, traceable, differentiable any number of times.

    Args:
        q: Scaled queries (B, h, D, P, Q).
        k: Keys (B, h, D, H, W).
        v: Values (B, h, D, H, W).
        mask: `neighbor_mask(kernel, stride, dilation)`.
        kernel: Neighbours along each axis, odd.
        stride: Cells from query to query.
        dilation: Cells from neighbour to neighbour.

    Returns:
        (B, h, D, P, Q).
    """
    t = TILE
    b, heads, d, rows, cols = q.shape
    ty, tx = (rows + t - 1) // t, (cols + t - 1) // t
    q = F.pad(q, (0, -cols % t, 0, -rows % t))
    q_BNTD = q.reshape(b, heads, d, ty, t, tx, t).permute(0, 1, 3, 5, 4, 6, 2).reshape(b, -1, t * t, d)
    k_BNMD = _patches(k, ty, tx, kernel, stride, dilation)
    v_BNMD = _patches(v, ty, tx, kernel, stride, dilation)
    y = F.scaled_dot_product_attention(q_BNTD, k_BNMD, v_BNMD, attn_mask=mask, scale=1.0)
    y = y.reshape(b, heads, ty, tx, t, t, d).permute(0, 1, 6, 2, 4, 3, 5)
    return y.reshape(b, heads, d, ty * t, tx * t)[..., :rows, :cols]


def _patches(x: Tensor, ty: int, tx: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """The patch of cells that each query tile sees, (B, h, D, H, W) -> (B, h*ty*tx, m*m, D)."""
    b, heads, d, height, width = x.shape
    m = (TILE - 1) * stride + (kernel - 1) * dilation + 1
    first = -(kernel // 2) * dilation
    step = TILE * stride
    patch = torch.arange(m, device=x.device) + first
    rows = mirrored(torch.arange(ty, device=x.device)[:, None] * step + patch, height).reshape(-1)
    cols = mirrored(torch.arange(tx, device=x.device)[:, None] * step + patch, width).reshape(-1)
    x = x.index_select(3, rows).index_select(4, cols)
    return x.reshape(b, heads, d, ty, m, tx, m).permute(0, 1, 3, 5, 4, 6, 2).reshape(b, -1, m * m, d)
