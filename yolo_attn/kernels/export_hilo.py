"""HiLo attention in exported graphs: positions of windows as channels, masks only where windows are incomplete.

Shapes  B batch, C channels, D channels of a head, h Hi-Fi heads, l Lo-Fi heads, H W height and width, Y X the same
        rounded up to whole windows, s side of a window, T = s s positions of a window, P Q windows along the axes,
        n = P Q, m = h n, N = H W, M = positions of the pooled map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv
from .graph import MASKED, attention_of_maps, convolve, convolve_in_parts, is_known, shape_of, shuffle, unshuffle
from .slots import ANY_FLOAT, EXPORT, kernel


class HiLoLayers(NamedTuple):
    """The layers and settings of a HiLo attention; `h_proj` is None without Hi-Fi heads, `l_kv` without Lo-Fi heads."""

    qkv: Conv
    h_proj: Conv | None
    l_kv: Conv | None
    l_proj: Conv | None
    h_heads: int
    l_heads: int
    head_dim: int
    scale: float
    window: int
    masked: bool


@kernel("hilo", EXPORT, dtypes=ANY_FLOAT, autocast=True)
def hilo(x_BCHW: Tensor, layers: HiLoLayers) -> Tensor:
    """The output before dropout, B C H W.

    Args:
        x_BCHW: The input.
        layers: Layers and settings.
    """
    s, d = layers.window, layers.head_dim
    b, _, height, width = shape_of(x_BCHW)
    whole = is_known(height, width) and not height % s and not width % s
    x_BCYX, inside = x_BCHW, None
    if not whole:
        x_BCYX = _to_whole_windows(x_BCHW, s)
        if layers.masked:
            inside = F.pad(_ones(x_BCHW, height, width), (0, -width % s, 0, -height % s))
    sizes = [n * d for n in (layers.h_heads, layers.h_heads, layers.h_heads, layers.l_heads) if n]
    maps = convolve_in_parts(x_BCYX, layers.qkv, sizes)
    parts = []
    if layers.h_proj:
        parts.append(convolve(_crop(_hi_fi(maps[:3], inside, layers), height, width, whole), layers.h_proj))
    if layers.l_kv and layers.l_proj:
        pooled = x_BCYX
        if s > 1:
            pooled = F.avg_pool2d(x_BCYX, s)
            if inside is not None:
                pooled = pooled / F.avg_pool2d(inside, s)
        kv = convolve(pooled, layers.l_kv)
        q_BlDN = _crop(maps[-1], height, width, whole).reshape(b, layers.l_heads, d, -1)
        k_BlDM, v_BlDM = kv.reshape(b, 2 * layers.l_heads, d, -1).chunk(2, 1)
        y_BlDN = attention_of_maps(q_BlDN, k_BlDM, v_BlDM, layers.scale)
        parts.append(convolve(y_BlDN.reshape(b, layers.l_heads * d, height, width), layers.l_proj))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _hi_fi(qkv_BCYX: Sequence[Tensor], inside_11YX: Tensor | None, layers: HiLoLayers) -> Tensor:
    """Attention of queries to keys and values, B hD Y X each, within windows; B hD Y X."""
    s, h, d = layers.window, layers.h_heads, layers.head_dim
    b, _, rows, columns = shape_of(qkv_BCYX[0])
    q, k, v = (unshuffle(z, s).reshape(b, h * d, s * s, -1) for z in qkv_BCYX)  # B hD T n each
    mask = None
    if inside_11YX is not None:
        mask = (1 - unshuffle(inside_11YX, s).reshape(1, 1, s * s, -1)) * MASKED
    attend = _attend_by_position if s == 2 else _attend_by_window
    y_BCPQ = attend(q * layers.scale, k, v, mask, h, d).reshape(b, h * d * s * s, rows // s, columns // s)
    return shuffle(y_BCPQ, s)


def _attend_by_position(q: Tensor, k: Tensor, v: Tensor, mask_11Tn: Tensor | None, h: int, d: int) -> Tensor:
    """One query of each window at a time, elementwise over the windows; B hD T n each, and so is the result."""
    b, _, t, n = shape_of(q)
    outputs = []
    for i in range(t):
        products = (q[:, :, i : i + 1] * k).reshape(b, h, d, t * n)
        logits_BhTn = products.sum(2).reshape(b, h, t, n)
        if mask_11Tn is not None:
            logits_BhTn = logits_BhTn + mask_11Tn
        weights_Bh1Tn = logits_BhTn.softmax(2).reshape(b, h, 1, t * n)
        products = (weights_Bh1Tn * v.reshape(b, h, d, t * n)).reshape(b, h * d, t, n)
        outputs.append(products.sum(2, keepdim=True))
    return torch.cat(outputs, 2)


def _attend_by_window(q: Tensor, k: Tensor, v: Tensor, mask_11Tn: Tensor | None, h: int, d: int) -> Tensor:
    """One matrix product per head and window; B hD T n each, and so is the result."""
    b, _, t, n = shape_of(q)
    q_BmDT, k_BmDT, v_BmDT = (z.reshape(b, h, d * t, n).transpose(2, 3).reshape(b, -1, d, t) for z in (q, k, v))
    logits_BmTT = q_BmDT.transpose(2, 3) @ k_BmDT
    if mask_11Tn is not None:
        mask_1n1T = mask_11Tn.reshape(1, t, n).transpose(1, 2).reshape(1, n, 1, t)
        logits_BmTT = logits_BmTT + torch.cat([mask_1n1T] * h, 1)
    y_BmDT = v_BmDT @ logits_BmTT.softmax(-1).transpose(2, 3)
    return y_BmDT.reshape(b, h, n, d * t).transpose(2, 3).reshape(b, h * d, t, n)


def _to_whole_windows(x_BCHW: Tensor, s: int) -> Tensor:
    """Zeros at the bottom and right up to multiples of `s`, B C Y X."""
    b, c, height, width = shape_of(x_BCHW)
    rows, columns = -height % s, -width % s
    if not is_known(height, width):
        return F.pad(x_BCHW, (0, columns, 0, rows))
    # Concatenated: MNN 3.6 merges a padding with the 1 x 1 convolution after it, and reads beyond the map.
    if rows:
        x_BCHW = torch.cat([x_BCHW, x_BCHW.new_zeros(b, c, rows, width)], 2)
    return torch.cat([x_BCHW, x_BCHW.new_zeros(b, c, height + rows, columns)], 3) if columns else x_BCHW


def _ones(like_BCHW: Tensor, height: Any, width: Any) -> Tensor:
    """Ones, 1 1 H W; a constant where the size is known."""
    if is_known(height, width):
        return torch.ones(1, 1, height, width, dtype=like_BCHW.dtype, device=like_BCHW.device)
    return torch.ones_like(like_BCHW[:1, :1])


def _crop(x_BCYX: Tensor, height: Any, width: Any, whole: bool) -> Tensor:
    return x_BCYX if whole else x_BCYX[:, :, :height, :width]
