"""CBAM: its gates one by one, folding, options."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yolo_attn.blocks.cbam import POOLS, ChannelGate, ConvBlockAttention, SpatialGate


def test_poolings_are_what_their_names_say() -> None:
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(POOLS["avg"](x), F.avg_pool2d(x, (4, 6)).flatten(1))
    torch.testing.assert_close(POOLS["max"](x), F.max_pool2d(x, (4, 6)).flatten(1))
    torch.testing.assert_close(POOLS["lp"](x), F.lp_pool2d(x, 2, (4, 6)).flatten(1))
    torch.testing.assert_close(POOLS["lse"](x), x.exp().sum((2, 3)).log())
    assert POOLS["lse"](x * 1000).isfinite().all()


def test_channel_gate_sums_the_summaries_before_the_sigmoid() -> None:
    gate = ChannelGate(16, 4, ("avg", "max", "lp", "lse"))
    x = torch.randn(2, 16, 5, 7)
    logits = [gate.fc2(F.relu(gate.fc1(POOLS[p](x)))) for p in gate.pools]
    torch.testing.assert_close(gate(x), x * torch.sigmoid(torch.stack(logits).sum(0))[..., None, None])


def test_spatial_gate_is_one_weight_per_cell() -> None:
    gate, seen = SpatialGate().eval(), []
    gate.sigmoid.register_forward_hook(lambda _m, _x, y: seen.append(y))
    x = torch.randn(2, 8, 6, 5)
    y = gate(x)
    assert seen[0].shape == (2, 1, 6, 5)
    torch.testing.assert_close(y, x * seen[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"reduction": 64}, "at most 16"),
        ({"pools": ("avg", "mx")}, "Did you mean max"),
        ({"pools": ()}, "at least one"),
    ],
)
def test_options_that_cannot_work_say_so(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvBlockAttention(16, **options)
