"""MLCA: pooling by matrices, and the mechanism written out with PyTorch's own poolings."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yolo_attn.blocks.mlca import MixedLocalChannelAttention, pooling_matrix


@pytest.mark.parametrize("source", [1, 2, 3, 5, 7, 10, 20, 33])
@pytest.mark.parametrize("target", [1, 2, 3, 5, 8, 13, 40])
def test_pooling_matrix_is_adaptive_average_pooling(source: int, target: int) -> None:
    x = torch.randn(2, 3, source, dtype=torch.float64)
    want = F.adaptive_avg_pool1d(x, target)
    torch.testing.assert_close(x @ pooling_matrix(source, target, x).T, want)


@pytest.mark.parametrize("h, w", [(20, 20), (7, 12), (3, 4), (1, 1)])
def test_equals_the_form_with_adaptive_poolings(h: int, w: int) -> None:
    module = MixedLocalChannelAttention(16, local_size=3, local_weight=0.3).double()
    x = torch.randn(2, 16, h, w, dtype=torch.float64)
    local = F.adaptive_avg_pool2d(x, 3)
    weights_local = module.local_conv(local.flatten(2).transpose(1, 2).reshape(2, 1, -1)).reshape(2, 9, 16)
    weights_local = weights_local.transpose(1, 2).reshape(2, 16, 3, 3).sigmoid()
    weights_global = module.global_conv(local.mean((2, 3))[:, None]).transpose(1, 2)[..., None].sigmoid()
    want = x * F.adaptive_avg_pool2d(0.7 * weights_global + 0.3 * weights_local, (h, w))
    torch.testing.assert_close(module(x), want)


# Table of the kernel rule: log2 of 16 ... 1024 is 4 ... 10; plus one, halved, the odd number above.
@pytest.mark.parametrize("c1, kernel", [(16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5)])
def test_reach_grows_with_the_channels(c1: int, kernel: int) -> None:
    assert MixedLocalChannelAttention(c1).local_conv.kernel_size == (kernel,)


def test_weights_lie_between_zero_and_one_and_can_be_watched() -> None:
    module, seen = MixedLocalChannelAttention(16), []
    module.gate.register_forward_hook(lambda _m, _x, y: seen.append(y))
    x = torch.randn(2, 16, 9, 7)
    y = module(x)
    assert seen[0].shape == x.shape and (seen[0] > 0).all() and (seen[0] < 1).all()
    torch.testing.assert_close(y, x * seen[0])


def test_no_region_is_an_error() -> None:
    with pytest.raises(ValueError, match="local_size=0"):
        MixedLocalChannelAttention(16, local_size=0)
