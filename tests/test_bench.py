"""The benches: their opponents compute what the authors' code computes, and what they count is counted right."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_official import CASES, like_reference, to_bchw
from torch import nn

import yolo_attn
from yolo_attn.commands import cli
from yolo_attn.measure import arithmetic as work
from yolo_attn.measure import cases, conditions, peak, reference, timing
from yolo_attn.measure import operators as blocks
from yolo_attn.measure import whole_models as models
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
    """Parameters and statistics that hide nothing: no zeros, no ones, no equal channels."""
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
    theirs = reference_of(ours)
    assert theirs is not None
    assert theirs.training is train
    x = torch.randn(2, next(m for m in ours.modules() if isinstance(m, nn.Conv2d)).in_channels, 12, 8)
    results = []
    for module in (ours, theirs):
        z = x.clone().requires_grad_()
        y = module(z)
        y.square().mean().backward()
        results.append((y.detach(), z.grad))
    scale = max(1.0, float(results[1][0].abs().max()))
    for got, want, atol in zip(*results, (1e-5 * scale, 1e-6 * scale**2), strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=0)


def test_modules_without_an_opponent_have_none() -> None:
    assert reference_of(nn.Conv2d(8, 8, 1)) is None
    assert reference_of(yolo_attn.ACmix(16, dilation=2)) is None


class Twice(nn.Module):
    """Saves a view of its input, the input itself, and one result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(torch.sin(x[:, :1]) + torch.cos(x))  # sin and cos save x; exp saves its result


@pytest.mark.parametrize(
    ("module", "multiple"),
    [
        (nn.Conv2d(8, 8, 1), 1),  # its input; the weight is a parameter
        (nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1)), 1 + 2),  # input; result of ReLU, shared
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU()), 2),  # input; what SiLU was given
        (nn.Upsample(scale_factor=2), 0),
        (Twice(), 2),  # a view keeps the whole of its memory, once
    ],
    ids=("conv", "conv-relu-conv", "conv-silu", "upsample", "views"),
)
def test_what_is_saved_for_backward_is_counted_once_and_in_full(module: nn.Module, multiple: int) -> None:
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    assert work.saved_for_backward(module, x) == multiple * x.numel() * 4
    on_meta = work.saved_for_backward(module.to("meta"), torch.empty(2, 8, 6, 5, device="meta", requires_grad=True))
    assert on_meta == multiple * x.numel() * 4


def test_references_save_what_the_authors_algorithms_save() -> None:
    """At P3 of yolov8n: K^2-fold copies for ACmix, the matrix of N x M weights for HiLo and CloFormer."""
    x = torch.empty(2, 64, 80, 80, device="meta", requires_grad=True)
    found = {}
    for name in cases.FIVE:
        ours = cases.build(yolo_attn.registry.require(name), 64).train()
        theirs = reference_of(ours)
        found[name] = work.saved_for_backward(theirs.to("meta"), x) / x.untyped_storage().nbytes()
    wanted = {"ScaleAwareModulation": 13, "HiLo": 107, "SKAttention": 7, "AttnConv": 108, "ACmix": 112}
    assert found == pytest.approx(wanted, abs=0.5)


class Product(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = x.flatten(2).transpose(1, 2) @ x.flatten(2)  # 30 x 8 times 8 x 30
        return scores * scores.mean(0) * 0.5  # one product of two tensors, one by a number


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q[:, :7], q[:, :7])


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (nn.Conv2d(8, 4, 1), 30 * 8 * 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 30 * 8 * 9),
        (nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.GELU()), 30 * 8 * 4),
        (Product(), 30 * 30 * 8 + 30 * 30),
        (Attention(), 2 * 30 * 7 * 8),
    ],
    ids=("dense", "depthwise", "norm", "products", "attention"),
)
def test_macs(module: nn.Module, macs: int) -> None:
    assert work.count_macs(module, torch.randn(1, 8, 6, 5)) == macs


def test_functions_are_timed_in_turn_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = timing.interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, before=lambda: order.append("-")
    )
    assert "".join(order) == "-a-b" * 4
    assert {name: spread.n for name, spread in times.items()} == {"a": 3, "b": 3}


