"""ACmix in exported graphs: neighbourhoods as tiles.

A tile of t x t queries, t at least the border of the neighbourhood, sees positions of its own tile of keys and of the
eight around it. Nine shifted slices of the map of tiles, side by side, hold the keys of all tiles; a constant mask
hides those outside each query's K x K window. Where the runtime has a gather, it copies the exact patch that a tile
sees, which is faster: no copies by slices, and fewer keys.

Shapes  B batch, D channels of a head, h heads, C = D h, H W height and width, P Q queries along the axes (H W divided
        by the stride, rounded up), K neighbours along an axis, t queries along a tile's side, T = t^2, u = t stride
        keys along a tile's side, U = u^2, Y X tiles along the axes, n = h Y X, M = 9 U or positions of a patch,
        N = H W, O = P Q, j = 3 h, E = U D
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv
from .graph import FLOOR, MASKED, constant, convolve, has_gather, is_known, shape_of, unshuffle
from .slots import ANY_FLOAT, EXPORT, kernel
from .window import Window, mirror_pad

TILE = 4  # side of a tile where its patch of keys is gathered


class ACmixLayers(NamedTuple):
    """The layers and settings of an ACmix; `fc` is None where it is folded into `dep_conv`."""

    qkv: Conv
    conv_p: Conv
    fc: Conv | None
    dep_conv: Conv
    rate_att: Tensor
    rate_conv: Tensor
    heads: int
    head_dim: int
    window: Window


@kernel("acmix", EXPORT, dtypes=ANY_FLOAT, autocast=True)
def acmix(x_BCHW: Tensor, place_12HW: Tensor, layers: ACmixLayers) -> Tensor:
    """Attention and convolution from one projection, B C P Q.

    Args:
        x_BCHW: The input.
        place_12HW: Coordinates of the positions.
        layers: Layers and settings.
    """
    h, d = layers.heads, layers.head_dim
    qkv = convolve(x_BCHW, layers.qkv)  # channels ordered (D, 3, h)
    b, _, height, width = shape_of(qkv)
    if has_gather() and is_known(height, width):
        position_11ND = convolve(place_12HW, layers.conv_p).reshape(1, 1, d, -1).transpose(2, 3)
        qkv_BjND = qkv.reshape(b, d, 3 * h, -1).permute(0, 2, 3, 1)
        att_BCPQ = _attend_by_gather(qkv_BjND, position_11ND, height, width, layers.window)
        return layers.rate_att * att_BCPQ + _shifted_conv(qkv, layers)
    position_11DN = convolve(place_12HW, layers.conv_p).reshape(1, 1, d, -1)
    qkv_BjDN = qkv.reshape(b, d, 3 * h, -1).transpose(1, 2)
    q, k, v = qkv_BjDN[:, :h] * d**-0.5, qkv_BjDN[:, h : 2 * h] - position_11DN, qkv_BjDN[:, 2 * h :]
    q, k, v = (z.reshape(b, h * d, height, width) for z in (q, k, v))
    att_BCPQ = _attend(q, k, v, layers)
    return layers.rate_att * att_BCPQ + _shifted_conv(qkv, layers)


def _attend(q: Tensor, k: Tensor, v: Tensor, layers: ACmixLayers) -> Tensor:
    """Attend over each query's neighbours, B C P Q, from q scaled, k and v, B C H W each."""
    h, window = layers.heads, layers.window
    s = window.stride
    b, c, height, width = shape_of(q)
    t = max(-(-window.border // s), 1)
    if s > 1:
        q = q[:, :, ::s, ::s]
    rows, columns = (height + s - 1) // s, (width + s - 1) // s
    y, x = (rows + t - 1) // t, (columns + t - 1) // t
    q_BnTD = _tiles(F.pad(q, (0, x * t - columns, 0, y * t - rows)), h, t).reshape(b, h * y * x, t * t, -1)
    k_BnMD, v_BnMD = (_neighborhoods(z, h, t * s, y, x, window.border) for z in (k, v))
    y_BnTD = _masked_attention(q_BnTD, k_BnMD, v_BnMD, _mask(t, window))
    y_BhDTn = y_BnTD.reshape(b, h, y * x, t * t, c // h).permute(0, 1, 4, 3, 2)
    y_BCYX = y_BhDTn.reshape(b, c * t * t, y, x)
    return F.pixel_shuffle(y_BCYX, t)[:, :, :rows, :columns]


def _attend_by_gather(qkv_BjND: Tensor, position_11ND: Tensor, height: int, width: int, window: Window) -> Tensor:
    """`_attend` with patches of keys that fit the tiles, copied by constant indices.

    One head after the other: its patches and weights stay in a cache between the operations.
    """
    b, j, _, d = shape_of(qkv_BjND)
    h = j // 3
    s, t, m = window.stride, TILE, window.patch(TILE)
    rows, columns = -(-height // s), -(-width // s)
    tiles = [(y, x) for y in range(0, rows, t) for x in range(0, columns, t)]

    def index(positions: Iterable[tuple[int, int]], row: int) -> Tensor:
        return torch.tensor([y * row + x for y, x in positions], device=qkv_BjND.device)

    near = range(-window.border, m - window.border)
    keys = ((_mirrored(y * s + i, height), _mirrored(x * s + j, width)) for y, x in tiles for i in near for j in near)
    inner = range(t)
    queries = [(y + i, x + j) for y, x in tiles for i in inner for j in inner]
    inside = ((min(y * s, height - 1), min(x * s, width - 1)) for y, x in queries)  # queries beyond the map repeat one
    place = {position: i for i, position in enumerate(queries)}
    out = torch.tensor([place[y, x] for y in range(rows) for x in range(columns)], device=qkv_BjND.device)

    key_index, query_index = index(keys, width), index(inside, width)
    mask = [[0.0 if seen else MASKED for seen in query] for query in _visible(t, window)]
    heads = []
    for i in range(h):
        q, k, v = (qkv_BjND[:, n : n + 1] for n in (i, i + h, i + 2 * h))
        q_BnTD = q.index_select(2, query_index).reshape(b, -1, t * t, d) * d**-0.5
        k_BnMD, v_BnMD = (z.index_select(2, key_index).reshape(b, -1, m * m, d) for z in (k - position_11ND, v))
        y_B1OD = _masked_attention(q_BnTD, k_BnMD, v_BnMD, mask).reshape(b, 1, -1, d)
        heads.append(y_B1OD.index_select(2, out))
    return torch.cat(heads, 1).transpose(2, 3).reshape(b, h * d, rows, columns)


def _visible(t: int, window: Window) -> list[list[bool]]:
    """Which keys of its patch each query of a tile may see, T x M."""
    m, s = range(window.patch(t)), window.stride

    def near(query: int, key: int) -> bool:
        return 0 <= key - query * s <= 2 * window.border and (key - query * s) % window.dilation == 0

    return [[near(qy, ky) and near(qx, kx) for ky in m for kx in m] for qy in range(t) for qx in range(t)]


def _mirrored(i: int, size: int) -> int:
    """`window.mirrored` of a number."""
    return size - 1 - abs(i % max(2 * size - 2, 1) - (size - 1))


def _masked_attention(q_BnTD: Tensor, k_BnMD: Tensor, v_BnMD: Tensor, mask: list[list[float]]) -> Tensor:
    """Attention of tiles of queries to their patches of keys, B n T D; `mask`, T x M, is added to the logits."""
    logits_BnTM = q_BnTD @ k_BnMD.transpose(2, 3) + torch.tensor(mask, dtype=q_BnTD.dtype, device=q_BnTD.device)
    logits_BnTM = torch.maximum(logits_BnTM, logits_BnTM.amax(-1, keepdim=True) + FLOOR)
    return logits_BnTM.softmax(-1) @ v_BnMD


def _tiles(x_BCHW: Tensor, heads: int, side: int) -> Tensor:
    """The positions of each tile side by side, B h Y X (side^2 D); height and width are multiples of `side`."""
    b, c, height, width = shape_of(x_BCHW)
    y, x, d = height // side, width // side, c // heads
    x_BhDUn = unshuffle(x_BCHW, side).reshape(b, heads, d, side * side, y * x)
    # With the channels innermost, the tiles around another one are copied in large pieces.
    return x_BhDUn.permute(0, 1, 4, 3, 2).reshape(b, heads, y, x, side * side * d)


def _neighborhoods(x_BCHW: Tensor, heads: int, u: int, tiles_y: Any, tiles_x: Any, border: int) -> Tensor:
    """The positions of each tile and of the eight tiles around it, B n M D."""
    b, c, height, width = shape_of(x_BCHW)
    if is_known(height, width) and min(height, width) > border:
        x_BCHW = F.pad(x_BCHW, (border,) * 4, mode="reflect") if border else x_BCHW
    else:
        x_BCHW = mirror_pad(x_BCHW, border)
    first = u - border
    pad = (first, (tiles_x + 1) * u - width - border, first, (tiles_y + 1) * u - height - border)
    tiles_BhYXE = _tiles(F.pad(x_BCHW, pad), heads, u)
    shifted = [
        tiles_BhYXE[:, :, dy : dy + tiles_y, dx : dx + tiles_x].reshape(b, heads * tiles_y * tiles_x, u * u, c // heads)
        for dy in range(3)
        for dx in range(3)
    ]
    return torch.cat(shifted, 2)


def _mask(t: int, window: Window) -> list[list[float]]:
    """What is added to the logits of a tile's queries, T x M: 0 for neighbours, `MASKED` for others."""
    s, u = window.stride, t * window.stride

    def near(query: int, key: int) -> bool:
        offset = key - u - query * s + window.border
        return 0 <= offset <= 2 * window.border and offset % window.dilation == 0

    return [
        [
            0.0 if near(qy, ty * u + ky) and near(qx, tx * u + kx) else MASKED
            for ty in range(3) for tx in range(3) for ky in range(u) for kx in range(u)
        ]
        for qy in range(t) for qx in range(t)
    ]  # fmt: skip


def _shifted_conv(qkv: Tensor, layers: ACmixLayers) -> Tensor:
    """Both convolutions of the convolution path times its rate, B C P Q."""
    fc, dep_conv, d = layers.fc, layers.dep_conv, layers.head_dim
    if fc is not None:
        # The D channels share `fc`: D groups with the same kernels.
        bias = None if fc.bias is None else torch.cat([fc.bias] * d)
        qkv = F.conv2d(qkv, torch.cat([fc.weight] * d), bias, groups=d)
    own = dep_conv.bias
    bias = None if own is None else constant(lambda: own * layers.rate_conv)
    weight = constant(lambda: dep_conv.weight * layers.rate_conv)
    return convolve(qkv, dep_conv._replace(weight=weight, bias=bias))
