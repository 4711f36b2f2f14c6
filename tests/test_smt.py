"""What is special to SMT: its mechanisms against step-by-step formulas, memory, fusing, the network's plan."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from yolo_attn.blocks.smt.blocks import ConvMlp, MSABlock, SAMBlock
from yolo_attn.blocks.smt.network import SMT, SMTBackbone, SMTPatchEmbed, SMTStage, SMTStem, smt_b, smt_l, smt_s, smt_t
from yolo_attn.blocks.smt.operator import ScaleAwareModulation, SMTAttention
from yolo_attn.weights import official
from yolo_attn.weights.official.smt import NETWORK

GOLDEN = Path(__file__).parent / "golden"
#: Ways in which a map can lie in memory.
LAYOUTS = {
    "nchw": lambda x: x.contiguous(),
    "nhwc": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "slice": lambda x: torch.cat([x, x], 1).chunk(2, 1)[0],
}


def randomised(module: nn.Module) -> nn.Module:
    """Weights and statistics under which nothing vanishes, in float64."""
    module = module.double()
    g = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.4 + (p.dim() == 1) * 0.3
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.3)
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.2)
    return module


def step_by_step(sam: ScaleAwareModulation, x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
    """The paper's formulas, one by one; `bn` stands for the operator's own, whose statistics stay as they are."""
    c, heads = x.shape[1], len(sam.mixed_conv.heads)
    s = F.conv2d(x, sam.s.weight, sam.s.bias)
    context = []
    for i, conv in enumerate(sam.mixed_conv.heads):
        part = s[:, i * c // heads : (i + 1) * c // heads]
        context.append(F.conv2d(part, conv.weight, conv.bias, padding=1 + i, groups=c // heads))
    grouped = [torch.cat([d[:, g : g + 1] for d in context], 1) for g in range(c // heads)]
    saa = sam.aggregation
    wide = saa.intra.out_channels // len(grouped)
    u = torch.cat(
        [
            F.conv2d(z, saa.intra.weight[g * wide : (g + 1) * wide], saa.intra.bias[g * wide : (g + 1) * wide])
            for g, z in enumerate(grouped)
        ],
        1,
    )
    m = F.conv2d(F.gelu(bn(u)), saa.inter.weight, saa.inter.bias)
    return F.conv2d(m * F.conv2d(x, sam.v.weight, sam.v.bias), sam.proj.weight, sam.proj.bias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "c1, heads, expand_ratio, qkv_bias, size",
    [
        (16, 4, 2, True, (2, 7, 9)),
        (16, 1, 2, True, (1, 5, 4)),
        (16, 2, 1, False, (2, 1, 3)),
        (24, 3, 4, True, (3, 6, 5)),
        (32, 8, 2, False, (1, 12, 10)),
    ],
)
def test_sam_follows_the_formulas_in_training_and_at_rest(c1, heads, expand_ratio, qkv_bias, size, layout) -> None:
    sam = randomised(ScaleAwareModulation(c1, heads, expand_ratio, qkv_bias))
    b, h, w = size
    x = LAYOUTS[layout](torch.randn(b, c1, h, w, dtype=torch.float64)).requires_grad_()
    for mode in (True, False):
        bn = nn.BatchNorm2d(c1 * expand_ratio).double()
        bn.load_state_dict(sam.aggregation.bn.state_dict())
        sam.train(mode), bn.train(mode)
        parameters = [p for k, p in sam.named_parameters() if not k.startswith("aggregation.bn")]
        want_y = step_by_step(sam, x, bn)
        weights = torch.linspace(-1, 1, want_y.numel(), dtype=torch.float64).view(want_y.shape)
        want = torch.autograd.grad((want_y * weights).sum(), [x, *parameters, bn.weight, bn.bias])
        y = sam(x)
        own = [sam.aggregation.bn.weight, sam.aggregation.bn.bias]
        got = torch.autograd.grad((y * weights).sum(), [x, *parameters, *own])
        torch.testing.assert_close(y, want_y, atol=1e-10, rtol=1e-10)
        for a, e in zip(got, want, strict=True):
            torch.testing.assert_close(a, e, atol=1e-9, rtol=1e-9)
        for key, value in bn.state_dict().items():
            torch.testing.assert_close(sam.aggregation.bn.state_dict()[key], value, atol=1e-12, rtol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(sam(x), want_y, atol=1e-10, rtol=1e-10)


def test_statistics_keep_their_digits_far_from_zero() -> None:
    """Variance of maps whose mean is thousands of deviations away, in float32, against float64."""
    sam = ScaleAwareModulation(16).train()
    for conv in sam.mixed_conv.heads:
        nn.init.constant_(conv.bias, 1000.0)
    exact = copy.deepcopy(sam).double()
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(sam(x).double(), exact(x.double()), atol=2e-3, rtol=2e-2)


def test_watching_a_part_changes_nothing_but_shows_it() -> None:
    sam = randomised(ScaleAwareModulation(16))
    x = torch.randn(2, 16, 6, 7, dtype=torch.float64)
    for mode in (True, False):
        sam.train(mode)
        want = copy.deepcopy(sam)(x)
        parts = ["mixed_conv.heads.3", "aggregation.intra", "aggregation.bn", "modulator", "v", "proj"]
        seen: dict[str, torch.Tensor] = {}
        watched = copy.deepcopy(sam)
        for name in parts:
            watched.get_submodule(name).register_forward_hook(
                lambda m, a, y, name=name, seen=seen: seen.update({name: y})
            )
        torch.testing.assert_close(watched(x), want, atol=1e-10, rtol=1e-10)
        assert sorted(seen) == sorted(parts)
        product = seen["modulator"] * seen["v"]
        torch.testing.assert_close(F.conv2d(product, sam.proj.weight, sam.proj.bias), want, atol=1e-10, rtol=1e-10)


def saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters aside."""
    storages: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in own:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
    del y
    return sum(storages.values())


