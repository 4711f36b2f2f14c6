"""Scale-aware modulation on CPU in less memory and time; the mechanism itself is in `smt`, and so are the letters.

Autograd, left alone, keeps twelve maps of the input's size for the backward pass. Here five are kept: the input, s, z,
m and v; what lies between is cheap to compute again.

The aggregation's BatchNorm needs no pass over its r C channels: they are linear in z, so their statistics follow from
the h x h covariance S of each group of z, and normalising is a change of W_intra. Per group, over n cells, z centred:

    u = W z + b        var u = diag(W S W')        t = A z + beta,  A = diag(gamma / sd(u)) W
    P = sum dt z'      dgamma = diag(W P') / sd(u),  dbeta = sum dt,  D = diag(dgamma / (n sd(u))) W
    dz = A' (dt - dbeta / n) - A' D z              dW = diag(gamma / sd(u)) (P - n D S)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BatchNorm2d
from .depthwise import input_grad, is_plain_depthwise, untouched, weight_grad

CL = torch.channels_last


def mixes_directly(s: Tensor, convs: Iterable[nn.Module]) -> bool:
    """Whether `mixed_conv` may stand in for calling the heads' convolutions in a training step."""
    return torch.is_grad_enabled() and untouched(s, *convs) and all(is_plain_depthwise(c) for c in convs)


def aggregates_directly(z: Tensor, intra: nn.Module, bn: nn.Module, act: nn.Module, inter: nn.Module) -> bool:
    """Whether `aggregate` (with gradients) or `infer` (without) may stand in for calling the four modules."""
    if not (untouched(z, intra, bn, act, inter) and type(intra) is type(inter) is nn.Conv2d):
        return False
    if type(act) is not nn.GELU or act.approximate != "none":
        return False
    if not torch.is_grad_enabled():
        return isinstance(bn, nn.Identity) or (type(bn) is BatchNorm2d and not bn.training)
    several = z.shape[0] * z.shape[2] * z.shape[3] > 1
    return type(bn) is BatchNorm2d and bn.training and bn.momentum is not None and several


def projects_directly(x: Tensor, s: nn.Module, v: nn.Module, proj: nn.Module) -> bool:
    """Whether `project` and `modulate` may stand in for the three linear maps: nobody watches or replaced them."""
    return untouched(x, s, v, proj) and type(s) is type(v) is type(proj) is nn.Conv2d


def project(x: Tensor, *maps: nn.Conv2d) -> tuple[Tensor, ...]:
    """The 1x1 convolutions of x; in one call, as one gradient of x is then made instead of several added up."""
    if not torch.is_grad_enabled():
        return tuple(m(x) for m in maps)
    return _Project.apply(x, *(m.weight for m in maps), *(m.bias for m in maps))


def mixed_conv(s: Tensor, convs: Iterable[Any]) -> Tensor:
    """Heads' depthwise convolutions, interleaved; B C H W in and out."""
    return _MixedConv.apply(s, *(c.weight for c in convs), *(c.bias for c in convs))


def aggregate(z: Tensor, intra: nn.Conv2d, bn: nn.Module, inter: nn.Conv2d) -> Tensor:
    """inter(gelu(bn(intra(z)))) with the batch's statistics; updates the running ones."""
    assert isinstance(bn, BatchNorm2d)
    if bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    return _Aggregate.apply(z, intra.weight, intra.bias, bn.weight, bn.bias, inter.weight, inter.bias, bn)


def modulate(m: Tensor, v: Tensor, proj: nn.Conv2d) -> Tensor:
    """proj(m * v); the product is computed again in the backward pass, or takes the place of v if there is none."""
    if not torch.is_grad_enabled():
        return proj(v.mul_(m))
    return _Modulate.apply(m, v, proj.weight, proj.bias)


def infer(z: Tensor, intra: nn.Conv2d, bn: nn.Module, inter: nn.Conv2d) -> Tensor:
    """inter(gelu(bn(intra(z)))) without gradients, the BatchNorm's running statistics folded into `intra`."""
    a, shift = intra.weight, cast(Tensor, intra.bias)
    if isinstance(bn, BatchNorm2d):
        scale, move = bn.scale_and_shift()
        a, shift = a * scale[:, None, None, None], torch.addcmul(move, shift, scale)
    return inter(torch.ops.aten.gelu_(_expand(z, a, shift)))


