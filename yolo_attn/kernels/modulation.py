"""Scale-aware modulation of SMT on the CPU, in less memory and time.

Autograd, left alone, keeps twelve maps of the input's size for the backward pass. Here five are kept: the input, s, z,
m and v; what lies between is inexpensive to compute again.

The aggregation's BatchNorm needs no pass over its E = r C channels: they are linear in z, so their statistics follow
from the h x h covariance S of each group of z, and normalising is a change of W_intra. Per group, over n positions,
z centred:

    u = W z + b        var u = diag(W S W')        t = A z + beta,  A = diag(gamma / sd(u)) W
    P = sum dt z'      dgamma = diag(W P') / sd(u),  dbeta = sum dt,  D = diag(dgamma / (n sd(u))) W
    dz = A' (dt - dbeta / n) - A' D z              dW = diag(gamma / sd(u)) (P - n D S)

Shapes  B batch, C channels, H W height and width, N = H W positions, h heads, G = C / h groups, g = B G,
        E channels inside the aggregation, e = E / G, I O columns of a matrix product
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .autograd import first_order
from .depthwise import depthwise_conv, depthwise_input_grad, depthwise_weight_grad
from .eligibility import Conv, Norm
from .slots import CPU_INFERENCE, CPU_TRAINING, kernel

CL = torch.channels_last


class Modulation(NamedTuple):
    """The layers of a scale-aware modulation, all with biases but `s` and `v`, which may have none."""

    s: Conv
    v: Conv
    heads: tuple[Conv, ...]
    intra: Conv
    norm: Norm | None  # None: folded into `intra`
    inter: Conv
    proj: Conv


def trains(x_BCHW: Tensor, layers: Modulation) -> bool:
    """Whether the BatchNorm normalises with the statistics of this batch."""
    several = len(x_BCHW) * x_BCHW.shape[2:].numel() > 1
    return layers.norm is not None and layers.norm.training and several


def _infers(x_BCHW: Tensor, layers: Modulation) -> bool:
    return layers.norm is None or not layers.norm.training


# Time of the plain path over that of the kernel, torch 2.15, one thread. Training: 0.73 at 1 x 64 x 10 x 10, 0.97 at
# 1 x 64 x 20 x 20, 1.14 at 2 x 64 x 20 x 20. Inference: 0.98 at 1 x 64 x 20 x 20, 1.13 at 1 x 128 x 20 x 20.
LEAST = 30_000


@kernel("scale_aware_modulation", CPU_TRAINING, least=LEAST, when=trains)
def modulation_training(x_BCHW: Tensor, layers: Modulation) -> Tensor:
    """W_proj (m * v) with gradients, B C H W; updates the BatchNorm's running statistics."""
    s, v, heads, intra, norm, inter, proj = layers
    assert norm is not None
    s_BCHW, v_BCHW = _Project.apply(x_BCHW, s.weight, s.bias, v.weight, v.bias)
    z_BCHW = _MixedConv.apply(s_BCHW, *(c.weight for c in heads), *(c.bias for c in heads))
    affine = intra.weight, intra.bias, norm.weight, norm.bias, inter.weight, inter.bias
    m_BCHW = _Aggregate.apply(z_BCHW, *affine, norm)
    return _Modulate.apply(m_BCHW, v_BCHW, proj.weight, proj.bias)


@kernel("scale_aware_modulation", CPU_INFERENCE, least=LEAST, when=_infers)
def modulation_inference(x_BCHW: Tensor, layers: Modulation) -> Tensor:
    """W_proj (m * v) without gradients, B C H W; the BatchNorm is folded into `intra`."""
    s, v, heads, intra, norm, inter, proj = layers
    parts = F.conv2d(x_BCHW, s.weight, s.bias).chunk(len(heads), 1)
    context = [depthwise_conv(part, c.weight, c.bias) for part, c in zip(parts, heads, strict=True)]
    del parts
    # Stacking behind the channel axis joins the heads and interleaves them in the same copy.
    z_BCHW = torch.stack(context, 2).flatten(1, 2)
    del context
    a, shift = intra.weight, intra.bias
    assert shift is not None
    if norm is not None:
        scale = norm.weight * torch.rsqrt(norm.var + norm.eps)
        a, shift = a * scale[:, None, None, None], torch.addcmul(norm.bias - norm.mean * scale, shift, scale)
    t_BEHW = _expand(z_BCHW, a, shift)
    del z_BCHW
    m_BCHW = F.conv2d(torch.ops.aten.gelu_(t_BEHW), inter.weight, inter.bias)
    del t_BEHW
    # v waits until the memory of what leads to m is free, and the product takes its place.
    v_BCHW = F.conv2d(x_BCHW, v.weight, v.bias)
    return F.conv2d(v_BCHW.mul_(m_BCHW), proj.weight, proj.bias)


