"""Gradients of depthwise convolutions on the CPU, several times faster than the kernels that PyTorch picks by itself.

The gradient of a depthwise kernel is fast only for kernels up to three columns wide (measured with torch 2.15 on
AVX-512); from four on, a general routine multiplies every channel with every other of its block of 16. The gradient of
a wide kernel is therefore computed in strips of three columns, each the gradient of a narrow convolution over a shifted
map. Maps in channels_last are faster by more than their conversion costs.

Shapes  B batch, C channels, H W height and width, k kernel side
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STRIP = 3  # widest kernel for which the fast gradient exists


def depthwise_conv(x_BCHW: Tensor, weight_C1kk: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """A depthwise convolution that keeps the map's size, B C H W."""
    return F.conv2d(x_BCHW, weight_C1kk, bias_C, padding=weight_C1kk.shape[2] // 2, groups=weight_C1kk.shape[0])


def depthwise_input_grad(g_BCHW: Tensor, weight_C1kk: Tensor) -> Tensor:
    """Gradient of the input, B C H W, from that of the output: a convolution with the kernel rotated by 180 degrees."""
    return depthwise_conv(g_BCHW, weight_C1kk.flip(2, 3))


def depthwise_weight_grad(x_BCHW: Tensor, g_BCHW: Tensor, weight_C1kk: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of kernel and bias.

    Args:
        x_BCHW: The input, channels_last.
        g_BCHW: Gradient of the output, channels_last.
        weight_C1kk: The kernel.

    Returns:
        C 1 k k and C.
    """
    c, _, k, _ = weight_C1kk.shape
    width, pad = x_BCHW.shape[3], k // 2
    if k > STRIP:
        x_BCHW = F.pad(x_BCHW, (pad, pad))
    dw, db = torch.empty_like(weight_C1kk), None
    for left in range(0, k, STRIP):
        columns = min(STRIP, k - left)
        part = x_BCHW
        if k > STRIP:
            part = x_BCHW[..., left : left + width + columns - 1].contiguous(memory_format=torch.channels_last)
        # Rows are padded by the convolution itself, columns were padded above.
        _, dw[..., left : left + columns], bias = torch.ops.aten.convolution_backward(
            g_BCHW, part, weight_C1kk[..., left : left + columns], [c], [1, 1], [pad, 0 if k > STRIP else pad], [1, 1],
            False, [0, 0], c, [False, True, left == 0],
        )  # fmt: skip
        db = bias if left == 0 else db
    assert db is not None
    return dw, db
