"""AttnConv of CloFormer on the CPU, in less time and memory.

The same sums in another order in memory, and less kept for the backward pass. The projections are matrix products that
turn the map into rows of channels on the way in, and rows into the map on the way out, at no cost; depthwise
convolution, pooling and softmax attention are faster on rows. Kept are the input, each branch's projection of it and
the keys, values and output of the global branch: 4 times the input, where autograd keeps 9. The rest is inexpensive to
compute again.

With l = w * v of a local branch, w = tanh(z), z = W2 s + b2 (the scale is part of W2 and b2), s = silu(u),
u = W1 p + b1, p = q * k:

    dv = dl * w,  dz = dl * v * (1 - w^2),  du = silu'(u) * W2' dz,  dp = W1' du,  dq = dp * k,  dk = dp * q

Softmax attention subtracts each query's largest logit only to keep exp() within range. Logits are at most
scale max|q| max|k| (Cauchy-Schwarz); where that is small, as it nearly always is, nothing needs to be subtracted and a
tile of logits is one product, one exp() and another product, which also sums the weights (a value of ones).

Shapes  B batch, C channels, H W height and width, N = H W positions, M pooled positions, P Q windows along the axes,
        m channels of a branch, T = 3m, h heads of the global branch, d channels of a head, D = d + 1,
        I O columns of a matrix product
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .autograd import first_order
from .depthwise import depthwise_conv, depthwise_input_grad, depthwise_weight_grad
from .pooling import add_window_means_grad, window_means
from .slots import CPU_INFERENCE, CPU_TRAINING, kernel

aten = torch.ops.aten
TILE = 2**18  # logits at a time: 1 MiB, which stays in a core's cache
LARGEST_LOGIT = 40.0  # exp(+-40) = 2e17, 4e-18: sums of their products with values stay far from float32's limits
LARGEST_VALUE = 1e10


class Settings(NamedTuple):
    """The numbers of an AttnConv.

    Attributes:
        local_scales: Factor before the tanh of each local branch.
        heads: Heads of the global branch, 0 without one.
        scale: Factor on its logits.
        window: Side of the windows that it pools.
        whole: It leaves out incomplete windows.
    """

    local_scales: tuple[float, ...]
    heads: int
    scale: float
    window: int
    whole: bool


class Weights(NamedTuple):
    """The tensors of an AttnConv; those of 1 x 1 convolutions are (O, I, 1, 1)."""

    qkv: Tensor  # q, k, v of each local branch, then q of the global branch
    qkv_bias: Tensor | None
    proj: Tensor
    proj_bias: Tensor | None
    kv: Tensor | None
    kv_bias: Tensor | None
    local: tuple[Any, ...]  # of each branch: depthwise kernel, its bias, W1, b1, W2, b2


PER_BRANCH = 6  # tensors in `Weights.local`


# Time of the plain path over that of the kernel, torch 2.15, one thread. Inference: 0.93 at 1 x 64 x 20 x 20, 0.98 at
# 1 x 128 x 20 x 20, 1.03 at 1 x 256 x 20 x 20. Training: 0.92 at 2 x 128 x 20 x 20, 0.98 at 4 x 256 x 13 x 13, 1.00 at
# 2 x 256 x 20 x 20, 1.12 at 4 x 256 x 26 x 26.
@kernel("attn_conv", CPU_INFERENCE, least=60_000)
def attn_conv(x_BCHW: Tensor, settings: Settings, weights: Weights) -> Tensor:
    """AttnConv without gradients, B C H W in and out."""
    return _forward(x_BCHW, settings, weights)[0]


@kernel("attn_conv", CPU_TRAINING, least=200_000)
def attn_conv_training(x_BCHW: Tensor, settings: Settings, weights: Weights) -> Tensor:
    """AttnConv with gradients, B C H W in and out."""
    return _AttnConv.apply(x_BCHW, settings, *weights[:-1], *weights.local)


class _AttnConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, settings: Settings, *tensors: Tensor) -> Tensor:
        y_BCHW, kept = _forward(x_BCHW, settings, _weights(tensors))
        ctx.settings, ctx.count = settings, len(tensors)
        ctx.save_for_backward(x_BCHW, *tensors, *kept)
        return y_BCHW

    @staticmethod
    @first_order
    def backward(ctx: Any, g_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, *saved = ctx.saved_tensors
        dx_BCHW, dw = _backward(x_BCHW, ctx.settings, _weights(saved[: ctx.count]), saved[ctx.count :], g_BCHW)
        return dx_BCHW, None, *dw[:-1], *dw.local


def _weights(tensors: Sequence[Tensor]) -> Weights:
    qkv, qkv_bias, proj, proj_bias, kv, kv_bias, *local = tensors
    return Weights(qkv, qkv_bias, proj, proj_bias, kv, kv_bias, tuple(local))


def _forward(x_BCHW: Tensor, settings: Settings, weights: Weights) -> tuple[Tensor, list[Tensor]]:
    """The output, and what the backward pass needs: the branches' projections, then keys and values, y, log sums."""
    size, x_BNC = x_BCHW.shape[2:], _rows(x_BCHW)
    projected = [_linear(x_BNC, *layer) for layer in _projections(weights)]
    branches = zip(projected, _branches(settings, weights), strict=False)
    parts_BNm = [_local(t_BNT, *branch, size)[0] for t_BNT, branch in branches]
    kept = []
    if weights.kv is not None:
        kv_BMI = _linear(_rows(_pool(x_BCHW, settings)), weights.kv.flatten(1), weights.kv_bias)
        y_BhNd, log_sum_BhN = attend(*_heads(projected[-1], kv_BMI, settings.heads), settings.scale)
        kept = [kv_BMI, y_BhNd, log_sum_BhN]
        parts_BNm.append(y_BhNd.transpose(1, 2).flatten(2))
    y_BCHW = x_BCHW.new_empty((len(x_BCHW), len(weights.proj), *size))
    y_BCN = _sum_of_products(_shares(weights), parts_BNm, out=y_BCHW.flatten(2))
    if weights.proj_bias is not None:
        y_BCN += weights.proj_bias[:, None]
    return y_BCHW, [*projected, *kept]


