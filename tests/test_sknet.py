"""Selective Kernel: the lean training step against a step-by-step port, options, fusing, the networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_attn.blocks.sknet.network import SKNet, SKNetBackbone
from yolo_attn.blocks.sknet.operator import SelectiveKernel, SKAttention, SKConv
from yolo_attn.kernels.eligibility import conv2d
from yolo_attn.kernels.grouped import grouped_conv


def step_by_step(module: SelectiveKernel, x: torch.Tensor) -> torch.Tensor:
    """The mechanism as the paper writes it: stacked branches, one weighted sum."""
    xs = x.chunk(len(module.convs), 1) if module.split_input else [x] * len(module.convs)
    f = torch.stack([type(b.act)()(b.bn(b.conv(part))) for b, part in zip(module.convs, xs, strict=True)], 1)
    s = f.sum(1).mean((2, 3), keepdim=True)
    z = module.fc_act(module.fc_bn(module.fc(s)))
    a = torch.stack([fc(z) for fc in module.fcs], 1).softmax(1)
    return (a * f).sum(1)


CASES = {
    "two kernels": lambda: SKAttention(32, (3, 5), groups=16),
    "four kernels": lambda: SKAttention(16, (1, 3, 5, 7), groups=1, bias=True),
    "one kernel": lambda: SKAttention(16, (3,), groups=4),
    "paper": lambda: SKConv(32, 64, stride=2),
    "paper, three branches": lambda: SKConv(32, branches=3),
    "split input": lambda: SelectiveKernel(32, 32, split_input=True),
    "other activation": lambda: SelectiveKernel(32, 32, act=nn.SiLU),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_equals_the_step_by_step_form(make, training: bool) -> None:
    torch.manual_seed(0)
    module = make().double().train(training)
    reference = copy.deepcopy(module)
    for _ in range(2):  # twice: running statistics count too
        x = torch.randn(3, module.convs[0].conv.in_channels * (2 if module.split_input else 1), 7, 9).double()
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        y1, y2 = module(x1), step_by_step(reference, x2)
        torch.testing.assert_close(y1, y2)
        g = torch.randn_like(y1)
        y1.backward(g)
        y2.backward(g)
        torch.testing.assert_close(x1.grad, x2.grad)
    # One kernel leaves nothing to choose: the true gradient of its choice is zero, rounding aside.
    for (name, p), q in zip(module.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}: {m}")
    for (name, p), q in zip(module.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda m, name=name: f"{name}: {m}")


def test_gradients_of_the_lean_step_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    module = SKAttention(4, (1, 3), groups=1, L=3).double().train()
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()), eps=1e-6, atol=1e-6)


def saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    seen = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
    assert y.requires_grad
    return sum(seen.values())


def test_training_keeps_the_input_and_one_map_per_branch() -> None:
    x = torch.randn(2, 64, 40, 40, requires_grad=True)
    for kernels in ((3, 5), (1, 3, 5)):
        kept = saved_bytes(SKAttention(64, kernels, groups=32), x) / (x.numel() * 4)
        assert kept < len(kernels) + 1.2


def test_frozen_parts_train_and_stay() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 6, 6)
    module = SKAttention(16).train()
    for p in (*module.fc.parameters(), module.convs[0].bn.weight):
        p.requires_grad_(False)
    module(x).square().mean().backward()
    assert module.fc.weight.grad is None and module.convs[0].bn.weight.grad is None
    assert module.convs[0].bn.bias.grad.any() and module.fcs[0].weight.grad.any()
    for branch in module.convs:  # a BatchNorm in eval mode inside a training model uses its running statistics
        branch.bn.eval()
    torch.testing.assert_close(module(x), step_by_step(module, x))


def test_autocast_trains_like_plain_modules() -> None:
    torch.manual_seed(0)
    module = SKAttention(32, groups=16).train()
    reference = copy.deepcopy(module)
    x = torch.randn(2, 32, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y, want = module(x), step_by_step(reference, x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, want.to(y.dtype), atol=0.06, rtol=0.02)
    y.float().square().mean().backward()
    want.float().square().mean().backward()
    for p, q in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=0.02, rtol=0.05)


def test_weights_add_up_to_one_and_can_be_watched() -> None:
    module = SKAttention(16, (1, 3, 5)).eval()
    seen = []
    module.softmax.register_forward_hook(lambda _m, _x, y: seen.append(y))
    module(torch.randn(2, 16, 5, 5))
    (a,) = seen
    assert a.shape == (2, 3, 16, 1, 1)
    torch.testing.assert_close(a.sum(1), torch.ones(2, 16, 1, 1))


def test_one_kernel_is_its_branch() -> None:
    module = SKAttention(16, (3,)).eval()
    x = torch.randn(1, 16, 6, 5)
    torch.testing.assert_close(module(x), module.convs[0](x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SKAttention(32, (3, 4)), "odd"),
        (lambda: SKAttention(32, ()), "at least one"),
        (lambda: SKAttention(32, groups=5), "groups=5 must divide"),
        (lambda: SKConv(32, 48, groups=32), "groups=32 must divide"),
        (lambda: SKConv(32, branches=0), "branches=0"),
        (lambda: SKAttention(32, L=0, reduction=64), "hidden=0"),
        (lambda: SelectiveKernel(32, 32, (3, 3), (1, 2, 3)), "one dilation for each"),
        (lambda: SelectiveKernel(33, 32, split_input=True), "multiple of the 2 branches"),
        (lambda: SKNet("5O"), "50"),
        (lambda: SKNetBackbone("34"), "Sizes: 26, 50, 101"),
    ],
)
def test_options_that_cannot_work_say_so(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "c1, c2, groups, stride, dilation",
    [
        (32, 32, 16, 1, 1),
        (32, 32, 8, 2, 1),
        (32, 64, 16, 1, 1),
        (16, 16, 8, 1, 2),
        (24, 24, 6, 1, 1),
        (16, 16, 4, 1, 2),
        (16, 16, 16, 1, 1),
        (16, 16, 1, 1, 1),
        (12, 12, 6, 1, 1),
    ],
)
def test_joined_groups_are_the_same_convolution(c1: int, c2: int, groups: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(c1, c2, 3, stride, dilation, dilation, groups).double()
    x = torch.randn(2, c1, 6, 7, dtype=torch.float64, requires_grad=True)
    y, want = grouped_conv(x, conv2d(conv)), conv(x)
    torch.testing.assert_close(y, want)
    g = torch.randn_like(y)
    for got, expected in zip(
        torch.autograd.grad(y, (x, *conv.parameters()), g),
        torch.autograd.grad(want, (x, *conv.parameters()), g),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("part", ["convs.0", "convs.0.conv", "convs.0.bn", "convs.1.act", "fc", "softmax"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_part_can_be_watched(part: str, training: bool) -> None:
    module, fired = SKAttention(32, groups=16).train(training), []
    module.get_submodule(part).register_forward_hook(lambda *_: fired.append(1))
    module(torch.randn(2, 32, 4, 4)).sum().backward()
    assert len(fired) == 1


# The paper's table counts 27.5 million for SKNet-50 and 48.9 for SKNet-101; the latter with BatchNorm's statistics.
@pytest.mark.parametrize("size, with_statistics, millions", [("50", False, 27.5), ("101", True, 48.9)])
def test_networks_have_the_papers_size(size: str, with_statistics: bool, millions: float) -> None:
    with torch.device("meta"):
        net = SKNet(size)
    n = sum(p.numel() for p in net.parameters())
    if with_statistics:
        n += sum(b.numel() for b in net.buffers() if b.dim())
    assert round(n / 1e6, 1) == millions


def test_backbone_gives_four_maps_of_any_image() -> None:
    net = SKNetBackbone("26").eval()
    for h, w in ((64, 96), (33, 47), (1, 1)):
        with torch.no_grad():
            maps = net(torch.randn(1, 3, h, w))
        want = [(c, -(-h // s), -(-w // s)) for c, s in zip(net.channels, (4, 8, 16, 32), strict=True)]
        assert [tuple(m.shape[1:]) for m in maps] == want


def test_classifier_and_backbone_share_their_weights_and_maps() -> None:
    torch.manual_seed(0)
    classifier, backbone = SKNet("26", num_classes=5).eval(), SKNetBackbone("26").eval()
    left = backbone.load_state_dict(classifier.state_dict(), strict=False)
    assert not left.missing_keys and left.unexpected_keys == ["head.weight", "head.bias"]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), classifier.head(backbone(x)[-1].mean((2, 3))))


def test_stem_pools_like_the_authors_where_sizes_divide() -> None:
    net = SKNetBackbone("26").eval()
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        want = nn.functional.max_pool2d(net.stem(x), 3, 2, ceil_mode=True)  # Caffe rounds up
        torch.testing.assert_close(net.start(x), want)
