"""Modules for tests: registered blocks with their inputs, and norms with random values."""

from __future__ import annotations

import torch
from torch import nn

from yolo_attn import registry
from yolo_attn.checks.subject import CHANNELS, build, inputs
from yolo_attn.layers import LayerScale, fuse

# Rows with several outputs, or of other channels than c2, are tested in test_backbones.py.
BLOCKS = [b for b in registry.list_blocks() if not b.carrier and not hasattr(b.cls, "out_channels")]
#: Without those that wrap layers of another package, whose norms do not fold and whose rows are all alike.
OWN = [b for b in registry.list_blocks() if not b.requires]
OWN_BLOCKS = [b for b in BLOCKS if not b.requires]
__all__ = ["BLOCKS", "CHANNELS", "OWN", "OWN_BLOCKS", "assert_folds", "build", "inputs", "random_norms"]


def random_norms(module: nn.Module) -> nn.Module:
    """The module in eval mode; BatchNorms and channel scales get random values, as initial ones change nothing."""
    g = torch.Generator().manual_seed(0)

    def uniform(t: torch.Tensor, low: float, high: float) -> None:
        t.copy_(low + (high - low) * torch.rand(t.shape, generator=g))

    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, LayerScale):
                uniform(m.weight, 0.5, 1.5)
            if isinstance(m, nn.BatchNorm2d):
                uniform(m.weight, 0.5, 1.5)
                uniform(m.bias, -0.5, 0.5)
                uniform(m.running_mean, -0.5, 0.5)
                uniform(m.running_var, 0.5, 1.5)
    return module.eval()


@torch.no_grad()
def assert_folds(module: nn.Module, x: torch.Tensor | list[torch.Tensor], stays: list[str] | None = None) -> None:
    """Folding, once and twice, keeps the output in float64 and leaves no norm but those that `stays` lists."""
    module = random_norms(module).double()
    x = [part.double() for part in x] if isinstance(x, list) else x.double()
    want = module(x)
    for _ in range(2):
        fuse(module.modules())
        torch.testing.assert_close(module(x), want, atol=1e-9, rtol=1e-9)
    left = [path for path, m in module.named_modules() if isinstance(m, nn.BatchNorm2d | LayerScale)]
    assert left == (stays or [])
