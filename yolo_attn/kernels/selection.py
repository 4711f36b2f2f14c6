"""Selective Kernel on the CPU: a training step in less memory and time, and the weighted sum of two branches.

Autograd, left alone, keeps five maps for the backward pass of a two-branch SK: the input, each convolution's output c_k
(for BatchNorm) and each activated branch f_k (for ReLU and the weighted sum). f_k follows from c_k in one inexpensive
pass, so here only the c_k are kept and f_k is computed again. Everything after the convolutions is one step, so that
the two gradients that reach a branch, through the weighted sum and through the pooled description, meet in one pass:

    forward     z_k = bn_k(c_k),  f_k = relu(z_k),  s = sum_k mean(f_k),  a = softmax(fcs(fc(s))),  y = sum_k a_k f_k
    backward    da_k = sum over H W of g f_k,       ds through a,         g = dL/dy
                dz_k = [z_k > 0] (a_k g + ds / HW), dc_k by BatchNorm's own backward

Shapes  B batch, K branches, C channels, D squeezed channels, H W height and width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .autograd import first_order
from .eligibility import Conv, Norm
from .grouped import grouped_conv
from .slots import ANY_FLOAT, COMPILE, CPU_INFERENCE, CPU_TRAINING, CUDA_INFERENCE, CUDA_TRAINING, kernel


class Branch(NamedTuple):
    """Convolution and BatchNorm, unless that is folded; a ReLU follows."""

    conv: Conv
    norm: Norm | None


class Squeeze(NamedTuple):
    """From the pooled description to the logits: a layer, BatchNorm and ReLU if there are any, a layer per branch."""

    fc: Conv
    norm: Norm | None
    relu: bool
    fcs: tuple[Conv, ...]

    def tensors(self) -> list[Tensor | None]:
        """Weights and biases, in the order of `with_tensors`."""
        norm = (self.norm.weight, self.norm.bias) if self.norm else (None, None)
        return [self.fc.weight, self.fc.bias, *norm, *(t for fc in self.fcs for t in fc[:2])]

    def with_tensors(self, tensors: Sequence[Any]) -> Squeeze:
        """The same with other weights and biases."""
        weight, bias, gamma, beta, *rest = tensors
        norm = self.norm and self.norm._replace(weight=gamma, bias=beta)
        pairs = zip(self.fcs, rest[::2], rest[1::2], strict=True)
        fcs = tuple(fc._replace(weight=w, bias=b) for fc, w, b in pairs)
        return self._replace(fc=self.fc._replace(weight=weight, bias=bias), norm=norm, fcs=fcs)


def _trains(x_BCHW: Tensor, branches: Sequence[Branch], squeeze: Squeeze, split: bool) -> bool:
    several = len(x_BCHW) > 1 or max(x_BCHW.shape[2:]) > branches[0].conv.stride[0]
    return several and all(b.norm and b.norm.training for b in branches)


# Time of the plain path over that of the kernel, torch 2.15, one thread, where no groups are joined: 0.91 at
# 1 x 256 x 10 x 10, 1.08 at 1 x 256 x 20 x 20.
@kernel("selective_kernel", CPU_TRAINING, least=100_000, when=_trains)
def selective_kernel(x_BCHW: Tensor, branches: Sequence[Branch], squeeze: Squeeze, split: bool) -> Tensor:
    """sum_k a_k relu(bn_k(conv_k(x))), with the weights a from the pooled branches; updates the running statistics.

    Args:
        x_BCHW: The input.
        branches: Convolution and BatchNorm of each branch.
        squeeze: The layers that lead to the weights a.
        split: Each branch gets its own 1 / K of the input's channels.

    Returns:
        B C H W; height and width are those of the convolutions' outputs.
    """
    k = len(branches)
    parts = x_BCHW.chunk(k, 1) if split else [x_BCHW] * k
    maps = [grouped_conv(part, b.conv) for part, b in zip(parts, branches, strict=True)]
    norms = [b.norm for b in branches if b.norm]  # all of them: see `_trains`
    affine = [n.weight for n in norms] + [n.bias for n in norms]
    return _Select.apply(norms, squeeze, *maps, *affine, *squeeze.tensors())


class _Select(torch.autograd.Function):
    """Everything after the convolutions; takes the c_k, the BatchNorms' weights, their biases, `squeeze.tensors()`."""

    @staticmethod
    def forward(ctx: Any, norms: Sequence[Norm], squeeze: Squeeze, *tensors: Tensor) -> Tensor:
        k = len(norms)
        maps, gammas, betas = tensors[:k], tensors[k : 2 * k], tensors[2 * k : 3 * k]
        branches, statistics = [], []
        for c, gamma, beta, n in zip(maps, gammas, betas, norms, strict=True):
            f, *mean_and_invstd = torch.native_batch_norm(c, gamma, beta, n.mean, n.var, True, n.momentum, n.eps)
            if n.batches is not None:
                n.batches.add_(1)
            branches.append(f.relu_())
            statistics += mean_and_invstd
        leaves = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in tensors[3 * k :]]
        with torch.enable_grad():
            # The weights' own little graph: a few vectors, differentiated by hand in backward.
            s_BC11 = pooled_sum(branches).requires_grad_()
            a_BKC11 = _attend(s_BC11, squeeze.with_tensors(leaves))
        ctx.attended, ctx.eps = (s_BC11, a_BKC11, leaves), [n.eps for n in norms]
        ctx.save_for_backward(*tensors, *statistics)
        return _overwriting_sum(branches, a_BKC11.detach())

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        k = len(ctx.eps)
        saved = ctx.saved_tensors
        maps, gammas, betas, statistics = saved[:k], saved[k : 2 * k], saved[2 * k : 3 * k], saved[-2 * k :]
        means, invstds = statistics[::2], statistics[1::2]
        s_BC11, a_BKC11, leaves = ctx.attended

        # One spare map for all passes, in the layout of the c: BatchNorm's backward is several times slower where the
        # layouts differ, and so is memory fresh from the system.
        spare = torch.empty_like(maps[0])
        activated, da = [], []
        for c, gamma, beta, mean, invstd, eps in zip(maps, gammas, betas, means, invstds, ctx.eps, strict=True):
            f = F.batch_norm(c, mean, invstd.pow(-2) - eps, gamma, beta, False, 0.0, eps).relu_()
            da.append(torch.mul(g, f, out=spare).sum((2, 3), keepdim=True))
            activated.append(f)
        trained = [i for i, t in enumerate(leaves) if t is not None and t.requires_grad]
        ds_BC11, *found = torch.autograd.grad(
            a_BKC11, [s_BC11, *(leaves[i] for i in trained)], torch.stack(da, 1), retain_graph=True
        )
        d_leaves: list[Tensor | None] = [None] * len(leaves)
        for i, d in zip(trained, found, strict=True):
            d_leaves[i] = d
        ds_BC11 = ds_BC11 / (g.shape[2] * g.shape[3])

        d_maps, d_gammas, d_betas = [], [], []
        for i, (c, f, a_BC11) in enumerate(zip(maps, activated, a_BKC11.detach().unbind(1), strict=True)):
            dz = torch.mul(g, a_BC11, out=spare).add_(ds_BC11)
            dz = torch.ops.aten.threshold_backward.grad_input(dz, f, 0, grad_input=dz)
            needed = [ctx.needs_input_grad[2 + i + j * k] for j in range(3)]
            dc, d_gamma, d_beta = torch.ops.aten.native_batch_norm_backward(
                dz, c, gammas[i], None, None, means[i], invstds[i], True, ctx.eps[i], needed
            )
            d_maps.append(dc)
            d_gammas.append(d_gamma)
            d_betas.append(d_beta)
        return None, None, *d_maps, *d_gammas, *d_betas, *d_leaves


