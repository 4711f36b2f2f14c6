"""Depthwise convolutions of the CPU kernels give PyTorch's values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_attn.kernels.depthwise import depthwise_conv, depthwise_input_grad, depthwise_weight_grad


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("size", [(2, 16, 13, 10), (1, 8, 1, 1), (1, 24, 4, 3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_values_and_gradients_are_those_of_pytorch(k: int, size: tuple[int, ...], layout: torch.memory_format) -> None:
    conv = nn.Conv2d(size[1], size[1], k, padding=k // 2, groups=size[1]).double()
    x = torch.randn(size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    g = torch.randn_like(x)
    want = conv(x)
    wanted = torch.autograd.grad(want, [x, conv.weight, conv.bias], g)
    with torch.no_grad():
        found = [depthwise_input_grad(g, conv.weight), *depthwise_weight_grad(x, g, conv.weight)]
        torch.testing.assert_close(depthwise_conv(x, conv.weight, conv.bias), want, atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
