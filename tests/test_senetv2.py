"""SENetV2: one convolution for the parallel dense layers, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yolo_attn.blocks.senetv2 import SqueezeAggregatedExcitation


def test_equals_parallel_dense_layers() -> None:
    module = SqueezeAggregatedExcitation(32, reduction=8, branches=3)
    x = torch.randn(2, 32, 5, 6)
    p = x.mean((2, 3))
    weights, biases = module.fc1.weight.flatten(1).chunk(3), module.fc1.bias.chunk(3)
    z = torch.cat([F.relu(F.linear(p, w, b)) for w, b in zip(weights, biases, strict=True)], 1)
    gate = torch.sigmoid(F.linear(z, module.fc2.weight.flatten(1), module.fc2.bias))
    torch.testing.assert_close(module(x), x + x * gate[:, :, None, None])


@pytest.mark.parametrize("options, message", [({"reduction": 33}, "at most 32"), ({"branches": 0}, "branches=0")])
def test_options_that_cannot_work_say_so(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SqueezeAggregatedExcitation(32, **options)
