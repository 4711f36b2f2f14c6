"""The starting file of `yolo-attn new block`, and its test."""

from __future__ import annotations

BLOCK = '''"""{name}: one sentence on what it attends over.

Paper   Authors, Title, VENUE YEAR, https://…
Shapes  B batch, C channels, H W height and width in positions

    s = mean over H W of x                     B C
    y = x * sigmoid(up(relu(down(s))))         B C H W
"""

import torch
from torch import nn
from yolo_attn import register


# `paper` is the address of the paper. `row` adds {name}Row, C2f{name}Row and C3k2{name}Row: they compute
# x + BN({name}(x)) with a BatchNorm that starts at zero, so pretrained weights remain valid.
@register(paper="{paper}", row="{name}Row")
class {name}(nn.Module):
    """What it computes, in one sentence.

    Args:
        c1: Input channels, which Ultralytics fills in. `(c1, c2, ...)` would also receive output channels.
        reduction: Factor between c1 and the squeezed channels; every option needs a default.
    """

    def __init__(self, c1: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(8, c1 // reduction)  # rows of YOLO have 16 to 1024 channels
        self.down = nn.Conv2d(c1, hidden, 1)  # no BatchNorm behind a global pooling: it fails on a batch of one
        self.up = nn.Conv2d(hidden, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels. Read sizes from x here, keep no result on self, and return one tensor."""
        weights = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * weights
'''
TEST = '''"""The checks that every block of yolo_attn passes, for {name}; run with pytest."""

import pytest
from yolo_attn import checks, registry

import {module}

BLOCK = registry.of({module}.{name})


@pytest.mark.parametrize("check", checks.CONTRACT, ids=lambda c: c.name)
def test_{module}_passes(check: checks.Check) -> None:
    check.run(checks.Subject(BLOCK))
'''