def _attend(s_BC11: Tensor, squeeze: Squeeze) -> Tensor:
    """Weights of the branches from the pooled description, B K C 1 1."""
    z_BD11 = F.conv2d(s_BC11, squeeze.fc.weight, squeeze.fc.bias)
    n = squeeze.norm
    if n is not None:
        # As `layers.BatchNorm2d`: a single value per channel has no variance.
        batch = n.training and len(z_BD11) > 1
        if batch and n.batches is not None:
            n.batches.add_(1)
        z_BD11 = F.batch_norm(z_BD11, n.mean, n.var, n.weight, n.bias, batch, n.momentum if batch else 0.0, n.eps)
    if squeeze.relu:
        z_BD11 = z_BD11.relu()
    return torch.stack([F.conv2d(z_BD11, fc.weight, fc.bias) for fc in squeeze.fcs], 1).softmax(1)


def pooled_sum(branches_BCHW: Sequence[Tensor]) -> Tensor:
    """Mean over space of the branches' sum, B C 1 1; as a sum of means, so that the map of the sum is never made."""
    s_BC11 = branches_BCHW[0].mean((2, 3), keepdim=True)
    for f_BCHW in branches_BCHW[1:]:
        s_BC11 = s_BC11 + f_BCHW.mean((2, 3), keepdim=True)
    return s_BC11


def _overwriting_sum(branches_BCHW: Sequence[Tensor], a_BKC11: Tensor) -> Tensor:
    """sum_k a_k f_k, B C H W, in the memory of one of the branches."""
    first, *others = branches_BCHW
    a_first, *a_others = a_BKC11.unbind(1)
    if len(others) == 1:
        return others[0].lerp_(first, a_first)  # the two weights add up to one
    y_BCHW = first.mul_(a_first)
    for a, f in zip(a_others, others, strict=True):
        y_BCHW.addcmul_(f, a)
    return y_BCHW


def _are_two(branches_BCHW: Sequence[Tensor], a_BKC11: Tensor) -> bool:
    return len(branches_BCHW) == 2


# Time of SK with products and a sum over that with this kernel, torch 2.15, one thread: 0.98 at 1 x 256 x 20 x 20, 1.08
# at 1 x 256 x 40 x 40. Not in exported graphs, where it becomes six nodes, and some runtimes do not have it.
@kernel("weighted_sum", CPU_INFERENCE, least=200_000, when=_are_two)
@kernel("weighted_sum", CUDA_INFERENCE, CUDA_TRAINING, COMPILE, dtypes=ANY_FLOAT, autocast=True, when=_are_two)
def lerp(branches_BCHW: Sequence[Tensor], a_BKC11: Tensor) -> Tensor:
    """The sum of two branches in one pass, a f + (1 - a) g, B C H W; their weights add up to one."""
    f_BCHW, g_BCHW = branches_BCHW
    return torch.lerp(g_BCHW, f_BCHW, a_BKC11[:, 0].to(f_BCHW.dtype))