def _backward(
    x_BCHW: Tensor, settings: Settings, weights: Weights, kept: Sequence[Tensor], g_BCHW: Tensor
) -> tuple[Tensor, Weights]:
    """Gradients of the input and of the weights."""
    size, shares, projections = x_BCHW.shape[2:], _shares(weights), _projections(weights)
    x_BNC, g_BNC = _rows(x_BCHW), _rows(g_BCHW.contiguous())
    d_shares, d_projected, d_local = [], [], []  # of the last projection's columns; of the first ones' outputs
    for t_BNT, share_Cm, branch in zip(kept, shares, _branches(settings, weights), strict=False):
        local_BNm, dt_BNT, dw = _local_backward(t_BNT, *branch, size, _linear(g_BNC, share_Cm.t()))
        d_shares.append(_outer(g_BNC, local_BNm))
        d_projected.append(dt_BNT)
        d_local += dw
    d_pooled_BCPQ, d_kv, d_kv_bias = None, None, None
    if weights.kv is not None:
        t_BNm, kv_BMI, y_BhNd, log_sum_BhN = kept[-4:]
        q_BhNd, k_BhMd, v_BhMd = _heads(t_BNm, kv_BMI, settings.heads)
        y_BhNd = y_BhNd.transpose(1, 2).contiguous().transpose(1, 2)  # in rows
        dy_BhNd = _linear(g_BNC, shares[-1].t()).unflatten(2, (settings.heads, -1)).transpose(1, 2)
        d_qkv = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dy_BhNd, q_BhNd, k_BhMd, v_BhMd, y_BhNd, log_sum_BhN, 0.0, False, scale=settings.scale
        )
        dq_BNm, dk_BMm, dv_BMm = (d.transpose(1, 2).flatten(2) for d in d_qkv)
        d_shares.append(_outer(g_BNC, y_BhNd.transpose(1, 2).flatten(2)))
        d_projected.append(dq_BNm)
        d_kv_BMI, pooled_BCPQ = torch.cat([dk_BMm, dv_BMm], 2), _pool(x_BCHW, settings)
        d_kv, d_kv_bias = _outer(d_kv_BMI, _rows(pooled_BCPQ)), d_kv_BMI.sum((0, 1))
        d_pooled_BCPQ = _sum_of_products([weights.kv.flatten(1).t()], [d_kv_BMI]).unflatten(2, pooled_BCPQ.shape[2:])
    dx_BCHW = _sum_of_products([weight.t() for weight, _ in projections], d_projected).unflatten(2, size)
    if d_pooled_BCPQ is not None:
        add_window_means_grad(dx_BCHW, d_pooled_BCPQ, settings.window)
    gradients = Weights(
        qkv=torch.cat([_outer(dt, x_BNC) for dt in d_projected])[:, :, None, None],
        qkv_bias=torch.cat([dt.sum((0, 1)) for dt in d_projected]),
        proj=torch.cat(d_shares, 1)[:, :, None, None],
        proj_bias=g_BNC.sum((0, 1)),
        kv=None if d_kv is None else d_kv[:, :, None, None],
        kv_bias=d_kv_bias,
        local=tuple(d_local),
    )
    return dx_BCHW, gradients


