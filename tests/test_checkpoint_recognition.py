"""The papers' authors' checkpoints are recognised, and their numbers arrive in a YOLO to the last digit."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import (
    CLASSIFIERS,
    WHOLE,
    State,
    complaint,
    golden,
    mini_model,
    official,
    random_state,
    refusal,
    swin_style,
    write,
)
from official_shapes import acmix_resnet, cloformer, litv2, smt
from torch import nn
from torch.nn import functional as F
from ultralytics import YOLO
from ultralytics.nn import tasks

from yolo_attn.loading import TransferError, transfer
from yolo_attn.weights import checkpoints
from yolo_attn.weights import official as authors
from yolo_attn.weights.checkpoints import CheckpointError
from yolo_attn.weights.checkpoints.recognise import recognise
from yolo_attn.weights.checkpoints.refusals import MisfitError
from yolo_attn.weights.official import Problem


def maps_inside(model: YOLO, x: torch.Tensor) -> list[torch.Tensor]:
    """What the backbone row puts out while the whole detector runs."""
    seen: list[Any] = []
    hook = model.model.model[0].register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        model.model.eval()(x)
    hook.remove()
    return seen[-1]


LAYOUTS = {
    "swin": swin_style,
    "ddp": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 1},
    "bare": lambda state: state,
    "parameters": lambda state: {"model": {k: nn.Parameter(v, requires_grad=False) for k, v in state.items()}},
    "encoder": lambda state: {"model": {f"encoder.{k}": v for k, v in state.items()} | {"decoder.w": torch.ones(2)}},
    "ema": lambda state: {"state_dict_ema": state, "arch": "x"},
}


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_row(layout: str, older: bool, tmp_path: Path) -> None:
    state, _ = golden("smt_model")
    path = write(tmp_path / "w.pth", LAYOUTS[layout](state), _use_new_zipfile_serialization=not older)
    conversion = checkpoints.read(path)
    want = recognise(dict(state)).row.state_dict()
    got = conversion.found.row.state_dict()
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)
    assert sorted(conversion.found.dropped) == ["head.bias", "head.weight"]
    assert conversion.others == (["decoder.w"] if layout == "encoder" else [])
    if layout == "swin":
        assert "config (yacs.config.CfgNode)" in conversion.beside
        assert "lr_scheduler (schedulers.cosine.Schedule)" in conversion.beside
    assert not {"yacs", "schedulers"} & sys.modules.keys()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_gives_the_same_row(protocol: int, tmp_path: Path) -> None:
    state, _ = golden("clo_model")
    path = write(tmp_path / "w.pth", swin_style(state) | {"kinds": {1, 2}}, pickle_protocol=protocol)
    want, got = recognise(dict(state)).row.state_dict(), checkpoints.read(path).found.row.state_dict()
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)


# --- outputs ---


@pytest.mark.parametrize("block", CLASSIFIERS)
def test_features_inside_a_detector_equal_the_golden_ones(block: str, tmp_path: Path) -> None:
    state, tensors = golden(block)
    path = write(tmp_path / "official.pth", swin_style(state))
    model = mini_model(tmp_path, block)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    model.load(path)
    pooled = maps_inside(model, tensors["input"])[-1].mean((2, 3))
    logits = F.linear(pooled, state["head.weight"], state["head.bias"])
    torch.testing.assert_close(logits, tensors["output"], atol=1e-5, rtol=0)
    # The backbone row has the weights, and no other row got any.
    after = model.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if not k.startswith("model.0."))
    norms = [m for m in model.model.model[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.eps == 1e-5 for m in norms)


@pytest.mark.parametrize("block", ["smt_backbone_det", "litv2_backbone_det"])
@pytest.mark.skipif(not (WHOLE / "smt_backbone_det").is_dir(), reason="YOLO_ATTN_GOLDEN names no whole collection")
def test_maps_of_detectors_backbones_equal_the_golden_ones(block: str, tmp_path: Path) -> None:
    state, tensors = golden(block)
    detector = {f"backbone.{k}": v for k, v in state.items()} | {"neck.0.weight": torch.ones(3)}
    path = write(tmp_path / "retinanet.pth", {"meta": {"epoch": 12}, "state_dict": detector})
    model = mini_model(tmp_path, block).load(path)
    for i, got in enumerate(maps_inside(model, tensors["input"])):
        torch.testing.assert_close(got, tensors[f"output.{i}"], atol=1e-5, rtol=0)


def detection_names(state: State) -> State:
    """An SMT classifier's state under the names of the authors' detection code, without the classifier."""
    return {k.replace("attn.local_conv.", "attn.dw_conv."): v for k, v in state.items() if not k.startswith("head")}


def test_the_detection_codes_names_are_known(tmp_path: Path) -> None:
    state, tensors = golden("smt_model")
    renamed = detection_names(state)
    assert any("dw_conv" in k for k in renamed)
    path = write(tmp_path / "mask_rcnn.pth", {"state_dict": {f"backbone.{k}": v for k, v in renamed.items()}})
    model = mini_model(tmp_path, "smt_model").load(path)
    pooled = maps_inside(model, tensors["input"])[-1].mean((2, 3))
    logits = F.linear(pooled, state["head.weight"], state["head.bias"])
    torch.testing.assert_close(logits, tensors["output"], atol=1e-5, rtol=0)


def test_of_a_tensor_under_two_names_one_is_unknown() -> None:
    state = dict(golden("smt_model")[0])
    key = next(k for k in state if "attn.local_conv.weight" in k)
    other = key.replace("local_conv", "dw_conv")
    with pytest.raises(MisfitError) as refused:
        recognise(state | {other: torch.zeros_like(state[key])})
    assert [(p.kind, p.key) for p in refused.value.problems] == [("unknown", other)]


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    state, _ = golden("clo_model")
    path = write(tmp_path / "w.pth", {"model": {k: v.half() if v.is_floating_point() else v for k, v in state.items()}})
    floats = [v for v in checkpoints.read(path).found.row.state_dict().values() if v.is_floating_point()]
    assert floats and all(v.dtype == torch.float32 for v in floats)


def test_acmix_resnet_of_the_authors_training_code(tmp_path: Path) -> None:
    """No checkpoint of it was released; its bottlenecks are compared with those that equal the authors' code."""
    state = random_state(acmix_resnet((1, 2, 4, 1)))
    content = {"arch": "resnet26", "state_dict": {f"module.{k}": v for k, v in state.items()}, "best_acc1": 0.7}
    conversion = checkpoints.read(write(tmp_path / "model_best.pth.tar", content))
    assert conversion.found.title == "ACmix-ResNet-26" and conversion.models == ["yolov8n-acmix-resnet.yaml"]
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = conversion.found.row.eval()(x)
        norm = [state[f"bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        y = F.relu(F.batch_norm(F.conv2d(x, state["conv1.weight"], None, 2, 3), *norm, eps=1e-5))
        y = F.max_pool2d(y, 3, 2, 1)
        for i, n in enumerate((1, 2, 4, 1), 1):
            for j in range(n):
                part = {k.removeprefix(f"layer{i}.{j}."): v for k, v in state.items() if k.startswith(f"layer{i}.{j}.")}
                kwargs = {"inplanes": y.shape[1], "planes": 64 * 2 ** (i - 1), "k_att": 7, "head": 4, "k_conv": 3}
                kwargs["stride"] = 2 if i > 1 and j == 0 else 1
                y = authors.load("acmix_bottleneck", kwargs, part)(y)
            assert (maps[i - 1] - y).abs().max() <= 1e-5 * y.abs().max()


# --- sizes ---


@pytest.mark.parametrize(
    ("block", "shapes"),
    [
        ("smt_model", smt((16, 24, 32, 48), (1, 1, 2, 1), (2, 2, 2, 2), 3, False, 10)),
        ("litv2_model_cls", litv2(8, (1, 1, 2, 1), (1, 2, 4, 8), 2, 0.5, 10)),
        (
            "clo_model",
            cloformer(
                (16, 24, 32, 32),
                (1, 1, 2, 1),
                (4, 4, 4, 8),
                ((3, 1), (2, 2), (2, 2), (2, 6)),
                ((3,), (5,), (7,), (9,)),
                2,
                10,
            ),
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_layouts_written_down_are_the_authors(block: str, shapes: dict) -> None:
    assert shapes == {k: tuple(v.shape) for k, v in golden(block)[0].items()}


SIZES = [
    *(("smt", s, {}) for s in ("t", "l")),
    *(("cloformer", s, {}) for s in ("xxs", "xs", "s", "no_global")),
    *(("litv2", "s", {"alpha": a}) for a in (0.9, 0.5, 0.0, 1.0)),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (("smt", "s", {}), ("smt", "b", {}))),
    *(pytest.param("litv2", s, {}, marks=pytest.mark.slow) for s in ("m", "b")),
]


@pytest.mark.parametrize(("network", "size", "options"), SIZES, ids=str)
def test_the_papers_sizes_are_recognised(network: str, size: str, options: dict) -> None:
    # One number stands for all of a tensor's: no gigabytes are needed to recognise sizes.
    state = {k: torch.zeros(()).expand(shape) for k, shape in official(network, size, **options).items()}
    found = recognise(state)
    assert (found.family.model, found.size) == (f"yolov8-{network}.yaml", size)
    assert found.options == ({} if options.get("alpha", 0.9) == 0.9 else options)
    if size in type(found.row).sizes.values() and not found.options:
        letter = next(k for k, v in type(found.row).sizes.items() if v == size)
        with torch.device("meta"):
            model = tasks.parse_model(tasks.yaml_model_load(f"yolov8{letter}-{network}.yaml"), 3, verbose=False)[0]
        want = {k: v.shape for k, v in model[0].state_dict().items()}
        assert {k: v.shape for k, v in found.row.state_dict().items()} == want


def test_a_file_of_a_papers_size_fills_the_shipped_model(tmp_path: Path) -> None:
    state = random_state(official("cloformer", "xxs"))
    path = write(tmp_path / "cloformer_xxs.pth", swin_style(state))
    conversion = checkpoints.read(path)
    assert conversion.models == ["yolov8n-cloformer.yaml"] and conversion.found.title == "CloFormer-XXS"
    model = YOLO("yolov8n-cloformer.yaml").load(path)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = conversion.found.row.eval()(x)
    assert all(torch.equal(a, b) for a, b in zip(maps_inside(model, x), want, strict=True))
    with pytest.raises(TransferError, match=r"CloFormer-XXS, and the model's row .* 16x3x3x3 there, 24x3x3x3 here"):
        YOLO("yolov8s-cloformer.yaml").load(path)


# --- what does not fit ---


def test_missing_unknown_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    state = dict(golden("litv2_model_cls")[0])
    del state["layers.2.blocks.1.attn.l_q.weight"]
    state["layers.2.blocks.1.extra.weight"] = torch.ones(2)
    state["layers.0.downsample.dconv.bias"] = torch.ones(5)
    error = refusal(write(tmp_path / "w.pth", {"model": state}))
    assert isinstance(error, MisfitError) and error.network.startswith("LITv2")
    assert set(error.problems) == {
        Problem("missing", "layers.2.blocks.1.attn.l_q.weight", None, (16, 32)),
        Problem("unknown", "layers.2.blocks.1.extra.weight", (2,)),
        Problem("shape", "layers.0.downsample.dconv.bias", (5,), (16,)),
    }
    for text in ("missing layers.2.blocks.1.attn.l_q.weight (16, 32)", "(5,) given, (16,) needed", "looks like LITv2"):
        assert text in str(error)


@pytest.mark.parametrize("block", CLASSIFIERS)
def test_every_single_tensor_is_needed(block: str) -> None:
    state = golden(block)[0]
    for key in random.Random(0).sample(sorted(k for k in state if not k.startswith(("head", "norm."))), 12):
        with pytest.raises(CheckpointError):
            recognise({k: v for k, v in state.items() if k != key})


def test_one_missing_tensor_of_a_papers_size_is_named() -> None:
    key = "block3.5.attn.q.weight"
    state = {k: torch.zeros(()).expand(s) for k, s in official("smt", "t").items() if k != key}
    with pytest.raises(MisfitError, match=r"like SMT-T, .* missing block3\.5\.attn\.q\.weight \(256") as refused:
        recognise(state)
    assert refused.value.problems == (Problem("missing", key, None, (256, 256)),)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_weights_that_are_no_floating_point_numbers_are_named(dtype: torch.dtype, tmp_path: Path) -> None:
    state = dict(golden("clo_model")[0])
    key = "layers.0.blocks.0.attn.proj.weight"
    state[key] = state[key].to(dtype)
    message = complaint(write(tmp_path / "w.pth", {"model": state}))
    assert key in message and ("no tensors that can be read" if dtype.is_complex else "floating-point") in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(169, 3)}, "a Swin Transformer"),
        ({"layers.2.blocks.0.attn.rate1": torch.ones(1)}, "an ACmix-Swin"),
        ({"layers.0.downsample.dconv.weight": torch.ones(1)}, "a LIT, the first version"),
        ({"layer1.0.conv1.weight": torch.ones(1)}, "a ResNet"),
        ({"model.0.conv.weight": torch.ones(1), "model.0.bn.weight": torch.ones(1)}, "a YOLO without its rows"),
        ({"encoder.w": torch.ones(1)}, "none of the networks known here .* named w"),
        ({"model": {"patch_embed1.conv.0.weight": torch.ones(1)}}, "looks like SMT.* too few tensors"),
        ({"model": {"patch_embed1.conv.0.weight": "text", "x": torch.ones(1)}}, "conv.0.weight in its state dict"),
        ({"epoch": 3, "notes": "none"}, "no state dict, but a dict of epoch, notes"),
        ([1, 2], "no state dict, but a list"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), r"object of the class torch\.nn\.modules\.container\.Sequential"),
    ],
)
def test_other_content_is_named(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read(path)


def test_checkpoints_of_ultralytics_and_converted_ones_are_sent_where_they_belong(tmp_path: Path) -> None:
    torch.save({"model": tasks.DetectionModel("yolov8n.yaml", verbose=False)}, tmp_path / "best.pth")
    assert "a checkpoint of Ultralytics; use it as it is" in complaint(tmp_path / "best.pth")
    write(tmp_path / "w.pth", {"model": golden("clo_model")[0]})
    checkpoints.read(tmp_path / "w.pth").save(tmp_path / "w-yolo.pt")
    (tmp_path / "w-yolo.pt").rename(tmp_path / "w-yolo.pth")
    assert "converted already" in complaint(tmp_path / "w-yolo.pth")


def test_weights_of_another_network_are_refused_by_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"model": golden("smt_model")[0]})
    for model in (mini_model(tmp_path, "clo_model"), YOLO("yolov8n.yaml")):
        before = {k: v.clone() for k, v in model.model.state_dict().items()}
        for call in (model.load, lambda p, m=model: transfer(m, p)):
            with pytest.raises(TransferError, match=r"no row SMTMaps. Use yolov8n-smt\.yaml"):
                call(path)
        assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())


@pytest.mark.parametrize(
    "names",
    [
        lambda i: f"block1.{i}.attn.proj0.weight",
        lambda i: f"layers.{i}.blocks.0.attn.qkvs.0.weight",
        lambda i: f"layers.0.blocks.{i}.attn.l_kv.weight",
        lambda i: f"layer1.{i}.conv2.rate1",
    ],
    ids=["smt", "cloformer", "litv2", "acmix"],
)
def test_names_of_more_blocks_than_any_network_has_are_refused(names: Any) -> None:
    state = {names(i): torch.ones(1, 1) for i in range(5000)} | {"layer1.0.conv2.fc.weight": torch.ones(9, 12)}
    with pytest.raises(CheckpointError, match="more blocks than any network"):
        recognise(state)


def test_a_vast_network_that_only_names_suggest_takes_no_memory() -> None:
    state = dict(golden("clo_model")[0])
    state["layers.3.blocks.0.norm1.weight"] = torch.ones(()).expand(2**40)
    state["layers.2.blocks.99999999999.norm1.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="do not fit"):
        recognise(state)
