"""Attention over a sliding neighbourhood as Triton kernels: no mask, no copied patches, no logits in memory.

One program computes a tile of queries of one head: it visits the K^2 neighbours in turn and keeps the softmax's maximum
and sum as it goes. The backward pass computes the weights again from the saved logarithm of that sum. It has two
kernels, neither with atomic additions, so that gradients are deterministic: one by tiles of queries, for their own
gradient; one by tiles of keys, for the gradients of keys and values. A key is met at every place that mirrors it
beyond the border, so the second kernel goes through the mirror images of its tile and skips those that no query sees.

Requires Triton, which PyTorch's CUDA builds for Linux include. TRITON_INTERPRET=1, set before this file is imported,
runs the kernels on the CPU, slowly.

Shapes  B batch, h heads, D head channels, H W height and width, P Q queries along the axes (H W divided by the stride,
        rounded up); in the kernels N positions of a tile, C channels up to a power of two
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..autograd import first_order
from ..window import Window


def triton_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours; half precision is computed in float32.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        position_DHW: Code of each position, subtracted from the keys.
        window: The neighbourhood.

    Returns:
        B h D P Q, in the dtype of the queries; the memory layout is that of the queries.
    """
    return _TritonAttention.apply(qkv_BD3hHW, position_DHW, window)


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
        # The gradient has the strides of the projections, which therefore have to be dense.
        qkv = _dense(qkv_BD3hHW)
        position = position_DHW.contiguous()
        b, d, _, h, height, width = qkv.shape
        p, q = -(-height // window.stride), -(-width // window.stride)
        if qkv.stride(1) == 1 or qkv.stride(3) == 1:  # channels last
            out = qkv.new_empty(b, p, q, h, d).permute(0, 3, 4, 1, 2)
        else:
            out = qkv.new_empty(b, h, d, p, q)
        lse = qkv.new_empty(b, h, p, q, dtype=torch.promote_types(qkv.dtype, torch.float32))
        launch = _Launch(qkv, out, window)
        _forward[launch.grid(p, q)](qkv, position, out, lse, *launch.sizes, **launch.constants)
        ctx.save_for_backward(qkv, position, out, lse)
        ctx.window = window
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, g_BhDPQ: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, position, out, lse = ctx.saved_tensors
        if g_BhDPQ.stride() != out.stride():
            g_BhDPQ = torch.empty_like(out).copy_(g_BhDPQ)
        d_qkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
        if ctx.window.stride > 1:
            d_qkv[:, :, 0].zero_()
        launch = _Launch(qkv, out, ctx.window)
        tensors = qkv, position, out, lse, g_BhDPQ, d_qkv, delta
        _backward_queries[launch.grid(*lse.shape[2:])](*tensors, *launch.sizes, **launch.constants)
        _backward_keys[launch.grid(*qkv.shape[4:])](*tensors, *launch.sizes, **launch.constants, **launch.mirrors)
        d_position = -d_qkv[:, :, 1].sum((0, 2), dtype=lse.dtype)
        return d_qkv, d_position.to(position.dtype), None


def _dense(x: Tensor) -> Tensor:
    """`x`, or a contiguous copy if it has gaps or its elements share memory."""
    return x if torch.empty_like(x).stride() == x.stride() else x.contiguous()


class _Launch:
    """Arguments of the kernels for maps of one size.

    Attributes:
        sizes: Sizes and strides.
        constants: What the kernels are compiled for.
        mirrors: For the gradients of keys: how often the map is mirrored, counted from its centre, along both axes.
    """

    def __init__(self, qkv_BD3hHW: Tensor, out_BhDPQ: Tensor, window: Window) -> None:
        self.b, d, _, self.h, height, width = qkv_BD3hHW.shape
        channels = max(16, triton.next_power_of_2(d))
        self.tile = (8, 8) if channels <= 32 else (4, 8) if channels == 64 else (4, 4)
        self.sizes = (height, width, *out_BhDPQ.shape[3:], *qkv_BD3hHW.stride(), *out_BhDPQ.stride())
        self.constants: dict[str, Any] = {
            "D": d,
            "CHANNELS": channels,
            "K": window.kernel,
            "STRIDE": window.stride,
            "DILATION": window.dilation,
            "TILE_Y": self.tile[0],
            "TILE_X": self.tile[1],
            "DOUBLE": qkv_BD3hHW.dtype == torch.float64,
            "num_warps": 4,
        }
        mirrors = [(2 * n - 2 + window.border) // max(2 * n - 2, 1) for n in (height, width)]
        self.mirrors = {"MIRRORS_Y": mirrors[0], "MIRRORS_X": mirrors[1]}

    def grid(self, rows: int, cols: int) -> tuple[int, int, int]:
        """A program for each tile, head and image."""
        return triton.cdiv(rows, self.tile[0]) * triton.cdiv(cols, self.tile[1]), self.h, self.b


@triton.jit
def _mirrored(index, size):
    """Fold an index into [0, size) by reflection at both borders."""
    period = 2 * size - 2 + 1 // size
    # Twice, as the remainder of a negative number is negative on GPUs.
    folded = (index % period + period) % period
    return size - 1 - tl.abs(folded - (size - 1))


@triton.jit
def _tile(rows, cols, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """Rows and columns of the positions of this program's tile (N each), and which of them lie on the map."""
    tile, n = tl.program_id(0), tl.arange(0, TILE_Y * TILE_X)
    y = tile // tl.cdiv(cols, TILE_X) * TILE_Y + n // TILE_X
    x = tile % tl.cdiv(cols, TILE_X) * TILE_X + n % TILE_X
    return y, x, (y < rows) & (x < cols)


@triton.jit
def _load(pointer, mask, exact: tl.constexpr):
    """Values in the precision of the computation, 0 where the mask is false."""
    return tl.load(pointer, mask, 0.0).to(exact)


@triton.jit
def _load_keys(keys, position, c, row, col, H, W, mask, exact: tl.constexpr):
    """Keys at (row, col) without the code of their position, N C; `keys` points to them."""
    code_NC = _load(position + c[None, :] * H * W + (row * W + col)[:, None], mask, exact)
    return _load(keys, mask, exact) - code_NC


@triton.jit
def _neighbor(y, x, t, H, W, K: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr):
    """Row and column of neighbour t of each query."""
    row = _mirrored(y * STRIDE + (t // K - K // 2) * DILATION, H)
    return row, _mirrored(x * STRIDE + (t % K - K // 2) * DILATION, W)


@triton.jit
def _forward(
    qkv, position, out, lse,
    H, W, P, Q, qkv_b, qkv_d, qkv_3, qkv_h, qkv_y, qkv_x, out_b, out_h, out_d, out_y, out_x,
    D: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """Output and logarithm of the sum of exponentials for a tile of queries of one head."""
    exact: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, x, inside = _tile(P, Q, TILE_Y, TILE_X)
    c = tl.arange(0, CHANNELS)
    mask = inside[:, None] & (c < D)[None, :]

    projections = qkv + image * qkv_b + head * qkv_h + c[None, :] * qkv_d
    scale = 1.0 / tl.sqrt(tl.full((), D, exact))
    q_NC = _load(projections + (y * STRIDE * qkv_y + x * STRIDE * qkv_x)[:, None], mask, exact) * scale
    maximum_N = tl.full((TILE_Y * TILE_X,), float("-inf"), exact)
    sum_N = tl.zeros((TILE_Y * TILE_X,), exact)
    out_NC = tl.zeros((TILE_Y * TILE_X, CHANNELS), exact)
    for t in range(K * K):
        row, col = _neighbor(y, x, t, H, W, K, STRIDE, DILATION)
        at = projections + (row * qkv_y + col * qkv_x)[:, None]
        k_NC = _load_keys(at + qkv_3, position, c, row, col, H, W, mask, exact)
        logit_N = tl.sum(q_NC * k_NC, 1)
        higher_N = tl.maximum(maximum_N, logit_N)
        shrink_N, weight_N = tl.exp(maximum_N - higher_N), tl.exp(logit_N - higher_N)
        v_NC = _load(at + 2 * qkv_3, mask, exact)
        out_NC = out_NC * shrink_N[:, None] + weight_N[:, None] * v_NC
        sum_N = sum_N * shrink_N + weight_N
        maximum_N = higher_N

    target = out + image * out_b + head * out_h + c[None, :] * out_d + (y * out_y + x * out_x)[:, None]
    tl.store(target, out_NC / sum_N[:, None], mask)
    plane = (image * tl.num_programs(1) + head) * P * Q
    tl.store(lse + plane + y * Q + x, maximum_N + tl.log(sum_N), inside)


@triton.jit
def _backward_queries(
    qkv, position, out, lse, g, d_qkv, delta,
    H, W, P, Q, qkv_b, qkv_d, qkv_3, qkv_h, qkv_y, qkv_x, out_b, out_h, out_d, out_y, out_x,
    D: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of queries of one head, and delta = sum over D of g * out, which the keys' gradients need."""
    exact: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, x, inside = _tile(P, Q, TILE_Y, TILE_X)
    c = tl.arange(0, CHANNELS)
    mask = inside[:, None] & (c < D)[None, :]

    plane = (image * tl.num_programs(1) + head) * P * Q
    outputs = image * out_b + head * out_h + c[None, :] * out_d + (y * out_y + x * out_x)[:, None]
    g_NC = _load(g + outputs, mask, exact)
    delta_N = tl.sum(g_NC * _load(out + outputs, mask, exact), 1)
    tl.store(delta + plane + y * Q + x, delta_N, inside)
    lse_N = tl.load(lse + plane + y * Q + x, inside, 0.0)

    offset = image * qkv_b + head * qkv_h + c[None, :] * qkv_d
    own = offset + (y * STRIDE * qkv_y + x * STRIDE * qkv_x)[:, None]
    scale = 1.0 / tl.sqrt(tl.full((), D, exact))
    q_NC = _load(qkv + own, mask, exact) * scale
    dq_NC = tl.zeros((TILE_Y * TILE_X, CHANNELS), exact)
    for t in range(K * K):
        row, col = _neighbor(y, x, t, H, W, K, STRIDE, DILATION)
        at = qkv + offset + (row * qkv_y + col * qkv_x)[:, None]
        k_NC = _load_keys(at + qkv_3, position, c, row, col, H, W, mask, exact)
        weight_N = tl.exp(tl.sum(q_NC * k_NC, 1) - lse_N)
        d_weight_N = tl.sum(g_NC * _load(at + 2 * qkv_3, mask, exact), 1)
        dq_NC += (weight_N * (d_weight_N - delta_N))[:, None] * k_NC
    tl.store(d_qkv + own, dq_NC * scale, mask)


@triton.jit
def _backward_keys(
    qkv, position, out, lse, g, d_qkv, delta,
    H, W, P, Q, qkv_b, qkv_d, qkv_3, qkv_h, qkv_y, qkv_x, out_b, out_h, out_d, out_y, out_x,
    D: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, DOUBLE: tl.constexpr,
    MIRRORS_Y: tl.constexpr, MIRRORS_X: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values of one head, from all queries that attend to them."""
    exact: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    border: tl.constexpr = K // 2 * DILATION
    tile, head, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, col, inside = _tile(H, W, TILE_Y, TILE_X)
    c = tl.arange(0, CHANNELS)
    channel = (c < D)[None, :]
    mask = inside[:, None] & channel

    plane = (image * tl.num_programs(1) + head) * P * Q
    offset = image * qkv_b + head * qkv_h + c[None, :] * qkv_d
    outputs = image * out_b + head * out_h + c[None, :] * out_d
    own = offset + (row * qkv_y + col * qkv_x)[:, None]
    k_NC = _load_keys(qkv + own + qkv_3, position, c, row, col, H, W, mask, exact)
    v_NC = _load(qkv + own + 2 * qkv_3, mask, exact)
    scale = 1.0 / tl.sqrt(tl.full((), D, exact))
    dk_NC = tl.zeros((TILE_Y * TILE_X, CHANNELS), exact)
    dv_NC = tl.zeros((TILE_Y * TILE_X, CHANNELS), exact)
    period_y, period_x = 2 * H - 2 + 1 // H, 2 * W - 2 + 1 // W
    # Position r is mirrored to r + j period and to -r + j period, for every integer j; on an edge they are the same.
    edge_y, edge_x = ((row == 0) | (row == H - 1)).to(tl.int32), ((col == 0) | (col == W - 1)).to(tl.int32)
    first_y, first_x = tile // tl.cdiv(W, TILE_X) * TILE_Y, tile % tl.cdiv(W, TILE_X) * TILE_X
    last_y, last_x = tl.minimum(first_y + TILE_Y, H) - 1, tl.minimum(first_x + TILE_X, W) - 1
    for i in range(4 * MIRRORS_Y + 2):
        sign_y, shift_y = 1 - 2 * (i % 2), (i // 2 - MIRRORS_Y) * period_y
        lowest_y = tl.minimum(sign_y * first_y, sign_y * last_y) + shift_y
        highest_y = tl.maximum(sign_y * first_y, sign_y * last_y) + shift_y
        if (highest_y >= -border) & (lowest_y < H + border):
            at_y = sign_y * row + shift_y
            there_y = inside & (at_y >= -border) & (at_y < H + border) & ((1 - sign_y) * edge_y == 0)
            for j in range(4 * MIRRORS_X + 2):
                sign_x, shift_x = 1 - 2 * (j % 2), (j // 2 - MIRRORS_X) * period_x
                lowest_x = tl.minimum(sign_x * first_x, sign_x * last_x) + shift_x
                highest_x = tl.maximum(sign_x * first_x, sign_x * last_x) + shift_x
                if (highest_x >= -border) & (lowest_x < W + border):
                    at_x = sign_x * col + shift_x
                    there = there_y & (at_x >= -border) & (at_x < W + border) & ((1 - sign_x) * edge_x == 0)
                    for t in range(K * K):
                        # In multiples of the stride, the query whose neighbour t is here.
                        from_y = at_y - (t // K - K // 2) * DILATION
                        from_x = at_x - (t % K - K // 2) * DILATION
                        y, x = from_y // STRIDE, from_x // STRIDE
                        near = there & (from_y >= 0) & (from_x >= 0) & (y < P) & (x < Q)
                        near = near & (y * STRIDE == from_y) & (x * STRIDE == from_x)
                        some = near[:, None] & channel
                        q_NC = _load(qkv + offset + (from_y * qkv_y + from_x * qkv_x)[:, None], some, exact) * scale
                        g_NC = _load(g + outputs + (y * out_y + x * out_x)[:, None], some, exact)
                        lse_N = tl.load(lse + plane + y * Q + x, near, float("inf"))
                        delta_N = tl.load(delta + plane + y * Q + x, near, 0.0)
                        weight_N = tl.exp(tl.sum(q_NC * k_NC, 1) - lse_N)  # 0 where no query is near
                        dv_NC += weight_N[:, None] * g_NC
                        dk_NC += (weight_N * (tl.sum(g_NC * v_NC, 1) - delta_N))[:, None] * q_NC
    tl.store(d_qkv + own + qkv_3, dk_NC, mask)
    tl.store(d_qkv + own + 2 * qkv_3, dv_NC, mask)
