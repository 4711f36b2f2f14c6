"""Activation memory of single modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_attn.measure.activation_memory import saved_for_backward


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
    assert saved_for_backward(module, x) == multiple * x.numel() * 4
    on_meta = saved_for_backward(module.to("meta"), torch.empty(2, 8, 6, 5, device="meta", requires_grad=True))
    assert on_meta == multiple * x.numel() * 4
