"""Multi-scale dilated attention against unfolding, its memory, and its options."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolo_attn.blocks.dilated import DilateBlock, MultiDilatedLocalAttention
from yolo_attn.weights import official


def unfolded(
    module: MultiDilatedLocalAttention, x: torch.Tensor, kernel: int, dilation: tuple[int, ...]
) -> torch.Tensor:
    """Every cell's neighbourhood copied out, zeros beyond the edge, one softmax per cell and head."""
    b, c, h, w = x.shape
    n, d = len(dilation), c // sum(m.heads for m in module.dilated)
    outputs = []
    for r, q, k, v in zip(dilation, *(t.chunk(n, 1) for t in module.qkv(x).chunk(3, 1)), strict=True):
        q = q.reshape(b, -1, d, 1, h * w)
        k, v = (
            F.unfold(t, kernel, r, r * (kernel - 1) // 2).reshape(b, c // n // d, d, kernel**2, h * w) for t in (k, v)
        )
        weights = ((q * k).sum(2, keepdim=True) / d**0.5).softmax(3)
        outputs.append((weights * v).sum(3).reshape(b, c // n, h, w))
    return module.proj(torch.cat(outputs, 1))


@pytest.mark.parametrize(
    ("kernel", "dilation", "heads"), [(3, (1, 2, 3, 4), 8), (3, (1, 2, 3), 6), (5, (2,), 4), (1, (1, 3), 2)]
)
@pytest.mark.parametrize("size", [(9, 7), (2, 1)], ids=str)
def test_equals_unfolding(kernel: int, dilation: tuple[int, ...], heads: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = MultiDilatedLocalAttention(48, heads, kernel_size=kernel, dilation=dilation).double()
    x = torch.randn(2, 48, *size, dtype=torch.double)
    torch.testing.assert_close(module(x), unfolded(module, x, kernel, dilation), atol=1e-12, rtol=0)


def test_input_is_left_as_it_was() -> None:
    module, x = MultiDilatedLocalAttention(16), torch.randn(1, 16, 6, 5)
    before = x.clone()
    module(x.requires_grad_()).mean().backward()
    assert torch.equal(x.detach(), before) and x.grad.any()


def test_backward_keeps_less_than_one_unfolded_map() -> None:
    module, x = MultiDilatedLocalAttention(64), torch.randn(1, 64, 40, 40, requires_grad=True)
    storages: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = module(x)
    assert sum(storages.values()) < 9 * x.numel() * x.element_size(), y.shape


def test_a_factor_of_ones_own_replaces_the_default() -> None:
    torch.manual_seed(0)
    module, other = (
        MultiDilatedLocalAttention(16, 2, dilation=(1,)),
        MultiDilatedLocalAttention(16, 2, qk_scale=8**-0.5, dilation=(1,)),
    )
    other.load_state_dict(module.state_dict())
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "multiple of heads=5"),
        ({"heads": 8, "dilation": (1, 2, 3)}, "number of dilations"),
        ({"dilation": ()}, "number of dilations"),
        ({"dilation": (0, 1)}, "at least 1"),
        ({"kernel_size": 2}, "must be odd"),
    ],
)
def test_options_that_do_not_fit_say_why(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiDilatedLocalAttention(16, **options)


def test_norm_and_activation_of_the_authors_block_may_be_given_in_words_or_as_classes() -> None:
    from functools import partial

    ours = DilateBlock(12, 3, qkv_bias=False, dilation=(1, 2, 3), position=False)
    state = ours.state_dict()
    for norm, eps in (("LayerNorm(eps=1e-6)", 1e-6), (partial(nn.LayerNorm, eps=1e-3), 1e-3), (nn.LayerNorm, 1e-5)):
        module = official.load(
            "dilate_block", {"dim": 12, "num_heads": 3, "norm_layer": norm, "act_layer": "ReLU"}, state
        )
        assert module.norm1.eps == module.norm2.eps == eps and isinstance(module.mlp.act, nn.ReLU)
    with pytest.raises(official.OfficialWeightsError, match="no LayerNorm"):
        official.load("dilate_block", {"dim": 12, "num_heads": 3, "norm_layer": "BatchNorm2d"}, state)
