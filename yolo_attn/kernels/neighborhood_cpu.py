"""Attention over a sliding neighbourhood on the CPU, in pieces that stay in the cache.

Tiles and patches are those of `neighborhood`. Some rows of tiles are computed at a time, in buffers that are used
again; the backward pass starts again from the queries, keys and values, so that nothing else is kept for it.

Shapes  as in `neighborhood`, but n = h Y X with the Y rows of tiles of one piece; U V height and width of a map with
        its border, or in whole tiles
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .autograd import first_order
from .neighborhood import TILE
from .slots import ANY_FLOAT, CPU_INFERENCE, CPU_TRAINING, kernel
from .window import Window, mirrored

CACHE = 2**18  # numbers in a matrix of logits


# Under autocast too: its buffers are in single precision, and operations with `out` are not cast.
@kernel("neighborhood_attention", CPU_TRAINING, CPU_INFERENCE, dtypes=ANY_FLOAT, autocast=True)
def piecewise_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours; half precision is computed in float32.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        position_DHW: Code of each position, subtracted from the keys.
        window: The neighbourhood.

    Returns:
        B h D P Q, in the dtype of the queries.
    """
    return _PiecewiseAttention.apply(qkv_BD3hHW, position_DHW, window)


class _PiecewiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(qkv_BD3hHW, position_DHW)
        ctx.window = window
        work = _Pieces(qkv_BD3hHW, window)
        out_BhDPQ = qkv_BD3hHW.new_empty(work.output_shape)
        for qkv_D3hHW, out_hDPQ in zip(qkv_BD3hHW, out_BhDPQ, strict=True):
            queries, keys, values = work.spread(qkv_D3hHW, position_DHW)
            for rows in work.pieces():
                q, k, v = work.tiles(queries, rows, 0), work.patches(keys, rows, 0), work.patches(values, rows, 1)
                work.store(torch.bmm(work.weights(q, k), v, out=work.tile(2, rows)), out_hDPQ, rows)
        return out_BhDPQ

    @staticmethod
    @first_order
    def backward(ctx: Any, g_BhDPQ: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv_BD3hHW, position_DHW = ctx.saved_tensors
        s = ctx.window.stride
        work = _Pieces(qkv_BD3hHW, ctx.window, backward=True)
        d_qkv_BD3hHW = torch.empty_like(qkv_BD3hHW)
        if s > 1:
            d_qkv_BD3hHW[:, :, 0].zero_()
        d_position_DHW = torch.zeros_like(position_DHW, dtype=work.dtype)
        for qkv_D3hHW, d_qkv_D3hHW, g_hDPQ in zip(qkv_BD3hHW, d_qkv_BD3hHW, g_BhDPQ, strict=True):
            queries, keys, values = work.spread(qkv_D3hHW, position_DHW)
            grads = work.spread_queries(g_hDPQ, 1)
            dq_hDHW, dk_hDHW, dv_hDHW = d_qkv_D3hHW.permute(1, 2, 0, 3, 4)
            d_keys, d_values = work.padded[2].zero_(), work.padded[3].zero_()
            for rows in work.pieces():
                q, k, v = work.tiles(queries, rows, 0), work.patches(keys, rows, 0), work.patches(values, rows, 1)
                g = work.tiles(grads, rows, 1)
                w, dw, dk = work.weights(q, k), work.product(1, rows), work.patch(2, rows)
                work.add_patches(torch.bmm(w.transpose(1, 2), g, out=dk), d_values, rows)
                # Softmax backward: w (dw - sum w dw), with dw the gradient of the weights.
                torch.bmm(g, v.transpose(1, 2), out=dw).mul_(w)
                dw.addcmul_(w, dw.sum(-1, keepdim=True), value=-1)
                work.store(torch.bmm(dw, k, out=work.tile(2, rows)).mul_(work.scale), dq_hDHW[..., ::s, ::s], rows)
                work.add_patches(torch.bmm(dw.transpose(1, 2), q, out=dk), d_keys, rows)
            dv_hDHW.copy_(work.gathered(d_values))
            d_keys_hDHW = work.gathered(d_keys)
            dk_hDHW.copy_(d_keys_hDHW)
            d_position_DHW -= d_keys_hDHW.sum(0)
        return d_qkv_BD3hHW, d_position_DHW.to(position_DHW.dtype), None


class _Pieces:
    """Sizes and buffers for maps of one size, and copies from buffer to buffer.

    Memory fresh from the system is slow to touch, so every buffer is used again for each piece and each image.
    """

    def __init__(self, qkv_BD3hHW: Tensor, window: Window, backward: bool = False) -> None:
        b, d, _, h, height, width = qkv_BD3hHW.shape
        self.window, self.h, self.d, self.size = window, h, d, (height, width)
        self.dtype = torch.promote_types(qkv_BD3hHW.dtype, torch.float32)
        self.scale = d**-0.5
        self.p, self.q = -(-height // window.stride), -(-width // window.stride)
        self.output_shape = (b, h, d, self.p, self.q)
        # Tiles as equal as can be: 9 queries are 3 x 3, not 4 + 4 + 1 of 3 x 4.
        self.y, self.x = -(-self.p // TILE), -(-self.q // TILE)
        self.ty, self.tx = -(-self.p // self.y), -(-self.q // self.x)
        self.my, self.mx = window.patch(self.ty), window.patch(self.tx)
        tile, patch = self.ty * self.tx, self.my * self.mx
        self.rows = max(1, min(self.y, CACHE // (h * self.x * tile * patch)))
        n = self.rows * h * self.x

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.dtype, device=qkv_BD3hHW.device)

        self.padded = empty(
            4 if backward else 2,
            h,
            max(window.patch(self.y * self.ty), height + window.border),
            max(window.patch(self.x * self.tx), width + window.border),
            d,
        )
        self.queries = empty(1 + backward, h, self.y * self.ty, self.x * self.tx, d).zero_()
        self.patch_buffers = empty(2 + backward, n, patch, d)
        self.tile_buffers = empty(3, n, tile, d)
        self.products = empty(1 + backward, n, tile, patch)
        mask = window.mask(self.ty, self.tx, qkv_BD3hHW.device)
        self.mask = torch.zeros(mask.shape, dtype=self.dtype, device=qkv_BD3hHW.device).masked_fill_(~mask, -torch.inf)

    def pieces(self) -> list[range]:
        """The rows of tiles, in groups."""
        return [range(first, min(first + self.rows, self.y)) for first in range(0, self.y, self.rows)]

    def tile(self, i: int, rows: range) -> Tensor:
        return self.tile_buffers[i, : len(rows) * self.h * self.x]

    def patch(self, i: int, rows: range) -> Tensor:
        return self.patch_buffers[i, : len(rows) * self.h * self.x]

    def product(self, i: int, rows: range) -> Tensor:
        return self.products[i, : len(rows) * self.h * self.x]

    def spread(self, qkv_D3hHW: Tensor, position_DHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, and keys less their position and values with mirrored borders, of one image; h U V D each."""
        q, k, v = qkv_D3hHW.unbind(1)  # D h H W each
        s = self.window.stride
        queries = self.spread_queries(q[..., ::s, ::s].transpose(0, 1), 0)
        queries.mul_(self.scale)
        return queries, self._mirror(k, 0, position_DHW), self._mirror(v, 1)

    def spread_queries(self, q_hDPQ: Tensor, i: int) -> Tensor:
        """Queries in whole tiles, h U V D, zeros beyond the map."""
        self.queries[i, :, : self.p, : self.q].copy_(q_hDPQ.permute(0, 2, 3, 1))
        return self.queries[i]

    def _mirror(self, x_DhHW: Tensor, i: int, minus_DHW: Tensor | None = None) -> Tensor:
        out_hUVD = self.padded[i]
        inside_hHWD = self._inside(out_hUVD).copy_(x_DhHW.permute(1, 2, 3, 0))
        if minus_DHW is not None:
            inside_hHWD.sub_(minus_DHW.permute(1, 2, 0))
        for dim, start, end, index in self._borders():
            out_hUVD.narrow(dim, start, end - start).copy_(out_hUVD.index_select(dim, index))
        return out_hUVD

    def gathered(self, g_hUVD: Tensor) -> Tensor:
        """The adjoint of mirroring: add the borders to the positions they mirror, h D H W. Deterministic."""
        for dim, start, end, index in reversed(self._borders()):
            g_hUVD.index_add_(dim, index, g_hUVD.narrow(dim, start, end - start).clone())
        return self._inside(g_hUVD).permute(0, 3, 1, 2)

    def _inside(self, x_hUVD: Tensor) -> Tensor:
        """The map without its border, h H W D."""
        p = self.window.border
        return x_hUVD[:, p : p + self.size[0], p : p + self.size[1]]

    def _borders(self) -> list[tuple[int, int, int, Tensor]]:
        """Axis, start and end of the border there, and the positions it mirrors; columns first, then whole rows."""
        p, out = self.window.border, []
        for dim, size in ((2, self.size[1]), (1, self.size[0])):
            total = self.padded.shape[dim + 1]
            index = mirrored(torch.arange(-p, total - p, device=self.padded.device), size) + p
            out += [(dim, a, b, index[a:b]) for a, b in ((0, p), (p + size, total)) if b > a]
        return out

    def tiles(self, queries_hUVD: Tensor, rows: range, i: int) -> Tensor:
        """Rows of query tiles, n T D."""
        tiles = queries_hUVD[:, rows.start * self.ty : rows.stop * self.ty]
        tiles = tiles.view(self.h, len(rows), self.ty, self.x, self.tx, self.d).permute(1, 0, 3, 2, 4, 5)
        out = self.tile(i, rows)
        out.view(tiles.shape).copy_(tiles)
        return out

    def patches(self, padded_hUVD: Tensor, rows: range, i: int) -> Tensor:
        """The patches that rows of query tiles see, n M D."""
        patches = self._patches(padded_hUVD, rows)
        out = self.patch(i, rows)
        out.view(patches.shape).copy_(patches)
        return out

    def _patches(self, padded_hUVD: Tensor, rows: range) -> Tensor:
        """Views Y h X m m D into a map."""
        sy, sx = self.ty * self.window.stride, self.tx * self.window.stride
        views = padded_hUVD[:, rows.start * sy :].unfold(1, self.my, sy).unfold(2, self.mx, sx)  # h Y X D m m
        return views[:, : len(rows), : self.x].permute(1, 0, 2, 4, 5, 3)

    def add_patches(self, patches_nMD: Tensor, padded_hUVD: Tensor, rows: range) -> None:
        """Add patches, which overlap, to the map that they were cut from."""
        target = self._patches(padded_hUVD, rows)
        source = patches_nMD.view(target.shape)
        # Patches so far apart do not overlap.
        apart_y, apart_x = -(-self.my // (self.ty * self.window.stride)), -(-self.mx // (self.tx * self.window.stride))
        for i in range(min(apart_y, len(rows))):
            for j in range(min(apart_x, self.x)):
                target[i::apart_y, :, j::apart_x].add_(source[i::apart_y, :, j::apart_x])

    def weights(self, q_nTD: Tensor, k_nMD: Tensor) -> Tensor:
        """Attention weights n T M, zero for keys that are no neighbours."""
        out = self.products[0, : len(q_nTD)]
        return torch.softmax(torch.baddbmm(self.mask, q_nTD, k_nMD.transpose(1, 2), out=out), -1, out=out)

    def store(self, tiles_nTD: Tensor, out_hDPQ: Tensor, rows: range) -> None:
        """Write tiles to their place in a map."""
        tiles = tiles_nTD.view(len(rows), self.h, self.x, self.ty, self.tx, self.d).permute(1, 0, 3, 2, 4, 5)
        out = out_hDPQ[:, :, rows.start * self.ty : rows.stop * self.ty]
        tiles = tiles.reshape(self.h, len(rows) * self.ty, self.x * self.tx, self.d)[:, : out.shape[2], : self.q]
        out.copy_(tiles.permute(0, 3, 1, 2))
