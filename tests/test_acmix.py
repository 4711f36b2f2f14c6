"""ACmix: against the published algorithm step by step, its two attention engines against each other, its limits."""

from __future__ import annotations

import copy

import pytest
import torch
from kernel_cases import assert_same, observe, outcome
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_attn.blocks.acmix.blocks import ACmixBottleneck, ACmixSwinBlock
from yolo_attn.blocks.acmix.forms import ACmixGlobal, ACmixPatchwise
from yolo_attn.blocks.acmix.network import ACmixResNet, ACmixResNetBackbone, ACmixSwin, ACmixSwinBackbone
from yolo_attn.blocks.acmix.operator import ACmix, ConvolutionPath
from yolo_attn.blocks.acmix.shifted_windows import ACmixWindow
from yolo_attn.kernels import disabled
from yolo_attn.weights import official


class StepByStep(nn.Module):
    """The published algorithm: pad, copy every neighbour, multiply, softmax, sum; fc, grouped convolution."""

    def __init__(self, c1: int, c2: int, k: int = 7, heads: int = 4, stride: int = 1) -> None:
        super().__init__()
        self.heads, self.d, self.k, self.stride = heads, c2 // heads, k, stride
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c1, c2, 1) for _ in range(3))
        self.conv_p = nn.Conv2d(2, self.d, 1)
        self.fc = nn.Conv2d(3 * heads, 9, 1, bias=False)
        self.dep_conv = nn.Conv2d(9 * self.d, c2, 3, stride, 1, groups=self.d, bias=False)
        self.rate1, self.rate2 = nn.Parameter(torch.tensor([0.3])), nn.Parameter(torch.tensor([0.8]))

    def neighbors(self, x: Tensor, rows: int, cols: int) -> Tensor:
        x = F.pad(x, (self.k // 2,) * 4, mode="reflect") if self.k > 1 else x
        return F.unfold(x, self.k, stride=self.stride).view(x.shape[0], self.d, self.k**2, rows, cols)

    def forward(self, x: Tensor) -> Tensor:
        b, _, height, width = x.shape
        h, d, s = self.heads, self.d, self.stride
        q, k, v = (conv(x) for conv in (self.conv1, self.conv2, self.conv3))
        xs = torch.linspace(-1, 1, width, dtype=x.dtype).expand(height, width)
        ys = torch.linspace(-1, 1, height, dtype=x.dtype)[:, None].expand(height, width)
        place = self.conv_p(torch.stack([xs, ys])[None])
        q_own, place_own = q.view(b * h, d, height, width)[..., ::s, ::s] * d**-0.5, place[..., ::s, ::s]
        rows, cols = q_own.shape[-2:]
        k_near, v_near = (self.neighbors(t.view(b * h, d, height, width), rows, cols) for t in (k, v))
        apart = place_own[:, :, None] - self.neighbors(place, rows, cols)
        weights = (q_own[:, :, None] * (k_near + apart)).sum(1).softmax(1)
        att = (weights[:, None] * v_near).sum(2).reshape(b, h * d, rows, cols)
        maps = self.fc(torch.cat([t.view(b, h, d, height * width) for t in (q, k, v)], 1))
        conv = self.dep_conv(maps.transpose(1, 2).reshape(b, -1, height, width))
        return self.rate1 * att + self.rate2 * conv


@pytest.mark.parametrize(
    ("c1", "c2", "k", "heads", "stride", "size"),
    [
        (16, 16, 7, 4, 1, (9, 22)),
        (16, 24, 5, 8, 1, (13, 6)),
        (16, 16, 7, 2, 2, (19, 15)),
        (24, 24, 3, 3, 3, (7, 11)),
        (16, 16, 1, 4, 2, (6, 5)),
        (16, 16, 11, 1, 1, (17, 8)),
    ],
)
def test_equals_the_published_algorithm(
    c1: int, c2: int, k: int, heads: int, stride: int, size: tuple[int, int]
) -> None:
    theirs = StepByStep(c1, c2, k, heads, stride).double()
    kwargs = {"in_planes": c1, "out_planes": c2, "kernel_att": k, "head": heads, "stride": stride}
    ours = official.load("acmix", kwargs, theirs.float().state_dict()).double()
    theirs.double()
    x = torch.randn(2, c1, *size, dtype=torch.double, requires_grad=True)
    want, got = theirs(x), ours(x)
    torch.testing.assert_close(got, want, atol=1e-7, rtol=0)
    g = torch.randn_like(want)
    names = {"fc.weight": "conv.fc.weight", "dep_conv.weight": "conv.dep_conv.weight", "conv_p.weight": "conv_p.weight"}
    names |= {"rate1": "rate_att", "rate2": "rate_conv"}
    want_grads = torch.autograd.grad(want, [x, *(theirs.get_parameter(n) for n in names)], g)
    got_grads = torch.autograd.grad(got, [x, *(ours.get_parameter(n) for n in names.values())], g, allow_unused=True)
    for w, o in zip(want_grads, got_grads, strict=True):
        torch.testing.assert_close(o, w, atol=1e-5, rtol=1e-6)


def kept_for_backward(module: nn.Module, x: Tensor) -> float:
    """Bytes that autograd keeps, parameters aside, over those of the input."""
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = module(x)
    for p in module.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    assert y.requires_grad
    return sum(kept.values()) / (x.numel() * x.element_size())


def test_backward_keeps_six_inputs_not_a_hundred() -> None:
    x = torch.randn(1, 64, 80, 80)
    assert kept_for_backward(ACmix(64), x) < 6
    assert kept_for_backward(StepByStep(64, 64), x[..., :20, :20].contiguous()) > 100


def test_global_attention_keeps_no_square_matrix() -> None:
    x = torch.randn(1, 32, 40, 40)
    assert kept_for_backward(ACmixGlobal(32), x) < 15  # a matrix per head would be 4 * 1600 / 32 = 200


def test_weights_can_be_watched_and_watching_changes_nothing() -> None:
    module = ACmix(16, heads=2, kernel_att=5, stride=2).eval()
    x = torch.randn(2, 16, 9, 7)
    seen = []
    with torch.no_grad():
        want = module(x)
        hook = module.softmax.register_forward_hook(lambda m, args, y: seen.append(y))
        torch.testing.assert_close(module(x), want, atol=1e-6, rtol=0)
        hook.remove()
        module(x)
    assert len(seen) == 1 and seen[0].shape == (2, 2, 25, 5, 4)
    torch.testing.assert_close(seen[0].sum(2), torch.ones(2, 2, 5, 4))


def test_watched_paths_add_up() -> None:
    module = ACmix(16).eval()
    parts = []
    for path in (module.att, module.conv):
        path.register_forward_hook(lambda m, args, y: parts.append(y))
    with torch.no_grad():
        y = module(torch.randn(1, 16, 6, 6))
    torch.testing.assert_close(parts[0] + parts[1], y)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("gradients", [True, False], ids=["training", "inference"])
def test_joined_convolution_equals_fc_then_shifts(
    kernel: int, stride: int, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = observe(monkeypatch)
    path = ConvolutionPath(24, 2, kernel, stride).double()
    nn.init.normal_(path.dep_conv.weight)
    qkv = torch.randn(2, 12, 3, 2, 7, 8, dtype=torch.double, requires_grad=True)
    rate = torch.tensor([0.7], dtype=torch.double)
    joined = outcome(path, [qkv, rate], gradients)
    assert calls["shifted_conv"] == 1
    with disabled():
        assert_same(joined, outcome(path, [qkv, rate], gradients))


def test_convolution_path_starts_as_an_ordinary_convolution() -> None:
    """Output (D, h) is the k x k convolution whose tap s is row s of fc, the same for every D and h."""
    path = ConvolutionPath(8, 2, 3)
    qkv = torch.randn(1, 4, 3, 2, 6, 5)
    kernel = path.fc.weight.view(9, 6).t().reshape(1, 6, 3, 3)
    want = F.conv2d(qkv.view(4, 6, 6, 5), kernel, padding=1).expand(4, 2, 6, 5).reshape(1, 8, 6, 5)
    torch.testing.assert_close(path(qkv, torch.ones(1)), want)


BACKBONES = {"resnet": lambda: ACmixResNetBackbone("26"), "swin": lambda: ACmixSwinBackbone("t", channels=24)}


@pytest.mark.parametrize(("name", "blocks"), [("resnet", 8), ("swin", 12)])
def test_shift_kernels_survive_the_initialisation_of_a_network(name: str, blocks: int) -> None:
    paths = [m for m in BACKBONES[name]().modules() if isinstance(m, ConvolutionPath)]
    assert len(paths) == blocks
    for path in paths:
        shifts = torch.eye(9).view(9, 3, 3).expand_as(path.dep_conv.weight)
        assert torch.equal(path.dep_conv.weight, shifts)


@pytest.mark.parametrize("heads", [3, 4, 6])
def test_any_number_of_heads_trains(heads: int) -> None:
    """4 heads join fc and dep_conv, 6 do not, and 48 / 3 = 16 groups join in fours."""
    module = ACmix(48, heads=heads, kernel_conv=3)
    module(torch.randn(2, 48, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_training_under_compile_gives_the_eager_gradients() -> None:
    module = ACmix(16, heads=2, kernel_att=5)
    other = copy.deepcopy(module)
    x = torch.randn(2, 16, 9, 11)
    module(x).square().mean().backward()
    torch.compile(other, backend="eager", fullgraph=True)(x).square().mean().backward()
    for (name, p), q in zip(module.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_rates_are_read_by_name() -> None:
    module = ACmix(16)
    assert module.rate_att.item() == module.rate_conv.item() == 0.5
    with torch.no_grad():
        module.rate_att.zero_()
        module.rate_conv.zero_()
        assert not module(torch.randn(1, 16, 4, 4)).any()


@pytest.mark.parametrize("cls", [ACmix, ACmixWindow, ACmixGlobal])
def test_wide_heads_stay_finite_in_half_precision(cls: type[nn.Module]) -> None:
    """With 64 channels a head, logits of an input of scale 100 leave float16's range."""
    module = cls(256).eval().half()
    with torch.no_grad():
        assert module((torch.randn(1, 256, 7, 9) * 100).half()).isfinite().all()


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (9, 13), (3, 10), (1, 1)], ids=str)
def test_windows_attend_within_the_map_only(size: tuple[int, int], shift: int) -> None:
    """Against attention over all pairs of cells, of which those in different windows are masked."""
    height, width = size
    w, c, heads = 4, 12, 3
    module = ACmixWindow(c, heads, w, shift).eval().double()
    with torch.no_grad():
        module.rate_conv.zero_()
        module.relative_position_bias_table.normal_()
    x = torch.randn(2, c, height, width, dtype=torch.double)
    q, k, v = module.qkv(x).view(2, c // heads, 3, heads, -1).permute(2, 0, 3, 4, 1)
    y, x_ = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    window_y = (y - shift * (height > w)).div(w, rounding_mode="floor")
    window_x = (x_ - shift * (width > w)).div(w, rounding_mode="floor")
    same = (window_y[:, None] == window_y) & (window_x[:, None] == window_x)
    row = ((y[:, None] - y + w - 1) * (2 * w - 1) + x_[:, None] - x_ + w - 1).clamp(0, (2 * w - 1) ** 2 - 1)
    bias = module.relative_position_bias_table[row].permute(2, 0, 1)
    logits = (q * (c // heads) ** -0.5) @ k.transpose(-1, -2) + bias
    att = logits.masked_fill(~same, float("-inf")).softmax(-1) @ v
    want = 0.5 * module.proj(att.transpose(2, 3).reshape(2, c, height, width))
    with torch.no_grad():
        torch.testing.assert_close(module(x), want)


def test_wrap_moves_the_seam_of_the_convolution() -> None:
    """The convolution sees the border as a border; with wrap=True the join lies inside, `shift` cells from it."""
    module = ACmixWindow(8, 2, 4, 2).eval()
    wrapped = ACmixWindow(8, 2, 4, 2, wrap=True).eval()
    wrapped.load_state_dict(module.state_dict())
    x = torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        apart = (module(x) - wrapped(x)).abs().amax(1)[0] > 1e-6
    near = torch.zeros(8, dtype=torch.bool)
    near[[0, 7, 1, 2]] = True  # the border's cells, and those on both sides of the join between cells 1 and 2
    assert apart.any() and not (apart & ~(near[:, None] | near)).any()


@pytest.mark.parametrize("size", [(6, 9), (5, 7), (2, 1)], ids=str)
def test_global_attention_over_averaged_keys(size: tuple[int, int]) -> None:
    module = ACmixGlobal(12, heads=3, reduction=3).eval().double()
    with torch.no_grad():
        module.rate_conv.zero_()
    x = torch.randn(2, 12, *size, dtype=torch.double)
    q, k, v = module.qkv(x).view(2, 4, 3, 3, *size).permute(2, 0, 3, 4, 5, 1)  # B h H W D each
    squares = [(slice(i, i + 3), slice(j, j + 3)) for i in range(0, size[0], 3) for j in range(0, size[1], 3)]
    k, v = (torch.stack([t[:, :, a, b].mean((2, 3)) for a, b in squares], 2) for t in (k, v))
    att = (q.flatten(2, 3) @ k.transpose(-1, -2) * 4**-0.5).softmax(-1) @ v
    want = 0.5 * module.proj(att.transpose(2, 3).reshape(2, 12, *size))
    with torch.no_grad():
        torch.testing.assert_close(module(x), want)


def test_patchwise_weights_come_from_the_whole_patch() -> None:
    """Against the formula: query and all keys side by side, two layers, a weighted sum."""
    height, width, k = 5, 6, 3
    module = ACmixPatchwise(8, heads=2, kernel_att=k, hidden=3).eval().double()
    with torch.no_grad():
        module.rate_conv.zero_()
    x = torch.randn(1, 8, height, width, dtype=torch.double)
    q, keys, v = module.qkv(x).view(4, 3, 2, height, width).permute(1, 2, 0, 3, 4)  # h D H W each
    keys, v = (F.pad(t, (1,) * 4, mode="reflect") for t in (keys, v))
    layer_q, layer_k = module.from_q.weight.view(2, 3, 4), module.from_k.weight.view(2, 3, 4 * k * k)
    layer, bias = torch.cat([layer_q, layer_k], 2), module.from_q.bias.view(2, 3)
    last, last_bias = module.to_weights.weight.view(2, 9, 3), module.to_weights.bias.view(2, 9)
    want = torch.empty(2, 4, height, width, dtype=torch.double)
    for i in range(height):
        for j in range(width):
            for h in range(2):
                patch = torch.cat([q[h, :, i, j], keys[h, :, i : i + k, j : j + k].flatten()])
                weights = last[h] @ torch.relu(layer[h] @ patch + bias[h]) + last_bias[h]
                want[h, :, i, j] = v[h, :, i : i + k, j : j + k].flatten(1) @ weights
    with torch.no_grad():
        torch.testing.assert_close(module(x), 0.5 * want.view(1, 8, height, width))


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (lambda: ACmixResNet("26"), 10.49),
        (lambda: ACmixResNet("38"), 14.41),
        (lambda: ACmixResNet("50"), 18.33),
        (lambda: ACmixSwin("t"), 28.65),
        (lambda: ACmixSwin("s"), 50.35),
    ],
)
def test_whole_networks_have_the_authors_parameter_counts(build, millions: float) -> None:
    with torch.device("meta"):
        assert round(sum(p.numel() for p in build().parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_give_four_maps_of_any_image(name: str) -> None:
    network = BACKBONES[name]().eval()
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 75, 41))
    assert [m.shape[1] for m in maps] == list(network.channels)
    assert [tuple(m.shape[2:]) for m in maps] == [(19, 11), (10, 6), (5, 3), (3, 2)]


def test_classifiers_and_backbones_share_their_names() -> None:
    with torch.device("meta"):
        resnet, resnet_maps = ACmixResNet("26").state_dict(), ACmixResNetBackbone("26").state_dict()
        swin, swin_maps = ACmixSwin("t").state_dict(), ACmixSwinBackbone("t").state_dict()
    assert set(resnet) - set(resnet_maps) == {"head.weight", "head.bias"} and set(resnet_maps) <= set(resnet)
    assert {k.split(".")[0] for k in set(swin) ^ set(swin_maps)} == {"head", "norm", "norms"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ACmix(30), "heads=4"),
        (lambda: ACmix(16, heads=0), "heads=0"),
        (lambda: ACmix(16, kernel_att=4), "kernel_att=4 must be odd"),
        (lambda: ACmix(16, kernel_conv=2), "kernel_conv=2 must be odd"),
        (lambda: ACmix(16, stride=0), "stride=0"),
        (lambda: ACmix(16, dilation=0), "dilation=0"),
        (lambda: ACmixPatchwise(16, kernel_att=6), "kernel_att=6 must be odd"),
        (lambda: ACmixGlobal(16, reduction=0), "reduction=0"),
        (lambda: ACmixWindow(16, window=4, shift=4), "shift=4"),
        (lambda: ACmixSwinBlock(16, heads=3), "heads=3"),
        (lambda: ACmixBottleneck(32, hidden=10), "heads=4"),
        (lambda: ACmixResNet("27"), "26, 38, 50"),
        (lambda: ACmixSwin("xl"), "t, s"),
        (lambda: ACmixSwin("t", windows=7), "Did you mean window"),
    ],
)
def test_wrong_arguments_say_what_to_do(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("block", "kwargs", "message"),
    [
        ("acmix", {"in_planes": 16, "out_planes": 16, "kernel_conv": 5}, "allows 3 only"),
        ("acmix", {"in_planes": 16, "out_planes": 16, "heads": 4}, "heads"),
        ("acmix_swin_attn", {"dim": 16, "window_size": [4, 7], "num_heads": 2}, "squares only"),
    ],
)
def test_arguments_that_the_authors_do_not_take_are_refused(block: str, kwargs: dict, message: str) -> None:
    with pytest.raises(official.OfficialWeightsError, match=message):
        official.load(block, kwargs, {})


def test_unfit_states_are_listed_key_by_key() -> None:
    state = StepByStep(16, 16).state_dict()
    del state["conv2.weight"]
    state["fc.weight"] = state["fc.weight"][:4]
    state["dep_conv.bias"] = torch.zeros(16)
    with pytest.raises(official.OfficialWeightsError) as e:
        official.load("acmix", {"in_planes": 16, "out_planes": 16}, state)
    for part in ("missing conv2.weight", "unknown dep_conv.bias", "shape of fc.weight"):
        assert part in str(e.value)
    assert "conv1" not in str(e.value)
