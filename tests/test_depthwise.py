"""Faster depthwise convolutions give PyTorch's numbers, and step aside where they may not stand in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_attn.kernels.depthwise import depthwise_conv, is_plain_depthwise


def gradients(convolve, conv: nn.Conv2d, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = convolve(conv, x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    parameters = [conv.weight] + ([conv.bias] if conv.bias is not None else [])
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *parameters])]


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("size", [(2, 16, 13, 10), (1, 8, 1, 1), (1, 24, 4, 3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_same_numbers_as_pytorch(k: int, size: tuple[int, ...], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(size[1], size[1], k, padding=k // 2, groups=size[1], bias=k != 5).double()
    x = torch.randn(size, dtype=torch.float64).contiguous(memory_format=layout)
    want = gradients(lambda c, t: c(t), conv, x)
    got = gradients(depthwise_conv, conv, x)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv(conv, x), want[0].detach(), atol=1e-12, rtol=1e-12)


def test_frozen_kernel_still_passes_the_gradient_on() -> None:
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8).requires_grad_(False)
    x = torch.randn(2, 8, 6, 7, requires_grad=True)
    depthwise_conv(conv, x).sum().backward()
    want = torch.nn.grad.conv2d_input(x.shape, conv.weight, torch.ones(2, 8, 6, 7), padding=2, groups=8)
    torch.testing.assert_close(x.grad, want)
    assert conv.weight.grad is None


def test_hooks_are_still_called() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    seen: list[torch.Tensor] = []
    conv.register_forward_hook(lambda module, args, y: seen.append(y))
    y = depthwise_conv(conv, torch.randn(1, 8, 5, 5))
    assert len(seen) == 1 and seen[0] is y


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, stride=2),
        nn.Conv2d(8, 8, 3, padding=2, groups=8, dilation=2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"),
    ],
    ids=["dense", "multiplier", "stride", "dilation", "no padding", "oblong", "reflect"],
)
def test_other_convolutions_are_simply_called(conv: nn.Conv2d) -> None:
    x = torch.randn(1, 8, 9, 9)
    assert not is_plain_depthwise(conv)
    assert torch.equal(depthwise_conv(conv, x), conv(x))
