"""Attention over a sliding neighbourhood without a copy per neighbour: the inner loop of ACmix.

Shapes  B batch, h heads, D head channels, H W cells, P Q query cells (H W divided by the stride, rounded up),
        K neighbours along an axis, Y X query tiles along the axes, t cells along a tile's side, T = t^2,
        m cells along the side of the patch of keys that a tile sees, M = m^2

The textbook way (unfold) copies every key and value K^2 times. Here a tile of t x t queries meets the one m x m patch
of keys that all of them share, m = (t - 1) stride + (K - 1) dilation + 1, as a matrix product T x M, of which each
query needs the K x K entries around it; a constant mask hides the others. Two forms compute the same:

    tiled_attention     plain operations on all tiles at once: any device, traces, exports, compiles
    PiecewiseAttention  some rows of tiles at a time in buffers that stay in the cache; the backward pass starts again
                        from the queries, keys and values, so that nothing else is kept for it

Beyond the border the map is mirrored without repeating the edge. A map too small for that is mirrored again and again,
down to a single cell: i -> n - 1 - |i mod (2n - 2) - (n - 1)|.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

TILE = 4  # query cells along a tile's side: more would waste products, fewer would waste copies of the keys
CUDA_TILE = 8  # attention kernels for CUDA take 64 queries at a time
CACHE = 2**18  # numbers in a product matrix of `PiecewiseAttention`


def mirrored(index: Tensor, size: int) -> Tensor:
    """Fold any integer index into [0, size) by reflection at both borders.

    Args:
        index: Integers of any shape, negative ones included.
        size: Length of the axis, at least 1; a traced size works too.
    """
    period = 2 * size - 2 + 1 // size  # a single cell has no period: 1 instead of 0
    return size - 1 - (index.remainder(period) - (size - 1)).abs()


def mirror_pad(x: Tensor, border: int) -> Tensor:
    """Reflection padding of (..., H, W) on all four sides that works down to a single cell."""
    height, width = x.shape[-2:]
    rows = torch.arange(height + 2 * border, device=x.device) - border
    cols = torch.arange(width + 2 * border, device=x.device) - border
    return x.index_select(-2, mirrored(rows, height)).index_select(-1, mirrored(cols, width))


class Window(NamedTuple):
    """Which neighbours a query attends to.

    Attributes:
        kernel: Neighbours along each axis, odd.
        stride: Cells from query to query.
        dilation: Cells from neighbour to neighbour.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1

    def checked(self) -> Window:
        """This window, if it makes sense.

        Raises:
            ValueError: It does not.
        """
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"kernel_att={self.kernel} must be odd, so that a cell is the centre of its neighbourhood."
            )
        if self.stride < 1 or self.dilation < 1:
            raise ValueError(f"stride={self.stride} and dilation={self.dilation} must be at least 1.")
        return self

    def patch(self, tile: int) -> int:
        """Cells along the side of the patch that `tile` queries in a row see."""
        return (tile - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def border(self) -> int:
        """Cells that the first query sees beyond the map."""
        return self.kernel // 2 * self.dilation

    def mask(self, tile_y: int, tile_x: int, device: torch.device | None = None) -> Tensor:
        """Which keys of its patch each query of a tile may see, bool (T, M)."""
        y, x = self._near(tile_y, device), self._near(tile_x, device)
        return (y[:, None, :, None] & x[None, :, None, :]).reshape(tile_y * tile_x, -1)

    def _near(self, tile: int, device: torch.device | None) -> Tensor:
        """The same along one axis, bool (t, m)."""
        first = torch.arange(tile, device=device)[:, None] * self.stride
        offset = torch.arange(self.patch(tile), device=device) - first
        return (offset >= 0) & (offset <= 2 * self.border) & (offset % self.dilation == 0)


def neighborhood_attention(qkv: Tensor, position: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours, in the form that suits the moment.

    Args:
        qkv: Queries, keys and values (B, D, 3, h, H, W).
        position: Code of each cell's place (D, H, W), taken off the keys.
        window: The neighbourhood.

    Returns:
        (B, h, D, P, Q).
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not recorded and qkv.device.type == "cpu" and type(qkv) is Tensor:
        return PiecewiseAttention.apply(qkv, position, window)
    if not recorded and qkv.is_cuda and torch.is_grad_enabled() and qkv.requires_grad:
        return recomputed_attention(qkv, position, window)
    return tiled_attention(qkv, position, window)


def recomputed_attention(qkv: Tensor, position: Tensor, window: Window) -> Tensor:
    """`tiled_attention` that keeps its inputs alone for the backward pass."""
    return checkpoint(tiled_attention, qkv, position, window, use_reentrant=False, preserve_rng_state=False)


def tiled_attention(qkv: Tensor, position: Tensor, window: Window) -> Tensor:
    """`neighborhood_attention` in plain operations."""
    t, s = CUDA_TILE if qkv.is_cuda else TILE, window.stride
    q, k, v = qkv.transpose(1, 3).unbind(2)  # B h D H W each
    q = q[..., ::s, ::s] * q.shape[2] ** -0.5
    b, heads, d, rows, cols = q.shape
    y, x = (rows + t - 1) // t, (cols + t - 1) // t
    q = F.pad(q, (0, -cols % t, 0, -rows % t))
    q_BNTD = q.reshape(b, heads, d, y, t, x, t).permute(0, 1, 3, 5, 4, 6, 2).reshape(b, -1, t * t, d)
    k_BNMD, v_BNMD = _patches(k - position, y, x, t, window), _patches(v, y, x, t, window)
    out = F.scaled_dot_product_attention(q_BNTD, k_BNMD, v_BNMD, attn_mask=window.mask(t, t, q.device), scale=1.0)
    out_BhDYtXt = out.reshape(b, heads, y, x, t, t, d).permute(0, 1, 6, 2, 4, 3, 5)
    return out_BhDYtXt.reshape(b, heads, d, y * t, x * t)[..., :rows, :cols]


def _patches(x: Tensor, tiles_y: int, tiles_x: int, tile: int, window: Window) -> Tensor:
    """The patch of cells that each query tile sees, (B, h, D, H, W) -> (B, h Y X, M, D)."""
    b, heads, d, height, width = x.shape
    m = window.patch(tile)
    patch = torch.arange(m, device=x.device) - window.border
    step = tile * window.stride
    rows = mirrored(torch.arange(tiles_y, device=x.device)[:, None] * step + patch, height).reshape(-1)
    cols = mirrored(torch.arange(tiles_x, device=x.device)[:, None] * step + patch, width).reshape(-1)
    # With the channels innermost, a cell is copied in one go.
    x_BhHWD = x.permute(0, 1, 3, 4, 2)
    x_BhYmXmD = x_BhHWD.index_select(2, rows).index_select(3, cols).reshape(b, heads, tiles_y, m, tiles_x, m, d)
    return x_BhYmXmD.transpose(3, 4).reshape(b, -1, m * m, d)


def listed_logits(q: Tensor, k: Tensor, window: Window) -> Tensor:
    """One logit per query and neighbour, for looking at rather than for speed.

    Args:
        q: Queries (B, h, D, P, Q), scaled.
        k: Keys (B, h, D, H, W).
        window: The neighbourhood.

    Returns:
        (B, h, K^2, P, Q), in float32 at least.
    """
    q = q.to(torch.promote_types(q.dtype, torch.float32))
    return torch.stack([(q * neighbor).sum(2) for neighbor in _neighbors(k, window)], 2)


def listed_sum(weights: Tensor, v: Tensor, window: Window) -> Tensor:
    """Sum each query's neighbours with given weights.

    Args:
        weights: (B, h, K^2, P, Q).
        v: Values (B, h, D, H, W).
        window: The neighbourhood.

    Returns:
        (B, h, D, P, Q).
    """
    total = torch.zeros_like(v[..., :: window.stride, :: window.stride])
    for i, neighbor in enumerate(_neighbors(v, window)):
        total = total + weights[:, :, i, None] * neighbor
    return total


def _neighbors(x: Tensor, window: Window) -> list[Tensor]:
    """K^2 views (..., P, Q) of one mirrored map, each shifted to another neighbour."""
    height, width = x.shape[-2:]
    x = mirror_pad(x, window.border)
    s, steps = window.stride, range(0, 2 * window.border + 1, window.dilation)
    return [x[..., dy : dy + height : s, dx : dx + width : s] for dy in steps for dx in steps]


class PiecewiseAttention(torch.autograd.Function):
    """Neighbourhood attention in cache-sized pieces, for plain execution on a CPU; differentiable once.

    Args (of `apply`):
        qkv: (B, D, 3, h, H, W): queries, keys and values.
        position: (D, H, W), taken off the keys.
        window: The neighbourhood.

    Returns:
        (B, h, D, P, Q) in the dtype of qkv; half precision is computed in float32.
    """

    @staticmethod
    def forward(qkv: Tensor, position: Tensor, window: Window) -> Tensor:
        """Attend, some rows of tiles at a time."""
        work = _Pieces(qkv, window)
        out = qkv.new_empty(work.output_shape)
        for image in range(len(qkv)):
            queries, keys, values = work.spread(qkv[image], position)
            for rows in work.pieces():
                q, k, v = work.tiles(queries, rows, 0), work.patches(keys, rows, 0), work.patches(values, rows, 1)
                work.store(torch.bmm(work.weights(q, k), v, out=work.tile(2, rows)), out[image], rows)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Window], output: Tensor) -> None:
        """Keep the inputs, nothing else."""
        qkv, position, ctx.window = inputs
        ctx.save_for_backward(qkv, position)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Compute the weights again, then the gradients of the two products."""
        qkv, position = ctx.saved_tensors
        s = ctx.window.stride
        work = _Pieces(qkv, ctx.window, backward=True)
        grad_qkv = torch.empty_like(qkv)
        if s > 1:
            grad_qkv[:, :, 0].zero_()
        grad_position = torch.zeros_like(position, dtype=work.dtype)
        for image in range(len(qkv)):
            queries, keys, values = work.spread(qkv[image], position)
            grads = work.spread_queries(grad[image], 1)
            grad_q, grad_k, grad_v = grad_qkv[image].permute(1, 2, 0, 3, 4)
            grad_keys, grad_values = work.padded[2].zero_(), work.padded[3].zero_()
            for rows in work.pieces():
                q, k, v = work.tiles(queries, rows, 0), work.patches(keys, rows, 0), work.patches(values, rows, 1)
                g = work.tiles(grads, rows, 1)
                w, dw, dk = work.weights(q, k), work.product(1, rows), work.patch(2, rows)
                work.add_patches(torch.bmm(w.transpose(1, 2), g, out=dk), grad_values, rows)
                # Softmax backward: w (dw - sum w dw), with dw the gradient of the weights.
                torch.bmm(g, v.transpose(1, 2), out=dw).mul_(w)
                dw.addcmul_(w, dw.sum(-1, keepdim=True), value=-1)
                work.store(torch.bmm(dw, k, out=work.tile(2, rows)).mul_(work.scale), grad_q[..., ::s, ::s], rows)
                work.add_patches(torch.bmm(dw.transpose(1, 2), q, out=dk), grad_keys, rows)
            grad_v.copy_(work.gathered(grad_values))
            grad_keys = work.gathered(grad_keys)
            grad_k.copy_(grad_keys)
            grad_position -= grad_keys.sum(0)
        return grad_qkv, grad_position.to(position.dtype), None


class _Pieces:
    """Sizes, buffers and moves of PiecewiseAttention for maps of one size; D is innermost in all of them.

    Memory fresh from the system is slow to touch, so every buffer is used again for each piece and each image.
    """

    def __init__(self, qkv: Tensor, window: Window, backward: bool = False) -> None:
        b, d, _, h, height, width = qkv.shape
        self.window, self.h, self.d, self.size = window, h, d, (height, width)
        self.dtype = torch.promote_types(qkv.dtype, torch.float32)
        self.scale = d**-0.5
        self.p, self.q = -(-height // window.stride), -(-width // window.stride)
        self.output_shape = (b, h, d, self.p, self.q)
        # Tiles as equal as can be: 9 cells are 3 x 3, not 4 + 4 + 1 of 3 x 4.
        self.y, self.x = -(-self.p // TILE), -(-self.q // TILE)
        self.ty, self.tx = -(-self.p // self.y), -(-self.q // self.x)
        self.my, self.mx = window.patch(self.ty), window.patch(self.tx)
        tile, patch = self.ty * self.tx, self.my * self.mx
        self.rows = max(1, min(self.y, CACHE // (h * self.x * tile * patch)))
        n = self.rows * h * self.x

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.dtype, device=qkv.device)

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
        mask = window.mask(self.ty, self.tx, qkv.device)
        self.mask = torch.zeros(mask.shape, dtype=self.dtype, device=qkv.device).masked_fill_(~mask, -torch.inf)

    def pieces(self) -> list[range]:
        """The rows of tiles, in groups."""
        return [range(first, min(first + self.rows, self.y)) for first in range(0, self.y, self.rows)]

    def tile(self, i: int, rows: range) -> Tensor:
        return self.tile_buffers[i, : len(rows) * self.h * self.x]

    def patch(self, i: int, rows: range) -> Tensor:
        return self.patch_buffers[i, : len(rows) * self.h * self.x]

    def product(self, i: int, rows: range) -> Tensor:
        return self.products[i, : len(rows) * self.h * self.x]

    def spread(self, qkv: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, and keys less their position and values with mirrored borders, of one image."""
        q, k, v = qkv.unbind(1)  # D h H W each
        s = self.window.stride
        queries = self.spread_queries(q[..., ::s, ::s].transpose(0, 1), 0)
        queries.mul_(self.scale)
        return queries, self._mirror(k, 0, position), self._mirror(v, 1)

    def spread_queries(self, q: Tensor, i: int) -> Tensor:
        """(h, D, P, Q) -> (h, Y t, X t, D), zeros beyond the map."""
        self.queries[i, :, : self.p, : self.q].copy_(q.permute(0, 2, 3, 1))
        return self.queries[i]

    def _mirror(self, x: Tensor, i: int, minus: Tensor | None = None) -> Tensor:
        out = self.padded[i]
        inside = self._inside(out).copy_(x.permute(1, 2, 3, 0))
        if minus is not None:
            inside.sub_(minus.permute(1, 2, 0))
        for dim, start, end, index in self._borders():
            out.narrow(dim, start, end - start).copy_(out.index_select(dim, index))
        return out

    def gathered(self, grad: Tensor) -> Tensor:
        """The adjoint of mirroring: add the borders to the cells they mirror; gives (h, D, H, W). Repeatable."""
        for dim, start, end, index in reversed(self._borders()):
            grad.index_add_(dim, index, grad.narrow(dim, start, end - start).clone())
        return self._inside(grad).permute(0, 3, 1, 2)

    def _inside(self, x: Tensor) -> Tensor:
        p = self.window.border
        return x[:, p : p + self.size[0], p : p + self.size[1]]

    def _borders(self) -> list[tuple[int, int, int, Tensor]]:
        """Axis, start and end of the border there, and the cells it mirrors; columns first, then whole rows."""
        p, out = self.window.border, []
        for dim, size in ((2, self.size[1]), (1, self.size[0])):
            total = self.padded.shape[dim + 1]
            index = mirrored(torch.arange(-p, total - p, device=self.padded.device), size) + p
            out += [(dim, a, b, index[a:b]) for a, b in ((0, p), (p + size, total)) if b > a]
        return out

    def tiles(self, queries: Tensor, rows: range, i: int) -> Tensor:
        """Rows of query tiles, (n, T, D)."""
        tiles = queries[:, rows.start * self.ty : rows.stop * self.ty]
        tiles = tiles.view(self.h, len(rows), self.ty, self.x, self.tx, self.d).permute(1, 0, 3, 2, 4, 5)
        out = self.tile(i, rows)
        out.view(tiles.shape).copy_(tiles)
        return out

    def patches(self, padded: Tensor, rows: range, i: int) -> Tensor:
        """The patches that rows of query tiles see, (n, M, D)."""
        patches = self._patches(padded, rows)
        out = self.patch(i, rows)
        out.view(patches.shape).copy_(patches)
        return out

    def _patches(self, padded: Tensor, rows: range) -> Tensor:
        """Views (rows, h, X, m, m, D) into a map."""
        sy, sx = self.ty * self.window.stride, self.tx * self.window.stride
        views = padded[:, rows.start * sy :].unfold(1, self.my, sy).unfold(2, self.mx, sx)  # h Y X D m m
        return views[:, : len(rows), : self.x].permute(1, 0, 2, 4, 5, 3)

    def add_patches(self, patches: Tensor, padded: Tensor, rows: range) -> None:
        """Add patches, which overlap, to the map they were cut from."""
        target = self._patches(padded, rows)
        source = patches.view(target.shape)
        # So far apart they do not overlap.
        apart_y, apart_x = -(-self.my // (self.ty * self.window.stride)), -(-self.mx // (self.tx * self.window.stride))
        for i in range(min(apart_y, len(rows))):
            for j in range(min(apart_x, self.x)):
                target[i::apart_y, :, j::apart_x].add_(source[i::apart_y, :, j::apart_x])

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention weights (n, T, M), zero for keys that are no neighbours."""
        out = self.products[0, : len(q)]
        return torch.softmax(torch.baddbmm(self.mask, q, k.transpose(1, 2), out=out), -1, out=out)

    def store(self, tiles: Tensor, out: Tensor, rows: range) -> None:
        """Write tiles (n, T, D) to their place in a map (h, D, P, Q)."""
        tiles = tiles.view(len(rows), self.h, self.x, self.ty, self.tx, self.d).permute(1, 0, 3, 2, 4, 5)
        out = out[:, :, rows.start * self.ty : rows.stop * self.ty]
        tiles = tiles.reshape(self.h, len(rows) * self.ty, self.x * self.tx, self.d)[:, : out.shape[2], : self.q]
        out.copy_(tiles.permute(0, 3, 1, 2))