def _expand(z: Tensor, a: Tensor, shift: Tensor) -> Tensor:
    """A grouped 1x1 convolution as small matrix products: PyTorch's own is several times slower on CPU."""
    b, c, h, w = z.shape
    outputs, heads = a.shape[:2]
    groups = c // heads
    t = torch.baddbmm(_each(shift, b, groups, 1), _each(a, b, groups, heads), z.reshape(b * groups, heads, h * w))
    return t.view(b, outputs, h, w)


def _each(parameter: Tensor, b: int, groups: int, columns: int) -> Tensor:
    """Parameters of every group, once for each image."""
    return parameter.view(1, groups, -1, columns).expand(b, -1, -1, -1).flatten(0, 1)


def _linear_grads(g_BCN: Tensor, x_BCN: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a 1x1 convolution's weight and bias."""
    return torch.bmm(g_BCN, x_BCN.transpose(1, 2)).sum(0).view_as(weight), g_BCN.sum((0, 2))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        half = len(parameters) // 2
        weights, biases = parameters[:half], parameters[half:]
        ctx.save_for_backward(x, *weights)
        return tuple(F.conv2d(x, w, b) for w, b in zip(weights, biases, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        layout = CL if x.is_contiguous(memory_format=CL) else torch.contiguous_format
        dx = torch.empty_like(x, memory_format=layout) if ctx.needs_input_grad[0] else None
        parameters = []
        for i, (g, weight) in enumerate(zip(gradients, weights, strict=True)):
            g_BCN = g.flatten(2)
            if dx is not None:
                dx_BCN, w_BCC = dx.flatten(2), weight.flatten(1).t().expand(len(x), -1, -1)
                torch.baddbmm(dx_BCN, w_BCC, g_BCN, beta=min(i, 1), out=dx_BCN)  # the first overwrites
            parameters.append(_linear_grads(g_BCN, x.flatten(2), weight))
        d_weights, d_biases = zip(*parameters, strict=True)
        with_bias = ctx.needs_input_grad[1 + len(weights) :]
        return dx, *d_weights, *(b if needed else None for b, needed in zip(d_biases, with_bias, strict=True))


class _MixedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, *parameters: Tensor) -> Tensor:
        ctx.heads = heads = len(parameters) // 2
        weights, biases = parameters[:heads], parameters[heads:]
        ctx.save_for_backward(s, *weights)
        parts = zip(s.chunk(heads, 1), weights, biases, strict=True)
        context = [F.conv2d(part, w, b, padding=w.shape[2] // 2, groups=len(w)) for part, w, b in parts]
        return torch.stack(context, 2).flatten(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        s, *weights = ctx.saved_tensors
        heads = ctx.heads
        ds = torch.empty_like(s) if ctx.needs_input_grad[0] else None
        grads: list[tuple[Tensor | None, Tensor | None]] = []
        for i, (part, weight) in enumerate(zip(s.chunk(heads, 1), weights, strict=True)):
            g = dz[:, i::heads].contiguous(memory_format=CL)
            if ds is not None:
                ds.chunk(heads, 1)[i].copy_(input_grad(g, weight))
            needed = ctx.needs_input_grad[1 + i] or ctx.needs_input_grad[1 + heads + i]
            grads.append(weight_grad(part.contiguous(memory_format=CL), g, weight) if needed else (None, None))
        d_weights, d_biases = zip(*grads, strict=True)
        return ds, *d_weights, *d_biases


class _Aggregate(torch.autograd.Function):
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
        bn: BatchNorm2d,
    ) -> Tensor:
        b, c, h, w = z.shape
        heads = w_intra.shape[1]
        n, groups = b * h * w, c // heads
        mean = z.mean((0, 2, 3))
        z = (z - mean[:, None, None]).contiguous()  # centred first: a covariance from raw moments would lose digits
        z_gh = z.view(b * groups, heads, h * w)
        cov_Ghh = torch.bmm(z_gh, z_gh.transpose(1, 2)).view(b, groups, heads, heads).sum(0) / n
        w_GEh = w_intra.view(groups, -1, heads)
        var = ((w_GEh @ cov_Ghh) * w_GEh).sum(2).flatten()
        rsd = torch.rsqrt(var + bn.eps)
        if bn.running_mean is not None and bn.running_var is not None and bn.momentum is not None:
            mean_u = (w_GEh @ mean.view(groups, heads, 1)).flatten() + b_intra
            bn.running_mean.lerp_(mean_u.to(bn.running_mean.dtype), bn.momentum)
            bn.running_var.lerp_((var * (n / (n - 1))).to(bn.running_var.dtype), bn.momentum)
        a = w_intra * (gamma * rsd)[:, None, None, None]
        ctx.save_for_backward(z, cov_Ghh, rsd, a, w_intra, gamma, beta, w_inter)
        return F.conv2d(torch.ops.aten.gelu_(_expand(z, a, beta)), w_inter, b_inter)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dm: Tensor) -> tuple[Tensor | None, ...]:
        z, cov_Ghh, rsd, a, w_intra, gamma, beta, w_inter = ctx.saved_tensors
        b, c, h, w = z.shape
        e, heads = w_intra.shape[:2]
        n, groups = b * h * w, c // heads
        dm_BCN, z_ghN = dm.flatten(2), z.view(b * groups, heads, h * w)

        t = _expand(z, a, beta)
        f_BEN = F.gelu(t).flatten(2)
        dw_inter, db_inter = _linear_grads(dm_BCN, f_BEN, w_inter)
        # From here on the memory of f holds dL/df, then dL/dt.
        df_BEN = torch.bmm(w_inter.flatten(1).t().expand(b, -1, -1), dm_BCN, out=f_BEN)
        dt = df_BEN.view_as(t)
        dt = torch.ops.aten.gelu_backward.grad_input(dt, t, grad_input=dt)

        dt_gEN = dt.view(b * groups, e // groups, h * w)
        d_beta = dt.sum((0, 2, 3))
        p_GEh = torch.bmm(dt_gEN, z_ghN.transpose(1, 2)).view(b, groups, -1, heads).sum(0)
        w_GEh, a_GhE = w_intra.view_as(p_GEh), a.view_as(p_GEh).transpose(1, 2)
        rsd_GE1, gain_GE1 = rsd.view(groups, -1, 1), (gamma * rsd).view(groups, -1, 1)
        d_gamma = (w_GEh * p_GEh * rsd_GE1).sum(2)
        d_GEh = (d_gamma / n)[:, :, None] * rsd_GE1 * w_GEh
        dw_intra = gain_GE1 * (p_GEh - n * d_GEh @ cov_Ghh)
        # Zero but for rounding, as a BatchNorm follows; kept so that it rounds like any other gradient.
        db_intra = -gain_GE1 * (d_GEh @ z.sum((0, 2, 3)).view(groups, heads, 1))
        through_mean, through_var = a_GhE @ d_beta.view(groups, -1, 1) / -n, a_GhE @ -d_GEh
        dz = torch.baddbmm(_each(through_mean, b, groups, 1), _each(through_var, b, groups, heads), z_ghN)
        dz.baddbmm_(_each(a_GhE.contiguous(), b, groups, e // groups), dt_gEN)
        return (
            dz.view_as(z), dw_intra.view_as(w_intra), db_intra.flatten(), d_gamma.flatten(), d_beta,
            dw_inter, db_inter, None,
        )  # fmt: skip


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(m, v, weight)
        return F.conv2d(m * v, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        m, v, weight = ctx.saved_tensors
        b, _, h, w = m.shape
        g_BCN, y_BCN = g.reshape(b, -1, h * w), (m * v).flatten(2)
        dw, db = _linear_grads(g_BCN, y_BCN, weight)
        # The memory of y takes dL/dy, then dL/dv.
        dy = torch.bmm(weight.flatten(1).t().expand(b, -1, -1), g_BCN, out=y_BCN).view_as(m)
        return dy * v, dy.mul_(m), dw, db