def test_rounds_fill_the_time() -> None:
    assert timing.interleave({"a": lambda: None}, seconds=60)["a"].n == timing.MOST
    assert timing.interleave({"a": lambda: None}, seconds=0)["a"].n == timing.LEAST


def test_spreads() -> None:
    a, b = timing.Spread(tuple(range(1, 12))), timing.Spread(tuple(range(10, 21)))
    assert (a.median, a.p10, a.p90, a.n) == (6, 2, 10, 11)
    assert not a.overlaps(b)
    assert a.overlaps(timing.Spread((9.0, 9.0, 30.0)))
    assert b.ratio_to(a).values[0] == 10
    assert timing.geometric_mean([2, 8]) == pytest.approx(4)
    row = blocks.ratio_fields(a, timing.Spread(tuple(float(v) for v in range(3, 14))))
    assert row["intervals"] == "overlap"


def take_memory(job: dict, small: bool) -> Callable[[], object]:
    """For the process of the peak meter: a step that needs so many MiB, and half as many on top of them."""
    rows = job["megabytes"] if not small else 2

    def step() -> None:
        a = torch.ones(rows, 2**18)
        b = a[: rows // 2] + 1
        del a, b

    return step


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="high-water marks are read from /proc")
def test_peak_memory_is_what_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])))
    here = conditions.read_conditions({})
    with peak.PeakMeter(here, "test_bench:take_memory") as meter:
        rises = [meter.measure({"megabytes": n}) for n in (40, 80, 40)]
        assert meter.measure({"no": "such word"}) is None  # the step failed; the next one works
        rises.append(meter.measure({"megabytes": 40}))
    wanted = [1.5 * n * 2**20 for n in (40, 80, 40, 40)]
    assert rises == pytest.approx(wanted, abs=4 * 2**20)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bench")
    assert cli.main(["bench", "blocks", "shape=16x4x4", "repeats=2", f"out={folder / 'new'}"]) == 0
    return folder / "new", f"cpu-{conditions.device_name(torch.device('cpu'))[4:]}"


def test_blocks_smoke(smoke: tuple[Path, str]) -> None:
    (path,) = smoke[0].glob("*.csv")
    assert path.name.startswith("blocks-cpu-")
    assert path.name.endswith(f"-float32-threads1-torch{torch.__version__}.csv")
    assert path.with_suffix(".png").read_bytes()[1:4] == b"PNG"
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == blocks.FIELDS
    found = {(r["operator"], r["phase"], r["implementation"]) for r in rows}
    for operator in cases.FIVE:
        for phase in cases.PHASES:
            assert {(operator, phase, "ours"), (operator, phase, "reference")} <= found
    assert ("SKAttention", "forward", "fused") in found
    for r in rows:
        assert float(r["p10_ms"]) <= float(r["median_ms"]) <= float(r["p90_ms"])
        assert (r["n"], r["batch"]) == ("2", str(cases.PHASES[r["phase"]]))
        assert bool(r["ratio"]) == (r["implementation"] != "reference")
        assert bool(r["saved_bytes"]) == (r["phase"] == cases.TRAIN)
        assert int(r["macs"]) > 0
        assert float(r["limit_ms"]) > 0
        if r["implementation"] != "reference":
            assert float(r["difference"]) < 1e-5
            assert r["intervals"] in ("apart", "overlap")


def test_blocks_unlike_the_reference_or_without_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """HiLo leaves padding out where the authors let it take part; MLCA has no opponent here."""
    assert cli.main(["bench", "blocks", "block=HiLo,mlca", "shape=16x3x3", "repeats=2", f"out={tmp_path}"]) == 0
    assert "do not compute the same here, see docs/bench.md: HiLo at 3x3\n" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.csv")
    with open(path, newline="") as f:
        alone = [r for r in csv.DictReader(f) if r["operator"] == "MixedLocalChannelAttention"]
    assert {(r["implementation"], r["ratio"]) for r in alone} == {("ours", "")}