def test_sam_keeps_little_for_the_backward_pass() -> None:
    x = torch.randn(1, 64, 40, 40, requires_grad=True)
    assert saved_bytes(ScaleAwareModulation(64).train(), x) <= 5.1 * x.numel() * 4


def test_attention_never_holds_its_square() -> None:
    x = torch.randn(1, 32, 40, 40, requires_grad=True)
    square = 8 * 1600**2 * 4
    assert saved_bytes(SMTAttention(32).train(), x) < square / 20


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("heads, qk_scale", [(1, None), (4, 0.7), (8, None)])
def test_attention_is_softmax_of_products_plus_local_term(heads, qk_scale, layout) -> None:
    msa = randomised(SMTAttention(16, heads, qk_scale=qk_scale))
    x = LAYOUTS[layout](torch.randn(2, 16, 4, 5, dtype=torch.float64))
    q, k, v = (t.flatten(2).unflatten(1, (heads, -1)) for t in (msa.q(x), *msa.kv(x).chunk(2, 1)))
    products = torch.einsum("bhdi,bhdj->bhij", q, k) * (qk_scale or (16 // heads) ** -0.5)
    attended = torch.einsum("bhij,bhdj->bhdi", products.softmax(-1), v).flatten(1, 2).unflatten(2, (4, 5))
    local = F.conv2d(msa.kv(x)[:, 16:], msa.local_conv.weight, msa.local_conv.bias, padding=1, groups=16)
    torch.testing.assert_close(msa(x), msa.proj(attended + local))


@pytest.mark.parametrize(
    "factory, millions", [(smt_t, 11.51), (smt_s, 22.55), (smt_b, 32.04), (smt_l, 80.6)], ids=lambda v: str(v)
)
def test_sizes_have_the_authors_number_of_parameters(factory, millions) -> None:
    with torch.device("meta"):
        model = factory()
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(count, len(str(millions).split(".")[1])) == millions


def test_backbone_gives_four_maps_whose_channels_it_tells() -> None:
    with torch.device("meta"):
        backbone = SMTBackbone("l", in_channels=4)
        maps = backbone(torch.empty(2, 4, 250, 322))
    assert [tuple(m.shape) for m in maps] == [
        (2, 96, 63, 81),
        (2, 192, 32, 41),
        (2, 384, 16, 21),
        (2, 768, 8, 11),
    ]
    assert backbone.channels == (96, 192, 384, 768)


def test_stages_go_from_modulation_to_attention() -> None:
    with torch.device("meta"):
        kinds = [[type(b) for b in stage.blocks] for stage in SMTBackbone("t").stages]
    assert kinds == [[SAMBlock] * 2, [SAMBlock] * 2, [SAMBlock, MSABlock] * 4, [MSABlock]]
    assert [type(b) for b in SMTStage(16, 16, 3, "mix").blocks] == [SAMBlock, MSABlock, SAMBlock]


def test_stochastic_depth_rises_and_drops_whole_images() -> None:
    tiny = {"channels": (16, 16, 16, 16), "depths": (1, 1, 2, 1), "mlp_ratios": (1, 1, 1, 1), "msa_heads": (4,) * 4}
    backbone = SMTBackbone("t", **tiny, drop_path=0.4)
    rates = [b.drop_path.rate for stage in backbone.stages for b in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    block = MSABlock(16, drop_path=0.5).train()
    torch.manual_seed(0)
    x = torch.randn(32, 16, 3, 3)
    moved = (block(x) != x).flatten(1)
    assert (moved.all(1) | ~moved.any(1)).all() and moved.any() and not moved.all()


def test_odd_images_keep_their_edge_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    stem, authors = SMTStem(3, 16).eval(), SMTStem(3, 16, keep_edge=False).eval()
    authors.load_state_dict(stem.state_dict())
    x = torch.randn(1, 3, 33, 47)
    assert stem(x).shape[2:] == (9, 12) and authors(x).shape[2:] == (8, 12)
    torch.testing.assert_close(stem(x)[:, :, :8], authors(x))


def test_classification_weights_reach_every_layer_of_the_backbone() -> None:
    """In the authors' detection code the attention's convolution has another name, so its weights stay random."""
    state = load_file(GOLDEN / "smt_model/mini_64x96.safetensors")
    authors = {k[6:]: v for k, v in state.items() if k.startswith("state.")}
    plan = {"channels": (16, 24, 32, 48), "depths": (1, 1, 2, 1), "mlp_ratios": (2, 2, 2, 2), "msa_heads": (8,) * 4}
    head = {k: authors[k] for k in ("head.weight", "head.bias")}
    backbone, classifier = SMTBackbone("t", **plan).eval(), SMT("t", 10, **plan).eval()
    for module, state_of in ((backbone, {k: v for k, v in authors.items() if k not in head}), (classifier, authors)):
        ours, problems = NETWORK.translate(module, state_of)
        assert not problems
        module.load_state_dict(ours)
    with torch.no_grad():
        pooled = backbone(state["input"])[-1].mean((2, 3))
        torch.testing.assert_close(F.linear(pooled, *head.values()), classifier(state["input"]))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ScaleAwareModulation(20, 3), ["c1=20", "heads=3"]),
        (lambda: ScaleAwareModulation(16, 0), ["heads=0"]),
        (lambda: ScaleAwareModulation(16, expand_ratio=0), ["expand_ratio=0"]),
        (lambda: SMTAttention(20, 8), ["c1=20", "heads=8"]),
        (lambda: ConvMlp(16, act="Gelu"), ["act='Gelu'", "GELU"]),
        (lambda: SMTPatchEmbed(16, 16, 4), ["k=4"]),
        (lambda: SMTStage(16, 16, 2, "mic"), ["kind='mic'", "mix"]),
        (lambda: SMTBackbone("tiny"), ["size='tiny'", "t, s, b, l"]),
        (lambda: SMT("t", depth=(1, 1, 1, 1)), ["depth", "depths"]),
    ],
)
def test_what_cannot_be_built_says_why(build, message) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert all(part in str(error.value) for part in message)


def test_foreign_arguments_and_weights_are_refused() -> None:
    with pytest.raises(official.OfficialWeightsError, match="nope"):
        official.load("smt_sam", {"dim": 16, "nope": 1}, {})
    tensors = load_file(GOLDEN / "smt_sam/c32_h2_er2_5x3.safetensors")
    authors = {k[6:]: v for k, v in tensors.items() if k.startswith("state.")}
    odd = {**authors, "extra": torch.zeros(3)}
    odd["proj.bias"] = torch.zeros(5)
    del odd["local_conv_2.bias"]
    with pytest.raises(official.OfficialWeightsError) as error:
        official.load("smt_sam", {"dim": 32, "qkv_bias": True}, odd)
    for word in ("unknown extra", "missing local_conv_2.bias", "shape of proj.bias"):
        assert word in str(error.value)
