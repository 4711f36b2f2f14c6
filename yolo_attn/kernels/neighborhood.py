"""Attention over a sliding neighbourhood in tiles, without a copy of the keys per neighbour: the inner loop of ACmix.

The textbook way copies or visits every key and value K^2 times. Here a tile of t x t queries meets the one m x m patch
of keys that all of them share, m = (t - 1) stride + (K - 1) dilation + 1, as a matrix product T x M, of which each
query needs the K x K entries around it; a constant mask hides the others.

This file has the form in plain operations on all tiles at once, for any device; `neighborhood_cpu` works
in pieces that stay in the cache.

Shapes  B batch, h heads, D head channels, H W height and width, P Q queries along the axes (H W divided by the stride,
        rounded up), K neighbours along an axis, Y X query tiles along the axes, t queries along a tile's side, T = t^2,
        m positions along the side of the patch of keys that a tile sees, M = m^2, n = h Y X
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .slots import ANY_FLOAT, COMPILE, OTHER, kernel
from .window import Window, mirrored

TILE = 4  # queries along a tile's side: more would waste products, fewer would waste copies of the keys
CUDA_TILE = 8  # attention kernels for CUDA take 64 queries at a time


def recomputed_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """`tiled_attention` that saves nothing but its inputs for the backward pass."""
    return checkpoint(tiled_attention, qkv_BD3hHW, position_DHW, window, use_reentrant=False, preserve_rng_state=False)


@kernel("neighborhood_attention", OTHER, COMPILE, dtypes=ANY_FLOAT, autocast=True)
def tiled_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        position_DHW: Code of each position, subtracted from the keys.
        window: The neighbourhood.

    Returns:
        B h D P Q.
    """
    t, s = CUDA_TILE if qkv_BD3hHW.is_cuda else TILE, window.stride
    q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
    q = q[..., ::s, ::s] * q.shape[2] ** -0.5
    b, heads, d, rows, cols = q.shape
    y, x = (rows + t - 1) // t, (cols + t - 1) // t
    q = F.pad(q, (0, -cols % t, 0, -rows % t))
    q_BnTD = q.reshape(b, heads, d, y, t, x, t).permute(0, 1, 3, 5, 4, 6, 2).reshape(b, -1, t * t, d)
    k_BnMD, v_BnMD = _patches(k - position_DHW, y, x, t, window), _patches(v, y, x, t, window)
    out_BnTD = F.scaled_dot_product_attention(q_BnTD, k_BnMD, v_BnMD, attn_mask=window.mask(t, t, q.device), scale=1.0)
    out_BhDYtXt = out_BnTD.reshape(b, heads, y, x, t, t, d).permute(0, 1, 6, 2, 4, 3, 5)
    return out_BhDYtXt.reshape(b, heads, d, y * t, x * t)[..., :rows, :cols]


def _patches(x_BhDHW: Tensor, tiles_y: int, tiles_x: int, tile: int, window: Window) -> Tensor:
    """The patch of positions that each query tile sees, B n M D."""
    b, heads, d, height, width = x_BhDHW.shape
    m = window.patch(tile)
    patch = torch.arange(m, device=x_BhDHW.device) - window.border
    step = tile * window.stride
    rows = mirrored(torch.arange(tiles_y, device=x_BhDHW.device)[:, None] * step + patch, height).reshape(-1)
    cols = mirrored(torch.arange(tiles_x, device=x_BhDHW.device)[:, None] * step + patch, width).reshape(-1)
    # With the channels innermost, a position is copied in one go.
    x_BhHWD = x_BhDHW.permute(0, 1, 3, 4, 2)
    x_BhYmXmD = x_BhHWD.index_select(2, rows).index_select(3, cols).reshape(b, heads, tiles_y, m, tiles_x, m, d)
    return x_BhYmXmD.transpose(3, 4).reshape(b, -1, m * m, d)
