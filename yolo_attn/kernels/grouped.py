"""Grouped convolutions on the CPU, several times faster where a group has two or four channels.

PyTorch's CPU routines work on blocks of eight channels: convolutions with smaller groups (depthwise ones aside) take
slow ones, above all in training. Here neighbouring groups are joined to groups of eight channels whose weights are zero
between the original groups: the same numbers from more, but faster, multiplications.

Shapes  B batch, I O channels in and out, P Q height and width of the output
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv
from .slots import CPU_INFERENCE, CPU_TRAINING, kernel

BLOCK = 8  # channels in a block


def _join(conv: Conv) -> int:
    """How many groups to join to one; 1 where nothing is gained."""
    per_group = min(conv.weight.shape[1], len(conv.weight) // conv.groups)
    if per_group not in (2, 4) or conv.groups % (BLOCK // per_group):
        return 1
    # Measured: a dilated convolution with four channels a group gains nothing.
    return 1 if per_group == 4 and conv.dilation != (1, 1) else BLOCK // per_group


def _joins(x_BIHW: Tensor, conv: Conv) -> bool:
    return _join(conv) > 1


@kernel("grouped_conv", CPU_TRAINING, CPU_INFERENCE, when=_joins)
def grouped_conv(x_BIHW: Tensor, conv: Conv) -> Tensor:
    """A convolution, with its groups joined where that is faster, B O P Q."""
    join = _join(conv)
    groups = conv.groups // join
    weight = conv.weight if join == 1 else join_groups(conv.weight, conv.groups, join)
    return F.conv2d(x_BIHW, weight, conv.bias, conv.stride, conv.padding, conv.dilation, groups)


def join_groups(weight: Tensor, groups: int, join: int) -> Tensor:
    """The kernels of a grouped convolution, (O, I / groups, k, k), for a convolution with `join` groups in one.

    Args:
        weight: The kernels.
        groups: Number of groups, a multiple of `join`.
        join: Groups to join.

    Returns:
        (O, join * I / groups, k, k), zero between the original groups.
    """
    w = weight.unflatten(0, (groups // join, join, -1))  # joined groups, join, outputs, inputs, k, k
    between = torch.eye(join, dtype=w.dtype, device=w.device)[None, :, None, :, None, None, None]
    return (w[:, :, :, None] * between).flatten(3, 4).flatten(0, 2)
