"""Selective Kernel's training step in less memory and time; the mechanism itself is in sknet.py.

Autograd, left alone, keeps five maps for the backward pass of a two-branch SK: the input, each convolution's output c_k
(for BatchNorm) and each activated branch f_k (for ReLU and the weighted sum). f_k is one cheap pass over c_k away, so
here only the c_k are kept and f_k is computed again. Everything after the convolutions is one step, so that the two
gradients that reach a branch, through the weighted sum and through the pooled description, meet in one pass:

    forward     z_k = bn_k(c_k),  f_k = relu(z_k),  s = sum_k mean(f_k),  a = attend(s),  y = sum_k a_k f_k
    backward    da_k = sum over H W of g f_k,       ds through attend,    g = dL/dy
                dz_k = [z_k > 0] (a_k g + ds / HW), dc_k by BatchNorm's own backward
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import BatchNorm2d


def lean_training(convs: Sequence[Any], x: Tensor) -> bool:
    """Whether `select` may stand in for the plain modules: an ordinary training step on the CPU.

    Tracing, compiling, watched, frozen or converted parts, one value per channel and other devices take the plain path.

    Args:
        convs: The branches, with `conv`, `bn` and `act`.
        x: Their input.

    Returns:
        Whether the step is ordinary.
    """
    return bool(
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and (x.shape[0] > 1 or max(x.shape[2:]) > convs[0].conv.stride[0])
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(
            type(b.bn) is BatchNorm2d
            and b.bn.training
            and b.bn.momentum is not None
            and b.bn.running_mean is not None
            and type(b.act) is nn.ReLU
            and not any(m._forward_hooks or m._backward_hooks for m in (b, b.conv, b.bn, b.act))
            for b in convs
        )
    )


def select(
    maps: Sequence[Tensor],
    norms: Sequence[BatchNorm2d],
    attend: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """sum_k a_k relu(bn_k(c_k)), with the weights a from the pooled branches.

    Args:
        maps: Outputs c_k of the convolutions, B C H W each.
        norms: The BatchNorm of each branch, in train mode; their running statistics are updated.
        attend: Pooled description (B, C, 1, 1) -> weights (B, K, C, 1, 1).
        parameters: What `attend` uses.

    Returns:
        y, B C H W.
    """
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    affine = [n.weight for n in norms] + [n.bias for n in norms]
    return _Select.apply(attend, norms, *maps, *affine, *(p for p in parameters if p.requires_grad))


class _Select(torch.autograd.Function):
    """The step of this file's docstring."""

    @staticmethod
    def forward(ctx: Any, attend: Callable[[Tensor], Tensor], norms: Sequence[BatchNorm2d], *tensors: Tensor) -> Tensor:
        k = len(norms)
        maps, weights, biases = tensors[:k], tensors[k : 2 * k], tensors[2 * k : 3 * k]
        branches, statistics = [], []
        for c, w, b, n in zip(maps, weights, biases, norms, strict=True):
            momentum: Any = n.momentum
            f, *mean_and_invstd = torch.native_batch_norm(c, w, b, n.running_mean, n.running_var, True, momentum, n.eps)
            branches.append(f.relu_())
            statistics += mean_and_invstd
        with torch.enable_grad():
            # The weights' own little graph: a few vectors, walked by hand in backward.
            s_BC11 = pooled_sum(branches).requires_grad_()
            a_BKC11 = attend(s_BC11)
        ctx.attended, ctx.eps = (s_BC11, a_BKC11), [n.eps for n in norms]
        ctx.save_for_backward(*tensors, *statistics)
        return weighted_sum(branches, a_BKC11.detach(), reuse=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        k = len(ctx.eps)
        saved = ctx.saved_tensors
        maps, weights, biases = saved[:k], saved[k : 2 * k], saved[2 * k : 3 * k]
        parameters, statistics = saved[3 * k : -2 * k], saved[-2 * k :]
        means, invstds = statistics[::2], statistics[1::2]
        s_BC11, a_BKC11 = ctx.attended

        # One spare map for all passes, in the layout of the c: BatchNorm's backward is several times slower where the
        # layouts differ, and so is memory fresh from the system.
        spare = torch.empty_like(maps[0])
        activated, da = [], []
        for c, w, b, mean, invstd, eps in zip(maps, weights, biases, means, invstds, ctx.eps, strict=True):
            f = nn.functional.batch_norm(c, mean, invstd.pow(-2) - eps, w, b, False, 0.0, eps).relu_()
            da.append(torch.mul(g, f, out=spare).sum((2, 3), keepdim=True))
            activated.append(f)
        da_BKC11 = torch.stack(da, 1).to(a_BKC11.dtype)
        ds_BC11, *d_parameters = torch.autograd.grad(a_BKC11, [s_BC11, *parameters], da_BKC11, retain_graph=True)
        ds_BC11 = (ds_BC11 / (g.shape[2] * g.shape[3])).to(g.dtype)

        d_maps, d_weights, d_biases = [], [], []
        a_KBC11 = a_BKC11.detach().to(g.dtype).unbind(1)
        for i, (c, f) in enumerate(zip(maps, activated, strict=True)):
            dz = torch.mul(g, a_KBC11[i], out=spare).add_(ds_BC11)
            dz = torch.ops.aten.threshold_backward.grad_input(dz, f, 0, grad_input=dz)
            needed = [ctx.needs_input_grad[2 + i + j * k] for j in range(3)]
            dc, dw, db = torch.ops.aten.native_batch_norm_backward(
                dz, c, weights[i], None, None, means[i], invstds[i], True, ctx.eps[i], needed
            )
            d_maps.append(dc if needed[0] else None)
            d_weights.append(dw if needed[1] else None)
            d_biases.append(db if needed[2] else None)
        return None, None, *d_maps, *d_weights, *d_biases, *d_parameters


def pooled_sum(branches: Sequence[Tensor]) -> Tensor:
    """Mean over space of the branches' sum, B C 1 1; as a sum of means, so that the map of the sum is never made."""
    s_BC11 = branches[0].mean((2, 3), keepdim=True)
    for f in branches[1:]:
        s_BC11 = s_BC11 + f.mean((2, 3), keepdim=True)
    return s_BC11


def weighted_sum(branches: Sequence[Tensor], a_BKC11: Tensor, reuse: bool = False) -> Tensor:
    """sum_k a_k f_k, B C H W, without stacking the branches.

    Args:
        branches: The f_k, B C H W each.
        a_BKC11: Their weights, which add up to one over K.
        reuse: The branches are not needed afterwards; write the sum over one of them.

    Returns:
        The weighted sum.
    """
    a_KBC11 = a_BKC11.to(branches[0].dtype).unbind(1)
    first, *others = branches
    if len(branches) == 2:
        # The two weights add up to one.
        (last,) = others
        return last.lerp_(first, a_KBC11[0]) if reuse else torch.lerp(last, first, a_KBC11[0])
    y = first.mul_(a_KBC11[0]) if reuse else first * a_KBC11[0]
    for a, f in zip(a_KBC11[1:], others, strict=True):
        y = y.addcmul_(f, a) if reuse else torch.addcmul(y, f, a)
    return y
