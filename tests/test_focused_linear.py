"""Focused linear attention against its equations, in half precision, and at sizes foreign to its position code."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from yolo_attn.blocks.focused_linear import FocusedLinearAttention


def naive(module: FocusedLinearAttention, x: torch.Tensor) -> torch.Tensor:
    """The equations as written, with the N x N weights of the linear attention."""
    b, c, h, w = x.shape
    heads, p = module.heads, module.focusing_factor
    q, k, v = module.qkv(x).flatten(2).transpose(1, 2).chunk(3, 2)  # B N C

    def focus(u: torch.Tensor) -> torch.Tensor:
        t = (F.relu(u) + 1e-6) / F.softplus(module.scale.view(1, 1, c))
        f = t**p
        return f / f.norm(dim=-1, keepdim=True) * t.norm(dim=-1, keepdim=True)

    q, k, v = (u.unflatten(2, (heads, c // heads)).transpose(1, 2) for u in (focus(q), focus(k), v))
    weights = q @ k.transpose(2, 3) / (h * w)
    y = weights @ v / (weights.sum(3, keepdim=True) + 1e-6)
    y = y.transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
    kernel = module.dwc.weight.repeat(heads, 1, 1, 1)
    v = v.transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
    return module.proj(y + F.conv2d(v, kernel, module.dwc.bias.repeat(heads), padding="same", groups=c))


@pytest.mark.parametrize("options", [{}, {"heads": 2, "focusing_factor": 2}, {"kernel_size": 3, "qkv_bias": False}])
def test_equals_the_equations(options: dict) -> None:
    torch.manual_seed(0)
    module = FocusedLinearAttention(16, **options).double()
    torch.nn.init.normal_(module.scale)
    x = torch.randn(2, 16, 5, 7, dtype=torch.double)
    torch.testing.assert_close(module(x), naive(module, x), atol=1e-8, rtol=0)


def test_half_precision_stays_close_to_single_at_scale_100() -> None:
    torch.manual_seed(0)
    module = FocusedLinearAttention(32).eval()
    x = torch.randn(2, 32, 20, 20) * 100
    with torch.no_grad():
        want, got = module(x), copy.deepcopy(module).half()(x.half())
    assert ((got.float() - want).norm() / want.norm()) < 0.01


@pytest.mark.parametrize("dead", [slice(0, 32), slice(0, 4)], ids=["every head", "one head"])
def test_gradients_stay_finite_where_queries_and_keys_are_all_negative(dead: slice) -> None:
    module = FocusedLinearAttention(16, heads=4)
    with torch.no_grad():
        module.qkv.bias[:32].fill_(10.0)
        module.qkv.bias[:16][dead] = module.qkv.bias[16:32][dead] = -1e3
    x = torch.randn(1, 16, 6, 6, requires_grad=True)
    module(x).square().mean().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())


def test_nothing_of_cells_times_cells_is_kept_for_backward() -> None:
    module, x = FocusedLinearAttention(16), torch.randn(1, 16, 40, 40, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        module(x)
    assert max(sizes) <= 3 * x.numel()


@pytest.mark.parametrize("resize", ["map", "sequence"])
@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_position_code_follows_the_map(resize: str, sr_ratio: int) -> None:
    torch.manual_seed(0)
    module = FocusedLinearAttention(16, position=(4, 6), sr_ratio=sr_ratio, resize=resize).eval()
    torch.nn.init.normal_(module.position)
    k = torch.empty(1, 16, 4, 6)
    assert torch.equal(module.resized(module.position, k), module.position)
    traced = torch.jit.trace(module, torch.randn(1, 16, 8, 12), check_trace=False)
    with torch.no_grad():
        for size in ((8, 12), (5, 3), (1, 1), (9, 10)):
            x = torch.randn(1, 16, *size)
            assert module(x).shape == x.shape
            torch.testing.assert_close(traced(x), module(x), atol=1e-5, rtol=1e-4)


def test_reduction_counts_edge_cells_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 7, 8)
    changed = x.clone()
    changed[:, :, 6] += 1
    for counts in (True, False):
        module = FocusedLinearAttention(16, sr_ratio=2, reduce_edges=counts).eval()
        with torch.no_grad():
            keys, keys_changed = module.project(x)[1], module.project(changed)[1]
        assert keys.shape[2:] == ((4, 4) if counts else (3, 4))
        assert torch.equal(keys, keys_changed) is not counts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "multiple of heads=5"),
        ({"kernel_size": 4}, "must be odd"),
        ({"resize": "grid"}, "'map' or 'sequence'"),
        ({"sr_ratio": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_fit_say_why(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocusedLinearAttention(16, **options)
