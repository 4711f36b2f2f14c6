"""AttnConv against a step-by-step reading of its equations, its options, and what it must not hold in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolo_attn.blocks.cloformer import AttnConv
from yolo_attn.blocks.cloformer_cpu import attends_directly


def naive(module: AttnConv, x: torch.Tensor) -> torch.Tensor:
    """The equations cell by cell: pooled windows and softmax rows one after another."""
    b, _c, h, w = x.shape
    parts = module.qkv(x).split(module.splits, 1)
    outputs = []
    for branch, part in zip(module.local, parts, strict=False):
        q, k, v = branch.conv(part).chunk(3, 1)
        gate = torch.tanh(branch.attn_map.fc2(F.silu(branch.attn_map.fc1(q * k))) / module.head_dim**0.5)
        outputs.append(gate * v)
    if module.global_heads:
        s = module.window_size
        windows = [x[:, :, i : i + s, j : j + s].mean((2, 3)) for i in range(0, h, s) for j in range(0, w, s)]
        kv = module.kv(torch.stack(windows, -1)[..., None]).squeeze(-1)
        k, v = (t.reshape(b, module.global_heads, module.head_dim, -1) for t in kv.chunk(2, 1))
        q = parts[-1].reshape(b, module.global_heads, module.head_dim, h * w)
        weights = (torch.einsum("bgdn,bgdm->bgnm", q, k) / module.head_dim**0.5).softmax(-1)
        outputs.append(torch.einsum("bgnm,bgdm->bgdn", weights, v).reshape(b, -1, h, w))
    return module.proj(torch.cat(outputs, 1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_size": 3},
        {"window_size": 1},
        {"window_size": 16},
        {"group_split": (0, 8)},
        {"group_split": (8, 0)},
        {"group_split": (1, 0, 5, 2), "kernel_sizes": (3, 5, 7), "qkv_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(7, 10), (5, 2)], ids=str)
def test_equals_the_equations_with_every_edge_cell_counted(options: dict, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module, x = AttnConv(32, **options).double(), torch.randn(2, 32, *size, dtype=torch.double)
    torch.testing.assert_close(module(x), naive(module, x), atol=1e-12, rtol=0)


def test_floor_pooling_leaves_out_cells_beyond_the_last_whole_window() -> None:
    torch.manual_seed(0)
    floor, x = AttnConv(16, 2, (0, 2), window_size=4, pooling="floor"), torch.randn(1, 16, 9, 7)
    changed = x.clone()
    changed[:, :, 8:] += 1
    changed[:, :, :, 4:] += 1
    with torch.no_grad():
        assert torch.equal(floor.pool(x), F.avg_pool2d(x, 4))
        # Kept cells see the same keys and values whatever the left-out ones hold.
        torch.testing.assert_close(floor(changed)[:, :, :8, :4], floor(x)[:, :, :8, :4], atol=1e-6, rtol=0)
        assert floor(x[:, :, :3, :2]).shape == (1, 16, 3, 2)


def test_floor_pooling_traces_to_other_sizes() -> None:
    module = AttnConv(16, 2, (1, 1), window_size=4, pooling="floor").eval()
    traced = torch.jit.trace(module, torch.randn(1, 16, 8, 8))
    for size in ((9, 7), (3, 2), (16, 5)):
        x = torch.randn(2, 16, *size)
        torch.testing.assert_close(traced(x), module(x), atol=1e-5, rtol=0)


OPTIONS = [
    {},
    {"window_size": 3},
    {"window_size": 1},
    {"window_size": 16},
    {"window_size": 4, "pooling": "floor"},
    {"group_split": (0, 8), "qkv_bias": False},
    {"group_split": (8, 0)},
    {"group_split": (1, 0, 5, 2), "kernel_sizes": (3, 5, 7), "qkv_bias": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(7, 10), (8, 8), (1, 1)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["maps", "rows"])
def test_cpu_form_has_the_output_and_gradients_of_the_parts(
    options: dict, size: tuple, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    module = AttnConv(32, **options).double()
    x, weight = (torch.randn(2, 32, *size, dtype=torch.double).contiguous(memory_format=layout) for _ in range(2))
    assert attends_directly(module, x)
    results = []
    for watched in (False, True):
        hook = module.proj.register_forward_hook(lambda *_: None) if watched else None
        assert attends_directly(module, x) is not watched
        module.zero_grad()
        x_i = x.clone().requires_grad_()
        y = module(x_i)
        y.backward(weight)
        with torch.no_grad():
            torch.testing.assert_close(module(x), y)
        results.append({"y": y.detach(), "x": x_i.grad} | {k: p.grad.clone() for k, p in module.named_parameters()})
    assert hook is not None
    hook.remove()
    for name, direct in results[0].items():
        torch.testing.assert_close(direct, results[1][name], atol=1e-11, rtol=0, msg=name)


def test_cpu_form_keeps_four_times_its_input() -> None:
    module, x = AttnConv(64), torch.randn(2, 64, 40, 40, requires_grad=True)
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = module(x)
    kept = sum(n for pointer, n in storages.items() if pointer not in own)
    assert kept <= 4 * x.numel() * x.element_size(), y.shape


def test_a_batchnorm_before_it_gets_the_right_gradient_from_one_image() -> None:
    # PyTorch's CPU BatchNorm is wrong for the gradients that some layouts hand back at batch one.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), AttnConv(16)).double().eval()
    x, weight = (torch.randn(1, 16, 6, 5, dtype=torch.double) for _ in range(2))
    gradients = []
    for copies in (1, 2):
        model.zero_grad()
        (model(x.repeat(copies, 1, 1, 1)) * weight).sum().div(copies).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=0)


def test_watchers_see_the_local_weights() -> None:
    module, seen = AttnConv(32), []
    module.local[0].tanh.register_forward_hook(lambda _, __, y: seen.append(y))
    module(torch.randn(2, 32, 5, 6))
    assert [tuple(t.shape) for t in seen] == [(2, 16, 5, 6)] and seen[0].abs().max() < 1


def test_nothing_of_cells_times_keys_is_kept_for_backward() -> None:
    module, x = AttnConv(32, window_size=1), torch.randn(1, 32, 24, 24, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        module(x)
    assert max(sizes) < 24**4


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    module, x = AttnConv(16, attn_drop=0.5, proj_drop=0.5), torch.randn(1, 16, 6, 6)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "multiple of heads=5"),
        ({"group_split": (4, 3)}, "add up to heads"),
        ({"group_split": (9, -1)}, "add up to heads"),
        ({"group_split": (8,)}, "one entry for each"),
        ({"kernel_sizes": (4,)}, "must be odd"),
        ({"window_size": 0}, "at least 1"),
        ({"pooling": "round"}, "'ceil'"),
    ],
)
def test_options_that_do_not_fit_say_why(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttnConv(32, **options)


def test_row_folds_its_gate_into_the_projection() -> None:
    from yolo_attn import registry

    torch.manual_seed(0)
    row, x = registry.require("Clo").cls(32), torch.randn(2, 32, 7, 9)
    nn.init.normal_(row.bn.weight)
    row.train()(x)
    row.eval()
    with torch.no_grad():
        want = row(x)
        row.fuse()
        torch.testing.assert_close(row(x), want, atol=1e-5, rtol=0)
    assert isinstance(row.bn, nn.Identity)
