"""Depthwise convolutions on CPU, several times faster in training than the kernels PyTorch picks by itself.

Two choices of oneDNN cost most of the time (measured with torch 2.15 on AVX-512); what stands in for them is
equal up to rounding:

* The gradient of a depthwise kernel is fast only for kernels up to three columns wide; from four on, a general kernel
  multiplies every channel with every other of its block of 16. A wide kernel is therefore split into strips of three
  columns, each the gradient of a narrow convolution over a shifted map.
* Maps in channels_last are convolved faster, forward and backward, by more than their conversion costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIP = 3  # widest kernel for which the fast gradient exists


def untouched(x: Tensor, *modules: nn.Module) -> bool:
    """Whether a shortcut may stand in for calling `modules` one by one.

    It may not where someone watches them (hooks), records them (tracing, compiling) or computes in other precision
    (autocast), nor on other devices, for which the shortcuts were not measured.

    Args:
        x: The input.
        *modules: The modules that the shortcut would not call.

    Returns:
        True for an ordinary call on the CPU.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not any(
            m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules
        )
    )


def is_plain_depthwise(conv: nn.Module) -> bool:
    """Whether `conv` is a depthwise nn.Conv2d of odd square kernel that keeps its map's size."""
    if type(conv) is not nn.Conv2d:
        return False
    k = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (k, k)
        and k % 2 == 1
        and conv.padding == (k // 2, k // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


def depthwise_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv(x)`, faster on CPU for a depthwise convolution; the output may lie in memory as channels_last.

    Args:
        conv: Any convolution; one that is not plainly depthwise, or not to be bypassed, is simply called.
        x: (B, C, H, W).

    Returns:
        The convolution's output.
    """
    if not (is_plain_depthwise(conv) and untouched(x, conv)):
        return conv(x)
    if torch.is_grad_enabled():
        return _Depthwise.apply(x, conv.weight, conv.bias)
    return conv(x.contiguous(memory_format=torch.channels_last))


def input_grad(g: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a depthwise convolution's input: the outputs' gradient convolved with the kernel turned round.

    Args:
        g: Gradient of the output, B C H W.
        weight: Kernel, C 1 k k.

    Returns:
        B C H W.
    """
    return F.conv2d(g, weight.flip(2, 3), padding=weight.shape[2] // 2, groups=weight.shape[0])


def weight_grad(x: Tensor, g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a depthwise convolution's kernel and bias.

    Args:
        x: The input, B C H W, channels_last.
        g: Gradient of the output, B C H W, channels_last.
        weight: Kernel, C 1 k k.

    Returns:
        C 1 k k and C.
    """
    c, _, k, _ = weight.shape
    width, pad = x.shape[3], k // 2
    if k > STRIP:
        x = F.pad(x, (pad, pad))
    dw, db = torch.empty_like(weight), None
    for left in range(0, k, STRIP):
        columns = min(STRIP, k - left)
        seen = x
        if k > STRIP:
            seen = x[..., left : left + width + columns - 1].contiguous(memory_format=torch.channels_last)
        # Rows are padded by the convolution itself, columns were padded above.
        _, dw[..., left : left + columns], bias = torch.ops.aten.convolution_backward(
            g, seen, weight[..., left : left + columns], [c], [1, 1], [pad, 0 if k > STRIP else pad], [1, 1], False,
            [0, 0], c, [False, True, left == 0],
        )  # fmt: skip
        db = bias if left == 0 else db
    assert db is not None
    return dw, db


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose backward pass takes the fast kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=weight.shape[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        dx = input_grad(g, weight) if ctx.needs_input_grad[0] else None
        dw, db = weight_grad(x, g, weight) if any(ctx.needs_input_grad[1:]) else (None, None)
        return dx, dw, db if ctx.needs_input_grad[2] else None
