"""iRMB: which cells share a window, edges, skips, folding, memory, options."""

from __future__ import annotations

import pytest
import torch
from modules import assert_folds, random_norms
from torch import nn

from yolo_attn.blocks.irmb import InvertedResidualMobileBlock
from yolo_attn.weights import official


def naive_attention(module: InvertedResidualMobileBlock, x: torch.Tensor) -> torch.Tensor:
    """Cell by cell: it attends to the real cells of its grid, which starts at its own remainder."""
    _b, _c, h, w = x.shape
    s = module.window_size
    down, across = (-(-h // s), -(-w // s)) if s > 0 else (1, 1)
    q, k = module.qk(x).chunk(2, 1)
    v = x if module.attn_pre else module.expand(x)
    y = torch.zeros_like(v)
    for i in range(h):
        for j in range(w):
            grid = [(a, e) for a in range(i % down, h, down) for e in range(j % across, w, across)]
            keys, values = (
                torch.stack([t[:, :, a, e] for a, e in grid], -1).unflatten(1, (module.heads, -1)) for t in (k, v)
            )
            query = q[:, :, i, j].unflatten(1, (module.heads, -1))
            weights = (torch.einsum("bhd,bhdm->bhm", query, keys) / query.shape[2] ** 0.5).softmax(-1)
            y[:, :, i, j] = torch.einsum("bhm,bhdm->bhd", weights, values).flatten(1)
    return module.expand(y) if module.attn_pre else y


@pytest.mark.parametrize("attn_pre", [True, False])
@pytest.mark.parametrize("window_size", [3, 0, 8])
@pytest.mark.parametrize("size", [(6, 9), (5, 7), (1, 2)], ids=str)
def test_windows_are_grids_of_real_cells(attn_pre: bool, window_size: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = InvertedResidualMobileBlock(16, dim_head=8, window_size=window_size, attn_pre=attn_pre).double()
    x = torch.randn(2, 16, *size, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(module.attend(x), naive_attention(module, x), atol=1e-12, rtol=0)


def test_zero_padding_counts_zeros_as_cells() -> None:
    torch.manual_seed(0)
    module = InvertedResidualMobileBlock(16, window_size=4, padding="zero").double()
    x = torch.randn(1, 16, 6, 7, dtype=torch.double)
    padded = nn.functional.pad(x, (0, 1, 0, 2))
    with torch.no_grad():
        torch.testing.assert_close(module.attend(x), naive_attention(module, padded)[:, :, :6, :7], atol=1e-12, rtol=0)


def test_whole_map_attention_never_holds_cells_times_cells() -> None:
    module, x = InvertedResidualMobileBlock(16, window_size=0), torch.randn(1, 16, 24, 24, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        module(x)
    assert max(sizes) < 24**4


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"c2": 24},
        {"attn": False, "se_ratio": 0.25, "act": "gelu"},
        {"attn": False, "v_proj": False, "exp_ratio": 1.0},
        {"attn_pre": False, "v_group": True, "norm": "ln"},
        {"has_skip": False, "dw_ks": 5, "dilation": 2, "norm": "none", "act": "hmish"},
    ],
    ids=str,
)
def test_options_build_fold_and_keep_their_shape(options: dict) -> None:
    module = InvertedResidualMobileBlock(16, **options)
    stride = options.get("stride", 1)
    x = torch.randn(2, 16, 9, 6)
    assert module(x).shape == (2, options.get("c2", 16), -(-9 // stride), -(-6 // stride))
    assert_folds(module, x)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_one_image_are_those_of_a_batch(training: bool) -> None:
    module = random_norms(InvertedResidualMobileBlock(16, window_size=4)).double().train(training)
    x = torch.randn(1, 16, 6, 5, dtype=torch.double)
    weight = torch.randn(1, 16, 6, 5, dtype=torch.double)
    gradients = []
    for copies in (1, 2):
        module.zero_grad()
        xs = x.repeat(copies, 1, 1, 1).requires_grad_()
        (module(xs) * weight).sum().div(copies).backward()
        gradients.append([xs.grad.sum(0), *(p.grad.clone() for p in module.parameters())])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim_head": 5}, "multiple of dim_head=5"),
        ({"norm": "bn_2d"}, "Did you mean bn"),
        ({"act": "sillu"}, "Did you mean silu"),
        ({"padding": "same"}, "mask, zero"),
        ({"exp_ratio": 1.2, "attn_pre": False}, "multiple of the 2 heads"),
        ({"v_proj": False}, "attn=False"),
    ],
)
def test_options_that_do_not_fit_say_why(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InvertedResidualMobileBlock(16, **options)


def test_a_dilated_block_of_the_authors_shrinks_the_map() -> None:
    options = {"dim_in": 16, "dim_out": 16, "attn_s": False, "has_skip": False, "dilation": 2, "v_proj": False}
    ours = InvertedResidualMobileBlock(16, exp_ratio=1.0, attn=False, has_skip=False, dilation=2, v_proj=False)
    names = (
        ("norm.", "norm."),
        ("conv_local.", "conv_local.conv."),
        ("bn_local.", "conv_local.norm."),
        ("proj.", "proj.conv."),
    )
    state = {next(k.replace(a, b) for a, b in names if k.startswith(a)): v for k, v in ours.state_dict().items()}
    module = official.load("irmb", options, state)
    assert module(torch.randn(1, 16, 9, 8)).shape == (1, 16, 7, 6)
    assert ours(torch.randn(1, 16, 9, 8)).shape == (1, 16, 9, 8)
