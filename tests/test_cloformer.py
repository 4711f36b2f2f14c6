"""AttnConv against a step-by-step reading of its equations, its options, and what it must not hold in memory."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import assert_same, observe, outcome
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_attn.blocks.cloformer.operator import AttnConv
from yolo_attn.kernels import disabled
from yolo_attn.kernels.clo_attention import TILE, attend


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
def test_kernels_have_the_output_and_gradients_of_the_parts(
    options: dict, size: tuple, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = observe(monkeypatch)
    module = AttnConv(32, **options).double()
    x = torch.randn(2, 32, *size, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    for gradients in (True, False):
        got = outcome(module, [x], gradients)
        assert calls.pop("attn_conv") == 1
        with disabled():
            want = outcome(module, [x], gradients)
        assert not calls["attn_conv"]
        assert_same(got, want, 1e-11)


class Calls(TorchDispatchMode):
    """Names of the operations called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# Small logits; just bounded ones (up to 39); far beyond exp()'s range; huge in one factor only; values that would leave
# float32's range if multiplied by exp(39).
@pytest.mark.parametrize(
    ("q_norm", "k_norm", "v_size", "tiled"),
    [
        (1.0, 1.0, 1.0, True),
        (6.24, 6.24, 1.0, True),
        (6.24, 6.24, 9e9, True),
        (6.4, 6.4, 1.0, False),
        (1e3, 1e3, 1.0, False),
        (1e-3, 1e5, 1.0, False),
        (1e30, 1e-30, 1.0, False),  # the squares overflow
        (1e18, 1e18, 1.0, False),
        (0.0, 0.0, 1.0, True),
        (6.0, 6.0, 1e25, False),
    ],
)
def test_attention_in_tiles_is_right_and_finite_at_any_size_of_logits(q_norm, k_norm, v_size, tiled) -> None:
    torch.manual_seed(0)
    n, m = 2500, 431  # neither a multiple of a tile's width
    assert n * m > 4 * TILE
    q, k = (F.normalize(torch.randn(1, 2, i, 2), dim=3).clamp(-1, 1) for i in (n, m))
    k[:, :, :1] = -q[:, :, :1]  # the smallest logit there can be, too,
    q[:, :, 1:2] = k[:, :, 1:2]  # and the largest
    q, k, v = q * q_norm, k * k_norm, torch.randn(1, 2, m, 2).clamp(-1, 1) * v_size
    with Calls() as calls:
        y, log_sum = attend(q, k, v, 1.0)
    assert ("_scaled_dot_product_flash_attention_for_cpu" in calls.names) is not tiled
    if q_norm * k_norm < 1e30:
        logits = q.double() @ k.double().transpose(2, 3)
        want = logits.softmax(3) @ v.double()
        torch.testing.assert_close(y.double() / v_size, want / v_size, atol=1e-5 * max(1, q_norm * k_norm / 40), rtol=0)
        torch.testing.assert_close(log_sum.double(), logits.logsumexp(3), atol=1e-5, rtol=1e-5)
    assert y.isfinite().all()


@pytest.mark.parametrize("factor", [1.0, 30.0], ids=["tiles", "large logits"])
def test_large_maps_have_the_output_and_gradients_of_the_parts(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = observe(monkeypatch)
    module = AttnConv(16, 4, (2, 2), window_size=2).double()
    with torch.no_grad():
        module.qkv.weight[-8:] *= factor
        module.kv.weight *= factor
    x = torch.randn(2, 16, 51, 47, dtype=torch.double)
    got = outcome(module, [x.requires_grad_()])
    assert calls["attn_conv"] == 1
    with disabled():
        assert_same(got, outcome(module, [x]), 1e-9)


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
