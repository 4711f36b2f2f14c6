"""The convolution path of ACmix as one grouped convolution.

`fc` maps the 3h queries, keys and values of a channel d to t = k^2 maps, `dep_conv` convolves these to h outputs. One
grouped convolution with the product of both weights costs 3h k^2 per output, both in turn k^2 (3 + k^2). Where the
product does not pay, the rate scales the kernels of `dep_conv` rather than its output.

Shapes  B batch, D channels of a head (groups of `dep_conv`), h heads, H W height and width, k kernel side, t = k^2,
        T = D t, j = 3h, O = D h channels out, P Q height and width of the output
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv
from .grouped import join_groups
from .slots import (
    ANY_FLOAT,
    COMPILE,
    CPU_INFERENCE,
    CPU_TRAINING,
    CUDA_INFERENCE,
    CUDA_TRAINING,
    EXPORT,
    OTHER,
    kernel,
)

JOIN = 4  # groups of h channels are too narrow for the backward routines of CPUs


@kernel(
    "shifted_conv",
    CPU_INFERENCE,
    CUDA_INFERENCE,
    CUDA_TRAINING,
    OTHER,
    COMPILE,
    EXPORT,
    dtypes=ANY_FLOAT,
    autocast=True,
)
def shifted_conv(qkv_BD3hHW: Tensor, rate: Tensor, fc: Conv, dep_conv: Conv) -> Tensor:
    """Both convolutions in turn, times the rate.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        rate: Factor of the output, one element.
        fc: 1 x 1 convolution from 3h to k^2 channels.
        dep_conv: Convolution without bias from D k^2 to D h channels in D groups.

    Returns:
        B O P Q.
    """
    return _convolve(qkv_BD3hHW, rate, fc, dep_conv, 1)


@kernel("shifted_conv", CPU_TRAINING, dtypes=ANY_FLOAT, autocast=True)
def shifted_conv_training(qkv_BD3hHW: Tensor, rate: Tensor, fc: Conv, dep_conv: Conv) -> Tensor:
    """`shifted_conv` with several groups in one."""
    return _convolve(qkv_BD3hHW, rate, fc, dep_conv, gcd(dep_conv.groups, JOIN))


def _convolve(qkv_BD3hHW: Tensor, rate: Tensor, fc: Conv, dep_conv: Conv, join: int) -> Tensor:
    d, w_Otkk = dep_conv.groups, dep_conv.weight * rate
    t, j = w_Otkk.shape[1], fc.weight.shape[1]
    if fc.bias is not None or j > 3 + t:
        maps_BTHW = F.conv2d(qkv_BD3hHW.flatten(2, 3).flatten(0, 1), fc.weight, fc.bias)
        maps_BTHW = maps_BTHW.unflatten(0, (-1, d)).flatten(1, 2)
        return F.conv2d(maps_BTHW, w_Otkk, None, dep_conv.stride, dep_conv.padding, groups=d)
    # PyTorch 2.15 has wrong gradients of grouped kernels in channels_last, for one image in float64.
    w_Ojkk = torch.einsum("otyx,tj->ojyx", w_Otkk, fc.weight.flatten(1)).contiguous()
    if join > 1:
        w_Ojkk = join_groups(w_Ojkk, d, join)
    return F.conv2d(qkv_BD3hHW.flatten(1, 3), w_Ojkk, None, dep_conv.stride, dep_conv.padding, groups=d // join)
