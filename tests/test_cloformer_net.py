"""Clo blocks, stages and networks: sizes of the paper, maps for detection, folding, weights of the authors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from modules import random_norms
from safetensors.torch import load_file

from yolo_attn.blocks.cloformer.blocks import CloBlock, CloDownBlock, CloLayer
from yolo_attn.blocks.cloformer.network import CloFormer, CloFormerBackbone
from yolo_attn.weights import official

MINI = {
    "channels": (16, 24, 32, 40),
    "depths": (2, 1, 2, 1),
    "heads": (4, 4, 4, 4),
    "group_splits": ((3, 1), (2, 2), (2, 2), (1, 3)),
    "mlp_ratios": (2, 2, 2, 2),
}


@pytest.mark.parametrize(("size", "millions"), [("xxs", 4.17), ("xs", 7.17), ("s", 12.35)])
def test_sizes_have_the_papers_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = CloFormer(size)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("size", ["xxs", "xs", "s", "global", "no_global"])
def test_backbone_gives_four_maps(size: str) -> None:
    with torch.device("meta"):
        model = CloFormerBackbone(size)
        maps = model(torch.empty(2, 3, 230, 322))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, -(-230 // 2**i), -(-322 // 2**i)) for c, i in zip(model.channels, (2, 3, 4, 5), strict=True)
    ]


def test_classifier_is_the_mean_of_the_last_map() -> None:
    classifier = random_norms(CloFormer(num_classes=5, **MINI))
    backbone = CloFormerBackbone(**MINI).eval()
    backbone.load_state_dict({k: v for k, v in classifier.state_dict().items() if not k.startswith("head.")})
    x = torch.randn(2, 3, 41, 70)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), classifier.head(backbone(x)[-1].mean((2, 3))), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (75, 33)], ids=str)
def test_one_image_of_any_size_trains(size: tuple[int, int]) -> None:
    model = CloFormerBackbone(drop_path=0.0, **MINI).train()
    sum(m.square().mean() for m in model(torch.randn(1, 3, *size))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_trace_of_the_backbone_serves_other_sizes() -> None:
    model = random_norms(CloFormerBackbone(**MINI))
    traced = torch.jit.trace(model, torch.randn(1, 3, 64, 64), check_trace=False)
    for size in ((96, 64), (61, 35)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(traced(x), model(x), atol=2e-5, rtol=1e-4)


def test_last_stage_keeps_size_and_channels_others_stride() -> None:
    x = torch.randn(1, 16, 9, 6)
    assert CloLayer(16, None, [0.0, 0.0])(x).shape == (1, 16, 9, 6)
    assert CloLayer(16, 24, [0.0])(x).shape == (1, 24, 5, 3)
    assert [type(b) for b in CloLayer(16, 24, [0.0, 0.0]).blocks] == [CloBlock, CloDownBlock]


def test_drop_path_rises_to_its_rate() -> None:
    rates = [b.drop_path.rate for layer in CloFormer(drop_path=0.5, **MINI).layers for b in layer.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_unknown_sizes_and_options_are_named() -> None:
    with pytest.raises(ValueError, match="Sizes: xxs, xs, s"):
        CloFormer("xss")
    with pytest.raises(ValueError, match="no option 'depth'. Did you mean depths"):
        CloFormerBackbone(depth=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="must be odd"):
        CloBlock(16, mlp_kernel_size=4)


def case(name: str) -> tuple[dict, dict]:
    (path,) = (Path(__file__).parent / "golden" / name).glob("*.json")
    tensors = load_file(path.with_suffix(".safetensors"))
    return json.loads(path.read_text())["constructor_kwargs"], {
        k[6:]: v for k, v in tensors.items() if k.startswith("state.")
    }


def test_authors_states_that_do_not_fit_are_told_by_the_authors_names() -> None:
    kwargs, state = case("clo_block")
    cut = {k: v for k, v in state.items() if k not in ("attn.qkvs.0.bias", "attn.global_q.weight")}
    cut["attn.qkvs.0.weight"] = state["attn.qkvs.0.weight"][:-1]
    with pytest.raises(official.OfficialWeightsError) as e:
        official.load("clo_block", kwargs, cut)
    for key in ("attn.qkvs.0.bias", "attn.global_q.weight", "attn.qkvs.0.weight"):
        assert key in str(e.value)
    with pytest.raises(official.OfficialWeightsError, match=r"unknown norm3\.weight"):
        official.load("clo_block", kwargs, {**state, "norm3.weight": state["norm1.weight"]})
    with pytest.raises(official.OfficialWeightsError, match=r"missing norm1\.weight"):
        official.load("clo_block", kwargs, {k: v for k, v in state.items() if k != "norm1.weight"})
    with pytest.raises(official.OfficialWeightsError, match="do not fit"):
        official.load("clo_block", {**kwargs, "heads": 4}, state)
