"""AttnConv on CPU, in less time and memory; the mechanism itself is in `cloformer`, and so are the letters.

The same sums in another order in memory, and less kept for the backward pass. The projections are matrix products that
turn the map into rows of channels on the way in, and rows into the map on the way out, at no cost; depthwise
convolution, pooling and softmax attention are faster on rows. Kept are the input, each branch's projection of it and
what the global branch read: 4 times the input, where autograd keeps 9. The rest is cheap to compute again.

With l = w * v of a local branch, w = tanh(z), z = W2 s + b2 (the scale is part of W2 and b2), s = silu(u),
u = W1 p + b1, p = q * k:

    dv = dl * w,  dz = dl * v * (1 - w^2),  du = silu'(u) * W2' dz,  dp = W1' du,  dq = dp * k,  dk = dp * q

Softmax attention subtracts each query's largest logit only to keep exp() within range. Logits are at most
scale max|q| max|k| (Cauchy-Schwarz); where that is small, as it nearly always is, nothing needs to be subtracted and a
tile of logits is one product, one exp() and another product, which also sums the weights (a value of ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .depthwise import input_grad, is_plain_depthwise, untouched, weight_grad

if TYPE_CHECKING:
    from ..blocks.cloformer.operator import AttnConv

Weights = dict[str, Tensor]  # of the module, by name
aten = torch.ops.aten
TILE = 2**18  # logits at a time: 1 MiB, which stays in a core's cache
LARGEST_LOGIT = 40.0  # exp(+-40) = 2e17, 4e-18: sums of their products with values stay far from float32's limits
LARGEST_VALUE = 1e10


def attends_directly(module: AttnConv, x: Tensor) -> bool:
    """Whether `attend_directly` may stand in for calling the parts of `module` one by one."""
    parts = list(module.modules())[1:]
    convs = [m for m in parts if isinstance(m, nn.Conv2d)]
    return (
        not (module.training and module.attn_drop)
        and untouched(x, *parts)
        and all(type(m) is nn.Conv2d for m in convs)
        and all(is_plain_depthwise(m) for m in convs if m.groups > 1)
    )


def attend_directly(module: AttnConv, x: Tensor) -> Tensor:
    """What `module` gives for `x`, before `proj_drop`."""
    weights: Weights = dict(module.named_parameters())
    if torch.is_grad_enabled():
        return _AttnConv.apply(module, x, *weights.values())
    return _forward(module, weights, x)[0]


class _AttnConv(torch.autograd.Function):
    """AttnConv without `proj_drop`; the weights are the module's, in its order."""

    @staticmethod
    def forward(ctx: Any, module: AttnConv, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.module, ctx.names = module, [k for k, _ in module.named_parameters()]
        y, kept = _forward(module, dict(zip(ctx.names, weights, strict=True)), x)
        ctx.save_for_backward(x, *weights, *kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        weights = dict(zip(ctx.names, saved, strict=False))
        dx, dw = _backward(ctx.module, weights, x, saved[len(weights) :], g)
        # What was not asked for is a small share of the work; autograd drops it.
        return None, dx, *(dw[k] for k in ctx.names)


def _forward(module: AttnConv, weights: Weights, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output, and what the backward pass needs: the branches' projections, then keys and values, y, log sums."""
    size = x.shape[2:]
    projected = [_linear(_rows(x), *layer) for layer in _projections(module, weights)]
    parts = [_local(module, weights, i, t, size)[0] for i, t in enumerate(projected[: len(module.local)])]
    kept = []
    if module.global_heads:
        kv = _linear(_rows(_pooled(module, x)), weights["kv.weight"].flatten(1), weights.get("kv.bias"))
        y, log_sum = attend(*_heads(module, projected[-1], kv), module.scale)
        kept = [kv, y, log_sum]
        parts.append(y.transpose(1, 2).flatten(2))
    y = _sum_of_products(_shares(module, weights), parts)
    if "proj.bias" in weights:
        y += weights["proj.bias"][:, None]
    return y.unflatten(2, size), [*projected, *kept]


def _backward(module: AttnConv, weights: Weights, x: Tensor, kept: list[Tensor], g: Tensor) -> tuple[Tensor, Weights]:
    """Gradients of the input and of the weights."""
    size, shares, projections = x.shape[2:], _shares(module, weights), _projections(module, weights)
    x_rows, g_rows = _rows(x), _rows(g.contiguous())
    dw: Weights = {}
    d_shares, d_projected = [], []  # of the last projection's columns; of the first projections' outputs
    for i, (t, share) in enumerate(zip(kept[: len(module.local)], shares, strict=False)):
        dl = _linear(g_rows, share.t())
        local, dt, dw_i = _local_backward(module, weights, i, t, dl, size)
        d_shares.append(_outer(g_rows, local))
        d_projected.append(dt)
        dw |= dw_i
    d_pooled = None
    if module.global_heads:
        t, kv, y, log_sum = kept[-4:]
        q, k, v = _heads(module, t, kv)
        y = y.transpose(1, 2).contiguous().transpose(1, 2)  # rows
        dy = _linear(g_rows, shares[-1].t()).unflatten(2, (module.global_heads, -1)).transpose(1, 2)
        d_qkv = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dy, q, k, v, y, log_sum, 0.0, False, scale=module.scale
        )
        dq, dk, dv = (d.transpose(1, 2).flatten(2) for d in d_qkv)
        d_shares.append(_outer(g_rows, y.transpose(1, 2).flatten(2)))
        d_projected.append(dq)
        d_kv, pooled = torch.cat([dk, dv], 2), _pooled(module, x)
        dw["kv.weight"], dw["kv.bias"] = _outer(d_kv, _rows(pooled))[:, :, None, None], d_kv.sum((0, 1))
        d_pooled = _sum_of_products([weights["kv.weight"].flatten(1).t()], [d_kv]).unflatten(2, pooled.shape[2:])
    dx = _sum_of_products([weight.t() for weight, _ in projections], d_projected).unflatten(2, size)
    if d_pooled is not None:
        _unpool(dx, d_pooled, module.window_size)
    dw["qkv.weight"] = torch.cat([_outer(dt, x_rows) for dt in d_projected])[:, :, None, None]
    dw["qkv.bias"] = torch.cat([dt.sum((0, 1)) for dt in d_projected])
    dw["proj.weight"], dw["proj.bias"] = torch.cat(d_shares, 1)[:, :, None, None], g_rows.sum((0, 1))
    return dx, dw


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention without the N x M weights, and the logarithms of the sums of exp(logits) for its backward pass.

    Args:
        q: Queries, (B, heads, N, d).
        k: Keys, (B, heads, M, d).
        v: Values, (B, heads, M, d).
        scale: Positive factor on the logits.

    Returns:
        (B, heads, N, d), each in rows or each in maps, and (B, heads, N).
    """
    heads, (n, m, d) = q.shape[:2], (q.shape[2], *k.shape[2:])
    # Smaller maps and wider heads gain nothing, and only plain tensors have values to look at.
    if n * m > 4 * TILE and d <= 16 and all(type(t) is Tensor for t in (q, k, v)):
        queries, keys = q.transpose(2, 3).contiguous(), (k * scale).contiguous()
        # Bounds that are not a number are no bounds: the comparison is false then.
        largest = queries.square().sum(2).amax() * keys.square().sum(3).amax()
        if float(largest) <= LARGEST_LOGIT**2 and float(v.abs().amax()) <= LARGEST_VALUE:
            values = torch.cat([v.transpose(2, 3), v.new_ones((*heads, 1, m))], 2)
            y = _attend_in_tiles(queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1))
            y, total = y.unflatten(0, heads).split((d, 1), 2)
            return (y / total).transpose(2, 3), total.squeeze(2).log()
    return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)


def _attend_in_tiles(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Values times exp(k q), head by head: (heads, d, N), (heads, M, d), (heads, D, M) -> (heads, D, N)."""
    (heads, _, n), m = q.shape, k.shape[1]
    y = q.new_empty((heads, v.shape[1], n))
    width = min(n, max(64, TILE // m // 64 * 64))
    tile = q.new_empty((m, width))
    for q_i, k_i, v_i, y_i in zip(q, k, v, y, strict=True):
        for left in range(0, n, width):
            some = slice(left, left + width)
            logits = torch.mm(k_i, q_i[:, some], out=tile[:, : min(width, n - left)])
            torch.mm(v_i, logits.exp_(), out=y_i[:, some])
    return y


def _local(module: AttnConv, weights: Weights, i: int, t: Tensor, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Local branch i on rows (B, N, 3m): l (B, N, m), and what lay on the way there: q, k, v, u, s, w."""
    kernel, w1, b1, w2, b2 = _local_weights(module, weights, i)
    bias = weights[f"local.{i}.conv.bias"]
    mixed = F.conv2d(_image(t, size), kernel, bias, padding=kernel.shape[2] // 2, groups=kernel.shape[0])
    q, k, v = _rows(mixed).chunk(3, 2)
    u = _linear(q * k, w1, b1)
    s = F.silu(u)
    w = _linear(s, w2, b2).tanh_()
    return w * v, q, k, v, u, s, w


def _local_backward(
    module: AttnConv, weights: Weights, i: int, t: Tensor, dl: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor, Weights]:
    """The output of local branch i again, the gradient of its input, and those of its weights."""
    kernel, w1, _, w2, _ = _local_weights(module, weights, i)
    local, q, k, v, u, s, w = _local(module, weights, i, t, size)
    dz = aten.tanh_backward(dl * v, w)
    du = aten.silu_backward(_linear(dz, w2.t()), u)
    dp = _linear(du, w1.t())
    d_mixed = torch.empty_like(t)
    for part, (a, b) in zip(d_mixed.chunk(3, 2), ((dp, k), (dp, q), (dl, w)), strict=True):
        torch.mul(a, b, out=part)
    image = _image(d_mixed, size)
    d_kernel, d_bias = weight_grad(_image(t, size), image, kernel)
    scale, name = module.scale, f"local.{i}."
    dw = {
        name + "conv.weight": d_kernel,
        name + "conv.bias": d_bias,
        name + "attn_map.fc1.weight": _outer(du, q * k)[:, :, None, None],
        name + "attn_map.fc1.bias": du.sum((0, 1)),
        name + "attn_map.fc2.weight": _outer(dz, s)[:, :, None, None] * scale,
        name + "attn_map.fc2.bias": dz.sum((0, 1)) * scale,
    }
    return local, _rows(input_grad(image, kernel)), dw


def _local_weights(module: AttnConv, weights: Weights, i: int) -> tuple[Tensor, ...]:
    """Depthwise kernel, W1, b1, and, with the scale in them, W2, b2."""
    w1, b1, w2, b2 = (weights[f"local.{i}.attn_map.{k}"] for k in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
    return weights[f"local.{i}.conv.weight"], w1.flatten(1), b1, w2.flatten(1) * module.scale, b2 * module.scale


def _projections(module: AttnConv, weights: Weights) -> list[tuple[Tensor, Tensor | None]]:
    """Weight (O, C) and bias of each branch's projection."""
    bias = weights.get("qkv.bias")
    biases = bias.split(module.splits) if bias is not None else [None] * len(module.splits)
    return list(zip(weights["qkv.weight"].flatten(1).split(module.splits), biases, strict=True))


def _shares(module: AttnConv, weights: Weights) -> tuple[Tensor, ...]:
    """The last projection's columns (C, m) for each branch."""
    n = len(module.local)
    widths = [s // 3 for s in module.splits[:n]] + module.splits[n:]
    return weights["proj.weight"].flatten(1).split(widths, 1)


def _heads(module: AttnConv, q: Tensor, kv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the global branch, head by head: (B, N, m), (B, M, 2m) -> three times (B, heads, N or M, d)."""
    k, v = kv.chunk(2, 2)
    q, k, v = (t.unflatten(2, (module.global_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return q, k, v


def _pooled(module: AttnConv, x: Tensor) -> Tensor:
    """The pooled map; pooling is many times faster where channels lie side by side."""
    return module.pool(x.contiguous(memory_format=torch.channels_last))


def _unpool(dx: Tensor, d_pooled: Tensor, s: int) -> None:
    """Add to `dx` what each cell gets of its window's gradient."""
    (h, w), (down, across) = dx.shape[2:], d_pooled.shape[2:]
    rows = (h - torch.arange(down) * s).clamp(max=s)
    columns = (w - torch.arange(across) * s).clamp(max=s)
    d = d_pooled / (rows[:, None] * columns).to(d_pooled.dtype)
    d = d[..., None].expand(-1, -1, -1, -1, s).flatten(3)[..., : min(w, across * s)]
    for i in range(s):
        line = dx[:, :, i : down * s : s, : d.shape[3]]
        line += d[:, :, : line.shape[2]]


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C), without a copy."""
    return x.flatten(2).transpose(1, 2)


def _image(rows: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, C) -> (B, C, H, W), without a copy: rows of channels are what PyTorch calls channels_last."""
    return rows.unflatten(1, size).permute(0, 3, 1, 2)


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, N, C) in any layout -> (B, N, O) in rows."""
    factors = rows, weight.t().expand(rows.shape[0], -1, -1)
    return torch.bmm(*factors) if bias is None else torch.baddbmm(bias, *factors)


def _sum_of_products(weights: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """The sum of the maps (B, O, N) that each weight (O, C) makes of its rows (B, N, C)."""
    factors = [(w.expand(p.shape[0], -1, -1), p.transpose(1, 2)) for w, p in zip(weights, parts, strict=True)]
    y = torch.bmm(*factors[0])
    for pair in factors[1:]:
        y.baddbmm_(*pair)
    return y


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Sum over batch and rows of a b': (B, N, P), (B, N, Q) -> (P, Q)."""
    y = a[0].t() @ b[0]
    for a_i, b_i in zip(a[1:], b[1:], strict=True):
        y.addmm_(a_i.t(), b_i)
    return y
