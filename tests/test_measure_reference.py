"""The reference implementations of `bench blocks` compute what the authors' code computes, with our weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_official import CASES, like_reference, to_bchw
from torch import nn

import yolo_attn
from yolo_attn.measure import cases, reference
from yolo_attn.measure.activation_memory import saved_for_backward
from yolo_attn.measure.reference_weights import reference_of

AUTHORS = {
    "smt_sam": lambda k: reference.SAM(
        k["dim"], k.get("ca_num_heads", 4), k.get("expand_ratio", 2), k.get("qkv_bias", False)
    ),
    "hilo": lambda k: reference.HiLo(**{key: v for key, v in k.items() if "drop" not in key}),
    "sk_attention": lambda k: reference.SK(**k),
    "clo_attention": lambda k: reference.AttnConv(**{key: v for key, v in k.items() if "drop" not in key}),
    "clo_attention_midzero": lambda k: reference.AttnConv(**{key: v for key, v in k.items() if "drop" not in key}),
    "acmix": lambda k: reference.ACmix(**{key: v for key, v in k.items() if key != "dilation"}),
}
GOLDEN = [path for path in CASES if path.parent.name in AUTHORS]
OURS = {
    "sam": lambda: yolo_attn.ScaleAwareModulation(32),
    "sam-2heads": lambda: yolo_attn.ScaleAwareModulation(32, heads=2, expand_ratio=1, qkv_bias=False),
    "hilo": lambda: yolo_attn.HiLo(32),
    "hilo-9to1": lambda: yolo_attn.HiLo(40, heads=10, alpha=0.9, window_size=4, qkv_bias=False),
    "hilo-full": lambda: yolo_attn.HiLo(32, window_size=1, qk_scale=0.3),
    "hilo-high": lambda: yolo_attn.HiLo(32, alpha=0.0),
    "sk": lambda: yolo_attn.SKAttention(32, groups=4),
    "sk-bias": lambda: yolo_attn.SKAttention(32, (1, 3, 7), groups=32, L=8, bias=True),
    "attnconv": lambda: yolo_attn.AttnConv(32),
    "attnconv-3": lambda: yolo_attn.AttnConv(32, 4, (1, 0, 1, 2), (3, 5, 7), window_size=4, qkv_bias=False),
    "attnconv-local": lambda: yolo_attn.AttnConv(32, 4, (4, 0), (3,)),
    "acmix": lambda: yolo_attn.ACmix(32),
    "acmix-strided": lambda: yolo_attn.ACmix(24, 32, heads=2, kernel_att=3, kernel_conv=5, stride=2),
}


def unlike_new(module: nn.Module) -> nn.Module:
    """Random parameters and statistics: no zeros, no ones, no equal channels."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.5)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return module


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_references_compute_what_the_authors_compute(path: Path) -> None:
    meta, tensors = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    if meta["constructor_kwargs"].get("dilation", 1) != 1:
        pytest.skip("the authors' dilation does not dilate")
    module = AUTHORS[meta["block"]](meta["constructor_kwargs"]).eval()
    module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("state.")})
    x = to_bchw(tensors["input"], meta).clone().requires_grad_()
    y = module(x)
    torch.testing.assert_close(like_reference(y, tensors["output"], meta), tensors["output"], atol=1e-5, rtol=0)
    if not meta.get("plain_torch_cpu_autograd_is_wrong"):
        y.square().mean().backward()
        torch.testing.assert_close(x.grad, to_bchw(tensors["grad_input"], meta), atol=1e-6, rtol=0)


def test_every_measured_operator_has_golden_cases_for_its_reference() -> None:
    assert {path.parent.name for path in GOLDEN} == set(AUTHORS)


@pytest.mark.parametrize("train", (False, True), ids=("eval", "train"))
@pytest.mark.parametrize("name", OURS)
def test_ours_and_the_reference_are_equal(name: str, train: bool) -> None:
    ours = unlike_new(OURS[name]()).train(train)
    expected = reference_of(ours)
    assert expected is not None
    assert expected.training is train
    x = torch.randn(2, next(m for m in ours.modules() if isinstance(m, nn.Conv2d)).in_channels, 12, 8)
    results = []
    for module in (ours, expected):
        z = x.clone().requires_grad_()
        y = module(z)
        y.square().mean().backward()
        results.append((y.detach(), z.grad))
    scale = max(1.0, float(results[1][0].abs().max()))
    for got, want, atol in zip(*results, (1e-5 * scale, 1e-6 * scale**2), strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=0)


def test_other_modules_have_no_reference() -> None:
    assert reference_of(nn.Conv2d(8, 8, 1)) is None
    assert reference_of(yolo_attn.ACmix(16, dilation=2)) is None


def test_references_have_the_activation_memory_of_the_authors_algorithms() -> None:
    """At P3 of yolov8n: K^2-fold copies for ACmix, the matrix of N x M weights for HiLo and CloFormer."""
    x = torch.empty(2, 64, 80, 80, device="meta", requires_grad=True)
    found = {}
    for name in cases.OPTIONS:
        ours = cases.build(yolo_attn.registry.require(name), 64).train()
        module = reference_of(ours)
        found[name] = saved_for_backward(module.to("meta"), x) / x.untyped_storage().nbytes()
    expected = {"ScaleAwareModulation": 13, "HiLo": 107, "SKAttention": 7, "AttnConv": 108, "ACmix": 112}
    assert found == pytest.approx(expected, abs=0.5)
