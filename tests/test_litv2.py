"""HiLo and LITv2: what the contract and the golden files do not say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_attn import registry
from yolo_attn.blocks.litv2.blocks import HiLoBlock
from yolo_attn.blocks.litv2.network import LITv2, LITv2Backbone
from yolo_attn.blocks.litv2.operator import HiLo
from yolo_attn.weights import official


def naive_hilo(m: HiLo, x: torch.Tensor) -> torch.Tensor:
    """HiLo over lists of real cells, window by window: what lies beyond the map does not exist."""
    s, d, (height, width) = m.window_size, m.head_dim, x.shape[2:]
    windows = [
        [(y, z) for y in range(top, min(top + s, height)) for z in range(left, min(left + s, width))]
        for top in range(0, height, s)
        for left in range(0, width, s)
    ]

    def cells(t: torch.Tensor, where: list[tuple[int, int]]) -> torch.Tensor:
        return torch.stack([t[:, :, y, z] for y, z in where], 1)  # B n C

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        q, k, v = (t.unflatten(2, (heads, d)).transpose(1, 2) for t in (q, k, v))
        return ((q @ k.transpose(2, 3) * m.scale).softmax(-1) @ v).transpose(1, 2).flatten(2)

    hi, lo_q = m.qkv(x).split((3 * m.h_dim, m.l_dim), 1)
    parts = []
    if m.h_heads:
        y = torch.zeros(x.shape[0], m.h_dim, height, width)
        for where in windows:
            out = attend(*cells(hi, where).chunk(3, 2), m.h_heads)
            for i, (r, c) in enumerate(where):
                y[:, :, r, c] = out[:, i]
        parts.append(m.h_proj(y))
    if m.l_heads:
        means = torch.stack([cells(x, where).mean(1) for where in windows], 2)[:, :, None]
        k, v = m.l_kv(means).flatten(2).transpose(1, 2).chunk(2, 2)
        out = attend(lo_q.flatten(2).transpose(1, 2), k, v, m.l_heads)
        parts.append(m.l_proj(out.transpose(1, 2).unflatten(2, (height, width))))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (8, 6), (9, 4)], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("window_size", [1, 2, 3, 4])
def test_equals_attention_over_real_cells(window_size: int, alpha: float, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    m = HiLo(16, heads=4, window_size=window_size, alpha=alpha)
    x = torch.randn(2, 16, *size, requires_grad=True)
    got, want = m(x), naive_hilo(m, x)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(want)
    (got_grad,) = torch.autograd.grad((got * weight).sum(), x)
    (want_grad,) = torch.autograd.grad((want * weight).sum(), x)
    torch.testing.assert_close(got_grad, want_grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window_size", [2, 3])
def test_paddings_differ_only_where_windows_are_incomplete(window_size: int) -> None:
    torch.manual_seed(0)
    masked = HiLo(16, 4, window_size)
    zero = HiLo(16, 4, window_size, padding="zero")
    zero.load_state_dict(masked.state_dict())
    whole, torn = torch.randn(1, 16, 6, 12), torch.randn(1, 16, 7, 11)
    torch.testing.assert_close(masked(whole), zero(whole))
    assert (masked(torn) - zero(torn)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("heads", "alpha", "window_size", "low"),
    [(3, 0.9, 2, 2), (12, 0.9, 2, 10), (4, 0.2, 2, 0), (100, 0.29, 2, 28), (8, 0.0, 1, 8), (8, 1, 4, 8)],
)
def test_share_of_heads_is_rounded_down(heads: int, alpha: float, window_size: int, low: int) -> None:
    m = HiLo(4 * heads, heads, window_size, alpha)
    assert (m.l_heads, m.h_heads) == (low, heads - low)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "c1=32 must be a multiple of heads=5"),
        ({"heads": 0}, "heads=0"),
        ({"window_size": 0}, "window_size=0 must be at least 1"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"padding": "reflect"}, "padding='reflect'"),
        ({"qk_scale": -1.0}, "qk_scale=-1.0"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HiLo(32, **options)


class LargestOutput(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.largest = max(self.largest, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels_last"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_no_tensor_holds_all_weights(train: bool, layout: torch.memory_format) -> None:
    m, x = HiLo(16, 4).train(train), torch.randn(1, 16, 40, 40).contiguous(memory_format=layout)
    with LargestOutput() as seen:
        m(x.requires_grad_(train))
    assert 0 < seen.largest < 1600 * 400


def test_keeps_at_most_six_times_its_input_for_the_backward_pass() -> None:
    m, x = HiLo(64), torch.randn(1, 64, 80, 80, requires_grad=True)
    own = {p.data_ptr() for p in m.parameters()}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = m(x)
    assert sum(kept.values()) <= 6 * x.numel() * x.element_size()
    assert y.requires_grad


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_residual_row_folds_into_the_projections(alpha: float) -> None:
    torch.manual_seed(0)
    row = registry.carrier("HiLo", "row").cls(16, heads=4, alpha=alpha).eval()
    x = torch.randn(2, 16, 7, 6)
    assert torch.equal(row(x), x)
    nn.init.normal_(row.bn.weight)
    row.bn.running_mean.normal_()
    row.bn.running_var.uniform_(0.5, 2)
    want = row(x)
    row.fuse()
    row.fuse()
    assert isinstance(row.bn, nn.Identity)
    torch.testing.assert_close(row(x), want, atol=1e-5, rtol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    m, x = HiLo(16, 4, attn_drop=0.5, proj_drop=0.5), torch.randn(1, 16, 8, 8)
    assert not torch.equal(m.train()(x), m(x))
    assert torch.equal(m.eval()(x), m(x))
    m.proj_drop.p = 0.0
    assert not torch.equal(m.train()(x), m(x))  # by the dropped weights alone


def test_hi_fi_weights_can_be_watched() -> None:
    m, seen = HiLoBlock(16, 4, alpha=0.5), []
    m.attn.h_softmax.register_forward_hook(lambda _m, _args, out: seen.append(out))
    m(torch.randn(2, 16, 5, 6))
    (weights,) = seen
    assert weights.shape == (2, 2, 4, 4, 9)  # B, heads, query cell, key cell, windows
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 4, 9))
    assert not weights[:, :, :, 2:, 6:].any()  # the bottom windows' lower cells lie beyond the map


@pytest.mark.parametrize(("size", "millions"), [("s", 27.84), ("m", 48.83), ("b", 86.52)])
def test_networks_have_the_papers_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        network = LITv2(size)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


SMALL = {"channels": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "heads": (1, 2, 2, 4)}


def test_backbone_gives_four_maps_of_any_image() -> None:
    m = LITv2Backbone("s", **SMALL).train()
    maps = m(torch.randn(1, 3, 70, 33))
    assert m.channels == (8, 16, 24, 32)
    assert [tuple(y.shape) for y in maps] == [(1, 8, 18, 9), (1, 16, 9, 5), (1, 24, 5, 3), (1, 32, 3, 2)]
    sum(y.square().mean() for y in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())


def test_backbone_gives_the_chosen_maps() -> None:
    torch.manual_seed(0)
    m = LITv2Backbone("s", **SMALL)
    some = LITv2Backbone("s", **SMALL, outputs=(1, 3))
    some.load_state_dict({k: v for k, v in m.state_dict().items() if not k.startswith("norms.2")})
    x = torch.randn(1, 3, 64, 64)
    assert some.channels == (16, 32)
    for got, want in zip(some.eval()(x), m.eval()(x)[1::2], strict=True):
        torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="0 to 3"):
        LITv2Backbone("s", **SMALL, outputs=(4,))


def test_classifier_and_backbone_share_their_weights() -> None:
    backbone, classifier = LITv2Backbone("s", **SMALL), LITv2("s", 5, **SMALL)
    rest = set(classifier.state_dict()) - set(backbone.state_dict())
    assert rest == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert classifier(torch.randn(2, 3, 40, 50)).shape == (2, 5)


def test_unknown_sizes_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="size='n'.*Sizes: s, m, b"):
        LITv2Backbone("n")
    with pytest.raises(ValueError, match="'window_size'. Did you mean window_sizes"):
        LITv2Backbone("s", window_size=2)


def test_misfits_of_the_authors_weights_are_listed_under_their_names() -> None:
    state = {
        "h_qkv.weight": torch.zeros(48, 32),
        "h_qkv.bias": torch.zeros(48),
        "h_proj.weight": torch.zeros(16, 16),
        "h_proj.bias": torch.zeros(16),
        "l_q.bias": torch.zeros(16),
        "l_kv.weight": torch.zeros(32, 30),
        "l_kv.bias": torch.zeros(32),
        "l_proj.weight": torch.zeros(16, 16),
        "l_proj.bias": torch.zeros(16),
        "sr.weight": torch.zeros(3),
    }
    kwargs = {"dim": 32, "num_heads": 4, "qkv_bias": True}
    with pytest.raises(official.OfficialWeightsError) as e:
        official.load("hilo", kwargs, state)
    for part in ("missing l_q.weight (16, 32)", "unknown sr.weight (3,)", "l_kv.weight: (32, 30) given, (32, 32)"):
        assert part in str(e.value)
    with pytest.raises(official.OfficialWeightsError, match="window"):
        official.load("hilo", {**kwargs, "window": 2}, state)