class _Project(torch.autograd.Function):
    """Two 1 x 1 convolutions of one map; their two gradients of it are added while they are computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *parameters[::2])
        return tuple(F.conv2d(x, w, b) for w, b in zip(parameters[::2], parameters[1::2], strict=True))

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        layout = CL if x.is_contiguous(memory_format=CL) else torch.contiguous_format
        dx = torch.empty_like(x, memory_format=layout) if ctx.needs_input_grad[0] else None
        parameters: list[Tensor] = []
        for i, (g, weight) in enumerate(zip(gradients, weights, strict=True)):
            g_BCN = g.flatten(2)
            if dx is not None:
                dx_BCN, w_BCC = dx.flatten(2), weight.flatten(1).t().expand(len(x), -1, -1)
                torch.baddbmm(dx_BCN, w_BCC, g_BCN, beta=min(i, 1), out=dx_BCN)  # the first overwrites
            parameters += _pointwise_grads(g_BCN, x.flatten(2), weight)
        return dx, *parameters


class _MixedConv(torch.autograd.Function):
    """The heads' depthwise convolutions, interleaved; B C H W in and out."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, *parameters: Tensor) -> Tensor:
        ctx.heads = heads = len(parameters) // 2
        weights, biases = parameters[:heads], parameters[heads:]
        ctx.save_for_backward(s, *weights)
        parts = zip(s.chunk(heads, 1), weights, biases, strict=True)
        return torch.stack([depthwise_conv(part, w, b) for part, w, b in parts], 2).flatten(1, 2)

    @staticmethod
    @first_order
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        s, *weights = ctx.saved_tensors
        heads, needed = ctx.heads, ctx.needs_input_grad
        ds = torch.empty_like(s) if needed[0] else None
        grads: list[tuple[Tensor | None, Tensor | None]] = []
        for i, (part, weight) in enumerate(zip(s.chunk(heads, 1), weights, strict=True)):
            g = dz[:, i::heads].contiguous(memory_format=CL)
            if ds is not None:
                ds.chunk(heads, 1)[i].copy_(depthwise_input_grad(g, weight))
            wanted = needed[1 + i] or needed[1 + heads + i]
            grads.append(depthwise_weight_grad(part.contiguous(memory_format=CL), g, weight) if wanted else (None,) * 2)
        d_weights, d_biases = zip(*grads, strict=True)
        return ds, *d_weights, *d_biases


