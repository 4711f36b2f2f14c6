"""Scale-aware modulation of SMT in training on CUDA and other devices: 5 activation maps instead of 12.

The plain path saves x, s, z, m, v, m * v (C channels each) and three maps of E = 2 C channels inside the aggregation:
12 times its input. The backward pass needs the last four for one step each. Here they are computed again from z, m and
v: a grouped 1x1 convolution, a BatchNorm, a GELU and a product, all of them limited by memory traffic. The operations
are those of the plain path, in the same order and under the same autocast settings, so that outputs and gradients are
equal. The additional time has not been measured on CUDA.

Shapes  B batch, C channels, E channels inside the aggregation, H W height and width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .eligibility import Conv, Norm
from .modulation import Modulation, trains
from .slots import ANY_FLOAT, CUDA_TRAINING, OTHER, kernel


def _trains_with_gradients(x_BCHW: Tensor, layers: Modulation) -> bool:
    return torch.is_grad_enabled() and trains(x_BCHW, layers)


@kernel(
    "scale_aware_modulation",
    CUDA_TRAINING,
    OTHER,
    dtypes=ANY_FLOAT,
    autocast=True,
    when=_trains_with_gradients,
)
def recomputed_modulation(x_BCHW: Tensor, layers: Modulation) -> Tensor:
    """W_proj (m * v) with gradients, B C H W; updates the BatchNorm's running statistics."""
    s, v, heads, intra, norm, inter, proj = layers
    assert norm is not None
    parts = _conv2d(x_BCHW, s).chunk(len(heads), 1)
    context = [_conv2d(part, c) for part, c in zip(parts, heads, strict=True)]
    z_BCHW = torch.stack(context, 2).flatten(1, 2)
    del parts, context
    if norm.batches is not None:
        norm.batches.add_(1)
    running: list[tuple[Tensor, Tensor]] = [(norm.mean, norm.var)]

    def aggregate(z_BCHW: Tensor) -> Tensor:
        # The first call updates the running statistics; the recomputation updates copies.
        mean, var = running.pop() if running else (norm.mean.clone(), norm.var.clone())
        t_BEHW = _normalise(_conv2d(z_BCHW, intra), norm, mean, var)
        return _conv2d(F.gelu(t_BEHW), inter)

    m_BCHW = _recomputed(aggregate, z_BCHW)
    v_BCHW = _conv2d(x_BCHW, v)
    return _recomputed(lambda m, v: _conv2d(m * v, proj), m_BCHW, v_BCHW)


def _conv2d(x_BCHW: Tensor, conv: Conv) -> Tensor:
    return F.conv2d(x_BCHW, conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)


def _normalise(u_BEHW: Tensor, norm: Norm, mean_E: Tensor, var_E: Tensor) -> Tensor:
    return F.batch_norm(u_BEHW, mean_E, var_E, norm.weight, norm.bias, True, norm.momentum, norm.eps)


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call `function` and save its inputs only; it draws no random numbers, so that no random state is saved either."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