def test_maps_of_models() -> None:
    maps = cases.read_maps("n,s,32x7x9")
    assert [str(m) for m in maps[:3]] == ["64x80x80", "128x40x40", "256x20x20"]
    assert [m.channels for m in maps[3:6]] == [128, 256, 512]
    assert {m.model for m in maps} == {"yolov8n", "yolov8s", ""}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "no bench 'nothing'"),
        (["block"], "Did you mean blocks?"),
        (["blocks", "block=hilu"], "Did you mean HiLo"),
        (["blocks", "blocks=hilo"], "Did you mean block?"),
        (["blocks", "shape=64x80"], "shape=64x80: no such map"),
        (["blocks", "shape=0x4x4"], "shape=0x4x4: no such map"),
        (["blocks", "shape=30x4x4"], "with 30 channels: c1=30 must be a multiple of heads=4"),
        (["blocks", "shape=64x80000x80000"], "does not fit into memory"),
        (["blocks", "block=hilo", "shape=64x90000x90000000000000"], "does not fit into memory"),
        (["blocks", "block=smtstem", "shape=64x8x8"], "cannot take such a map"),
        (["blocks", "dtype=float8"], "one of float32, float16, bfloat16"),
        (["blocks", "device=tpu"], "it is cpu, cuda or cuda:1"),
        (["blocks", "threads=0"], "threads=0 must be a whole number of at least 1"),
        (["blocks", "batch=two"], "batch=two must be"),
        (["blocks", "repeats=1"], "at least 2"),
        (["blocks", "out=/dev/null/x"], "out=/dev/null/x:"),
        (["models", "models=yolov8n,yolov9q-none"], "models=yolov9q-none: there is no such model YAML"),
        (["models", "models=yolov8n-seg"], "only Detect is measured"),
        (["models", "models=yolov8n,yolov8n"], "given twice"),
        (["models", "imgsz=100"], "multiple of 32"),
        (["models", "onnx=2"], "neither 0 nor 1"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_arguments_give_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *words]) == 2
    message = capsys.readouterr().err.strip()
    assert told in message
    assert words[0] not in ("blocks", "models") or "\n" not in message


@pytest.mark.parametrize("device", ("cuda", "0", "cuda:1"))
@pytest.mark.parametrize("bench", ("blocks", "models"))
def test_cuda_is_refused_where_there_is_none(
    bench: str, device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", bench, f"device={device}"]) == 2
    message = capsys.readouterr().err.strip()
    assert f"device={device}" in message
    assert "no CUDA" in message
    assert "\n" not in message


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["blocks", "help"], ["models", "--help"]):
        assert cli.main(["bench", *words]) == 0
        assert capsys.readouterr().out.startswith("usage: yolo-attn bench")


def test_default_models_are_stock_and_each_shipped_block() -> None:
    names = models.read_models({})
    assert names[0] == "yolov8n.yaml"
    assert {"yolov8n-sam.yaml", "yolov8n-hilo.yaml", "yolov8n-sk.yaml", "yolov8n-attnconv.yaml"} <= set(names)
    assert "yolov8n-acmix.yaml" in names


def test_a_models_training_step_and_prediction() -> None:
    here = conditions.read_conditions({})
    made = models.Trainee.build("yolov8n-sk.yaml", 64, 2, here)
    before = [p.detach().clone() for p in made.model.parameters()]
    made.train_step()
    moved = [not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True)]
    assert any(moved)
    assert all(p.grad is None for p in made.model.parameters())
    boxes = made.batch["bboxes"]
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    assert corners.min() >= 0
    assert corners.max() <= 1
    y = made.predict()
    assert (y[0] if isinstance(y, (list, tuple)) else y).shape[:2] == (1, 84)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.fused.model[:5].modules())


@pytest.mark.slow
def test_models_smoke(tmp_path: Path) -> None:
    words = ["models=yolov8n,yolov8n-sam", "imgsz=64", "batch=1", "repeats=2", f"out={tmp_path}"]
    assert cli.main(["bench", "models", *words]) == 0
    (path,) = tmp_path.glob("models-cpu-*.csv")
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == models.FIELDS
    measures = {"training step", "inference", "ONNX inference", "training peak", "inference peak"}
    for model in ("yolov8n", "yolov8n-sam"):
        mine = {r["measure"]: r for r in rows if r["model"] == model}
        assert set(mine) == measures
        assert all(bool(r["ratio"]) == (model != "yolov8n") for r in mine.values())
        assert all(float(r["median"]) > 0 for r in mine.values())