def attend(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMd: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention without the N x M weights, and the logarithms of the sums of exp(logits) for its backward pass.

    Args:
        q_BhNd: Queries.
        k_BhMd: Keys.
        v_BhMd: Values.
        scale: Positive factor on the logits.

    Returns:
        B h N d, each in rows or each in maps, and B h N.
    """
    b, h, m, d = k_BhMd.shape
    # Smaller maps and wider heads gain nothing.
    if q_BhNd.shape[2] * m > 4 * TILE and d <= 16:
        q_BhdN, k_BhMd_scaled = q_BhNd.transpose(2, 3).contiguous(), (k_BhMd * scale).contiguous()
        # Bounds that are not a number are no bounds: the comparison is false then.
        largest = q_BhdN.square().sum(2).amax() * k_BhMd_scaled.square().sum(3).amax()
        if float(largest) <= LARGEST_LOGIT**2 and float(v_BhMd.abs().amax()) <= LARGEST_VALUE:
            v_BhDM = torch.cat([v_BhMd.transpose(2, 3), v_BhMd.new_ones((b, h, 1, m))], 2)
            y_BhDN = _attend_in_tiles(q_BhdN.flatten(0, 1), k_BhMd_scaled.flatten(0, 1), v_BhDM.flatten(0, 1))
            y_BhdN, total_Bh1N = y_BhDN.unflatten(0, (b, h)).split((d, 1), 2)
            return (y_BhdN / total_Bh1N).transpose(2, 3), total_Bh1N.squeeze(2).log()
    return aten._scaled_dot_product_flash_attention_for_cpu(q_BhNd, k_BhMd, v_BhMd, scale=scale)


def _attend_in_tiles(q_hdN: Tensor, k_hMd: Tensor, v_hDM: Tensor) -> Tensor:
    """Values times exp(k q), head by head, h D N; the heads of all images in a row."""
    (h, _, n), m = q_hdN.shape, k_hMd.shape[1]
    y_hDN = q_hdN.new_empty((h, v_hDM.shape[1], n))
    width = min(n, max(64, TILE // m // 64 * 64))
    tile = q_hdN.new_empty((m, width))
    for q_dN, k_Md, v_DM, y_DN in zip(q_hdN, k_hMd, v_hDM, y_hDN, strict=True):
        for left in range(0, n, width):
            some = slice(left, left + width)
            logits = torch.mm(k_Md, q_dN[:, some], out=tile[:, : min(width, n - left)])
            torch.mm(v_DM, logits.exp_(), out=y_DN[:, some])
    return y_hDN


def _local(t_BNT: Tensor, scale: float, weights: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, ...]:
    """A local branch on its projected rows: l, and what lay on the way there: q, k, v, u, s, w; B N m each."""
    kernel, bias, w1, b1, w2, b2 = weights
    q, k, v = _rows(depthwise_conv(_map(t_BNT, size), kernel, bias)).chunk(3, 2)
    u = _linear(q * k, w1.flatten(1), b1)
    s = F.silu(u)
    w = _linear(s, w2.flatten(1) * scale, b2 * scale).tanh_()
    return w * v, q, k, v, u, s, w


def _local_backward(
    t_BNT: Tensor, scale: float, weights: Sequence[Tensor], size: Sequence[int], dl_BNm: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The output of a local branch again, the gradient of its input, and those of its weights."""
    kernel, _, w1, _, w2, _ = weights
    local, q, k, v, u, s, w = _local(t_BNT, scale, weights, size)
    dz = aten.tanh_backward(dl_BNm * v, w)
    du = aten.silu_backward(_linear(dz, w2.flatten(1).t() * scale), u)
    dp = _linear(du, w1.flatten(1).t())
    d_mixed_BNT = torch.empty_like(t_BNT)
    for part, (a, b) in zip(d_mixed_BNT.chunk(3, 2), ((dp, k), (dp, q), (dl_BNm, w)), strict=True):
        torch.mul(a, b, out=part)
    d_mixed_BTHW = _map(d_mixed_BNT, size)
    dw = [
        *depthwise_weight_grad(_map(t_BNT, size), d_mixed_BTHW, kernel),
        _outer(du, q * k)[:, :, None, None],
        du.sum((0, 1)),
        _outer(dz, s)[:, :, None, None] * scale,
        dz.sum((0, 1)) * scale,
    ]
    return local, _rows(depthwise_input_grad(d_mixed_BTHW, kernel)), dw


def _branches(settings: Settings, weights: Weights) -> list[tuple[float, tuple[Tensor, ...]]]:
    """Scale and tensors of each local branch."""
    starts = range(0, len(weights.local), PER_BRANCH)
    tensors = (weights.local[i : i + PER_BRANCH] for i in starts)
    return list(zip(settings.local_scales, tensors, strict=True))


def _widths(weights: Weights) -> list[int]:
    """Channels m of each branch."""
    local = [len(kernel) // 3 for kernel in weights.local[::PER_BRANCH]]
    return local if weights.kv is None else [*local, len(weights.kv) // 2]


def _projections(weights: Weights) -> list[tuple[Tensor, Tensor | None]]:
    """Weight (O, C) and bias of each branch's projection."""
    widths = _widths(weights)
    count = len(weights.local) // PER_BRANCH
    splits = [3 * m for m in widths[:count]] + widths[count:]
    biases = [None] * len(splits) if weights.qkv_bias is None else weights.qkv_bias.split(splits)
    return list(zip(weights.qkv.flatten(1).split(splits), biases, strict=True))


def _shares(weights: Weights) -> tuple[Tensor, ...]:
    """The last projection's columns (C, m) for each branch."""
    return weights.proj.flatten(1).split(_widths(weights), 1)


def _heads(q_BNm: Tensor, kv_BMI: Tensor, h: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the global branch head by head: B h N d, B h M d, B h M d."""
    q, k, v = (t.unflatten(2, (h, -1)).transpose(1, 2) for t in (q_BNm, *kv_BMI.chunk(2, 2)))
    return q, k, v


def _pool(x_BCHW: Tensor, settings: Settings) -> Tensor:
    """The map that the global branch's keys and values are made of, B C P Q."""
    s = settings.window
    if s == 1:
        return x_BCHW
    pooled_BCPQ = window_means(x_BCHW, s)
    if settings.whole:
        pooled_BCPQ = pooled_BCPQ[:, :, : max(x_BCHW.shape[2] // s, 1), : max(x_BCHW.shape[3] // s, 1)]
    return pooled_BCPQ


def _rows(x_BCHW: Tensor) -> Tensor:
    """B C H W -> B N C, without a copy."""
    return x_BCHW.flatten(2).transpose(1, 2)


def _map(x_BNC: Tensor, size: Sequence[int]) -> Tensor:
    """B N C -> B C H W, without a copy: rows of channels are what PyTorch calls channels_last."""
    return x_BNC.unflatten(1, size).permute(0, 3, 1, 2)


def _linear(x_BNI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Rows in any layout -> B N O in rows."""
    factors = x_BNI, w_OI.t().expand(len(x_BNI), -1, -1)
    return torch.bmm(*factors) if bias_O is None else torch.baddbmm(bias_O, *factors)


def _sum_of_products(weights_OI: Sequence[Tensor], parts_BNI: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The sum of the maps B O N that each weight makes of its rows."""
    factors = [(w.expand(len(p), -1, -1), p.transpose(1, 2)) for w, p in zip(weights_OI, parts_BNI, strict=True)]
    y_BON = torch.bmm(*factors[0], out=out)
    for pair in factors[1:]:
        y_BON.baddbmm_(*pair)
    return y_BON


def _outer(a_BNO: Tensor, b_BNI: Tensor) -> Tensor:
    """Sum over batch and rows of a b', O I."""
    y_OI = a_BNO[0].t() @ b_BNI[0]
    for a_NO, b_NI in zip(a_BNO[1:], b_BNI[1:], strict=True):
        y_OI.addmm_(a_NO.t(), b_NI)
    return y_OI
