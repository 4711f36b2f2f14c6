"""Activation memory and multiply-adds of single modules are counted correctly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_attn.measure import arithmetic


class Twice(nn.Module):
    """Saves a view of its input, the input itself, and one result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(torch.sin(x[:, :1]) + torch.cos(x))  # sin and cos save x; exp saves its result


@pytest.mark.parametrize(
    ("module", "multiple"),
    [
        (nn.Conv2d(8, 8, 1), 1),  # its input; the weight is a parameter
        (nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1)), 1 + 2),  # input; result of ReLU, shared
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU()), 2),  # input; what SiLU was given
        (nn.Upsample(scale_factor=2), 0),
        (Twice(), 2),  # a view keeps the whole of its memory, once
    ],
    ids=("conv", "conv-relu-conv", "conv-silu", "upsample", "views"),
)
def test_every_storage_saved_for_backward_is_counted_once_and_in_full(module: nn.Module, multiple: int) -> None:
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    assert arithmetic.saved_for_backward(module, x) == multiple * x.numel() * 4
    on_meta = arithmetic.saved_for_backward(
        module.to("meta"), torch.empty(2, 8, 6, 5, device="meta", requires_grad=True)
    )
    assert on_meta == multiple * x.numel() * 4


class Product(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = x.flatten(2).transpose(1, 2) @ x.flatten(2)  # 30 x 8 times 8 x 30
        return scores * scores.mean(0) * 0.5  # one product of two tensors, one by a number


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q[:, :7], q[:, :7])


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (nn.Conv2d(8, 4, 1), 30 * 8 * 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 30 * 8 * 9),
        (nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.GELU()), 30 * 8 * 4),
        (Product(), 30 * 30 * 8 + 30 * 30),
        (Attention(), 2 * 30 * 7 * 8),
    ],
    ids=("dense", "depthwise", "norm", "products", "attention"),
)
def test_multiply_adds_of_layers_and_products_are_counted(module: nn.Module, macs: int) -> None:
    assert arithmetic.count_macs(module, torch.randn(1, 8, 6, 5)) == macs