class _Aggregate(torch.autograd.Function):
    """W_inter gelu(bn(W_intra z)) with the batch's statistics; updates the running ones."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        w_intra: Tensor,
        b_intra: Tensor,
        gamma: Tensor,
        beta: Tensor,
        w_inter: Tensor,
        b_inter: Tensor,
        norm: Norm,
    ) -> Tensor:
        b, c, h, w = z.shape
        heads = w_intra.shape[1]
        n, groups = b * h * w, c // heads
        mean = z.mean((0, 2, 3))
        z = (z - mean[:, None, None]).contiguous()  # centred first: a covariance from raw moments would lose digits
        z_ghN = z.view(b * groups, heads, h * w)
        cov_Ghh = torch.bmm(z_ghN, z_ghN.transpose(1, 2)).view(b, groups, heads, heads).sum(0) / n
        w_Geh = w_intra.view(groups, -1, heads)
        var = ((w_Geh @ cov_Ghh) * w_Geh).sum(2).flatten()
        rsd = torch.rsqrt(var + norm.eps)
        if norm.batches is not None:
            norm.batches.add_(1)
        mean_u = (w_Geh @ mean.view(groups, heads, 1)).flatten() + b_intra
        norm.mean.lerp_(mean_u, norm.momentum)
        norm.var.lerp_(var * (n / (n - 1)), norm.momentum)
        a = w_intra * (gamma * rsd)[:, None, None, None]
        # The batch's mean takes the bias away again, unless it is infinite or not a number.
        shift = beta + b_intra * 0
        ctx.save_for_backward(z, cov_Ghh, rsd, a, shift, w_intra, gamma, w_inter)
        return F.conv2d(torch.ops.aten.gelu_(_expand(z, a, shift)), w_inter, b_inter)

    @staticmethod
    @first_order
    def backward(ctx: Any, dm: Tensor) -> tuple[Tensor | None, ...]:
        z, cov_Ghh, rsd, a, shift, w_intra, gamma, w_inter = ctx.saved_tensors
        b, c, h, w = z.shape
        e, heads = w_intra.shape[:2]
        n, groups = b * h * w, c // heads
        dm_BCN, z_ghN = dm.flatten(2), z.view(b * groups, heads, h * w)

        t = _expand(z, a, shift)
        f_BEN = F.gelu(t).flatten(2)
        dw_inter, db_inter = _pointwise_grads(dm_BCN, f_BEN, w_inter)
        # From here on the memory of f holds dL/df, then dL/dt.
        df_BEN = torch.bmm(w_inter.flatten(1).t().expand(b, -1, -1), dm_BCN, out=f_BEN)
        dt = df_BEN.view_as(t)
        dt = torch.ops.aten.gelu_backward.grad_input(dt, t, grad_input=dt)

        dt_geN = dt.view(b * groups, e // groups, h * w)
        d_beta = dt.sum((0, 2, 3))
        p_Geh = torch.bmm(dt_geN, z_ghN.transpose(1, 2)).view(b, groups, -1, heads).sum(0)
        w_Geh, a_Ghe = w_intra.view_as(p_Geh), a.view_as(p_Geh).transpose(1, 2)
        rsd_Ge1, gain_Ge1 = rsd.view(groups, -1, 1), (gamma * rsd).view(groups, -1, 1)
        d_gamma = (w_Geh * p_Geh * rsd_Ge1).sum(2)
        d_Geh = (d_gamma / n)[:, :, None] * rsd_Ge1 * w_Geh
        dw_intra = gain_Ge1 * (p_Geh - n * d_Geh @ cov_Ghh)
        # Zero but for rounding, as a BatchNorm follows; kept so that it rounds like any other gradient.
        db_intra = -gain_Ge1 * (d_Geh @ z.sum((0, 2, 3)).view(groups, heads, 1))
        through_mean, through_var = a_Ghe @ d_beta.view(groups, -1, 1) / -n, a_Ghe @ -d_Geh
        dz = torch.baddbmm(_each(through_mean, b, groups, 1), _each(through_var, b, groups, heads), z_ghN)
        dz.baddbmm_(_each(a_Ghe.contiguous(), b, groups, e // groups), dt_geN)
        return (
            dz.view_as(z), dw_intra.view_as(w_intra), db_intra.flatten(), d_gamma.flatten(), d_beta,
            dw_inter, db_inter, None,
        )  # fmt: skip


class _Modulate(torch.autograd.Function):
    """W (m * v); the product is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(m, v, weight)
        return F.conv2d(m * v, weight, bias)

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        m, v, weight = ctx.saved_tensors
        b, _, h, w = m.shape
        g_BCN, y_BCN = g.reshape(b, -1, h * w), (m * v).flatten(2)
        dw, db = _pointwise_grads(g_BCN, y_BCN, weight)
        # The memory of y takes dL/dy, then dL/dv.
        dy = torch.bmm(weight.flatten(1).t().expand(b, -1, -1), g_BCN, out=y_BCN).view_as(m)
        return dy * v, dy.mul_(m), dw, db


def _expand(z_BCHW: Tensor, a_Eh11: Tensor, shift_E: Tensor) -> Tensor:
    """A grouped 1 x 1 convolution as small matrix products, B E H W: PyTorch's own is several times slower on CPUs."""
    b, c, height, width = z_BCHW.shape
    outputs, heads = a_Eh11.shape[:2]
    groups = c // heads
    z_ghN = z_BCHW.reshape(b * groups, heads, height * width)
    t_geN = torch.baddbmm(_each(shift_E, b, groups, 1), _each(a_Eh11, b, groups, heads), z_ghN)
    return t_geN.view(b, outputs, height, width)


def _each(parameter: Tensor, b: int, groups: int, columns: int) -> Tensor:
    """Parameters of every group, once for each image: g rows columns."""
    return parameter.view(1, groups, -1, columns).expand(b, -1, -1, -1).flatten(0, 1)


def _pointwise_grads(g_BON: Tensor, x_BIN: Tensor, w_OI11: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a 1 x 1 convolution's weight and bias."""
    return torch.bmm(g_BON, x_BIN.transpose(1, 2)).sum(0).view_as(w_OI11), g_BON.sum((0, 2))
