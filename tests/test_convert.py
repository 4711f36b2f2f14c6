"""The papers' authors' checkpoints: recognised, carried into a YOLO to the last digit, and never executed.

The released files are not at hand: files of their layouts are written here, from the golden states and, for the papers'
own sizes, from the layout of the authors' code.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import pickle
import random
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jobs import short, tiny_dataset, yolo
from official_shapes import acmix_resnet, cloformer, litv2, smt
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from ultralytics import YOLO
from ultralytics.nn import tasks
from yolo_attn.patches import safe_load

from yolo_attn import commands as cli
from yolo_attn.blocks.cloformer import network as cloformer_net
from yolo_attn.blocks.litv2 import network as litv2_net
from yolo_attn.blocks.smt import network as smt_net
from yolo_attn.weights import checkpoints as convert
from yolo_attn.weights import official as authors
from yolo_attn.weights.checkpoints import CheckpointError
from yolo_attn.weights.checkpoints.files import CheckpointFile
from yolo_attn.weights.checkpoints.recognise import recognise
from yolo_attn.weights.pretrained import TransferError, transfer
from yolo_attn.yamls import shipped as assets

GOLDEN = Path(__file__).parent / "golden"
WHOLE = Path(os.environ.get("YOLO_ATTN_GOLDEN") or GOLDEN)

#: Golden network -> shipped model, and the options of its row that build the golden file's configuration.
MINI: dict[str, tuple[str, dict[str, Any]]] = {
    "smt_model": (
        "smt",
        {"channels": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "msa_heads": [8, 8, 8, 8], "mlp_ratios": [2, 2, 2, 2]},
    ),
    "litv2_model_cls": (
        "litv2",
        {
            "channels": [8, 16, 32, 64],
            "depths": [1, 1, 2, 1],
            "heads": [1, 2, 4, 8],
            "mlp_ratios": [2, 2, 2, 2],
            "alpha": 0.5,
        },
    ),
    "clo_model": (
        "cloformer",
        {
            "channels": [16, 24, 32, 32],
            "depths": [1, 1, 2, 1],
            "heads": [4, 4, 4, 8],
            "group_splits": [[3, 1], [2, 2], [2, 2], [2, 6]],
            "mlp_ratios": [2, 2, 2, 2],
        },
    ),
}
MINI["smt_backbone_det"] = MINI["smt_model"]
MINI["litv2_backbone_det"] = ("litv2", {**MINI["litv2_model_cls"][1], "alpha": 0.9})
CLASSIFIERS = ("smt_model", "litv2_model_cls", "clo_model")
State = dict[str, torch.Tensor]


@functools.cache
def golden(block: str) -> tuple[State, State]:
    """The authors' state, and input and outputs."""
    (path,) = (WHOLE if "det" in block else GOLDEN).glob(f"{block}/mini*.safetensors")
    tensors = load_file(path)
    state = {k[6:]: v for k, v in tensors.items() if k.startswith("state.")}
    return state, {k: v for k, v in tensors.items() if not k.startswith("state.")}


def mini_model(folder: Path, block: str) -> YOLO:
    """YOLOv8n behind a backbone of the golden file's configuration."""
    name, options = MINI[block]
    d = yaml.safe_load((assets.folder() / f"yolov8-{name}.yaml").read_text(encoding="utf-8"))
    d["backbone"][0][3] = [{"options": options}]
    (folder / f"yolov8-mini-{name}.yaml").write_text(yaml.safe_dump(d))
    return YOLO(folder / f"yolov8n-mini-{name}.yaml")


def maps_inside(model: YOLO, x: torch.Tensor) -> list[torch.Tensor]:
    """What the backbone row puts out while the whole detector runs."""
    seen: list[Any] = []
    hook = model.model.model[0].register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        model.model.eval()(x)
    hook.remove()
    return seen[-1]


# --- layouts of released files ---


class CfgNode(dict):
    """What yacs' configuration is: a dict with attributes; pickled under its name there."""


class Schedule:
    """An object of a training code."""

    def __init__(self) -> None:
        self.rates = [0.1, 0.2]


def write(path: Path, content: Any, **kwargs: Any) -> Path:
    """Save as the authors' machine would, with classes that this one does not have."""
    homes = {"yacs.config": CfgNode, "schedulers.cosine": Schedule}
    for home, cls in homes.items():
        cls.__module__ = home
        for name in (home.partition(".")[0], home):
            sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[home], cls.__name__, cls)
    try:
        torch.save(content, path, **kwargs)
    finally:
        for home, cls in homes.items():
            cls.__module__ = __name__
            for name in (home.partition(".")[0], home):
                del sys.modules[name]
    return path


def swin_style(state: State) -> dict[str, Any]:
    """What the authors' `save_checkpoint` writes: weights, optimiser, schedule, configuration."""
    config = CfgNode(MODEL=CfgNode(TYPE="smt", DEPTHS=[2, 2, 8, 1]))
    config.__dict__["__immutable__"] = True
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return {
        "model": collections.OrderedDict(state),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": Schedule(),
        "max_accuracy": np.float64(82.2),
        "scaler": {"scale": 65536.0},
        "epoch": 299,
        "config": config,
        "args": argparse.Namespace(lr=1e-3, out=Path("runs")),
    }


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
    conversion = convert.read(path)
    want = recognise(dict(state)).row.state_dict()
    got = conversion.found.row.state_dict()
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)
    assert sorted(conversion.found.dropped) == ["head.bias", "head.weight"]
    assert conversion.others == (["decoder.w"] if layout == "encoder" else [])
    if layout == "swin":
        assert "config (yacs.config.CfgNode)" in conversion.beside
        assert "lr_scheduler (schedulers.cosine.Schedule)" in conversion.beside
    assert not {"yacs", "schedulers"} & sys.modules.keys()


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


def test_the_detection_codes_names_are_understood(tmp_path: Path) -> None:
    state, tensors = golden("smt_model")
    renamed = {k.replace("attn.local_conv.", "attn.dw_conv."): v for k, v in state.items() if not k.startswith("head")}
    assert any("dw_conv" in k for k in renamed)
    path = write(tmp_path / "mask_rcnn.pth", {"state_dict": {f"backbone.{k}": v for k, v in renamed.items()}})
    model = mini_model(tmp_path, "smt_model").load(path)
    pooled = maps_inside(model, tensors["input"])[-1].mean((2, 3))
    logits = F.linear(pooled, state["head.weight"], state["head.bias"])
    torch.testing.assert_close(logits, tensors["output"], atol=1e-5, rtol=0)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    state, _ = golden("clo_model")
    path = write(tmp_path / "w.pth", {"model": {k: v.half() if v.is_floating_point() else v for k, v in state.items()}})
    floats = [v for v in convert.read(path).found.row.state_dict().values() if v.is_floating_point()]
    assert all(v.dtype == torch.float32 for v in floats)


# --- sizes ---


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    g = torch.Generator().manual_seed(0)
    out: State = {}
    for k, shape in shapes.items():
        if k.endswith("num_batches_tracked"):
            out[k] = torch.tensor(7)
        elif len(shape) == 1:
            out[k] = torch.rand(shape, generator=g) + 0.5
        else:
            out[k] = torch.randn(shape, generator=g) * (2 / max(1, torch.Size(shape[1:]).numel())) ** 0.5
    return out


def official(network: str, size: str, classes: int = 10, **options: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released network."""
    if network == "smt":
        c = smt_net.SIZES[size]
        channels = c.get("channels", (64, 128, 256, 512))
        return smt(channels, c["depths"], c["mlp_ratios"], c["stem_kernel"], "layer_scale" in c, classes)
    if network == "litv2":
        c = litv2_net.SIZES[size]
        return litv2(c["channels"][0], c["depths"], c["heads"], 4, options.get("alpha", 0.9), classes)
    c = {"kernel_sizes": ((3,), (5,), (7,), (9,)), **cloformer_net.SIZES[size]}
    return cloformer(c["channels"], (2, 2, 6, 2), c["heads"], c["group_splits"], c["kernel_sizes"], 4, classes)


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
    # One number stands for all of a tensor's: no gigabytes are needed to tell sizes.
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
    conversion = convert.read(path)
    assert conversion.models == ["yolov8n-cloformer.yaml"] and conversion.found.title == "CloFormer-XXS"
    model = YOLO("yolov8n-cloformer.yaml").load(path)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = conversion.found.row.eval()(x)
    assert all(torch.equal(a, b) for a, b in zip(maps_inside(model, x), want, strict=True))
    with pytest.raises(TransferError, match=r"CloFormer-XXS, and the model's row .* 16x3x3x3 there, 24x3x3x3 here"):
        YOLO("yolov8s-cloformer.yaml").load(path)


def test_acmix_resnet_of_the_authors_training_code(tmp_path: Path) -> None:
    """No checkpoint of it was released; its bottlenecks are compared with those that equal the authors' code."""
    state = random_state(acmix_resnet((1, 2, 4, 1)))
    content = {"arch": "resnet26", "state_dict": {f"module.{k}": v for k, v in state.items()}, "best_acc1": 0.7}
    conversion = convert.read(write(tmp_path / "model_best.pth.tar", content))
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


# --- what is no match ---


def complaint(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        convert.read(path)
    # The same on the way that Ultralytics takes.
    with pytest.raises(CheckpointError) as by_seam:
        tasks.load_checkpoint(path)
    assert str(by_seam.value) == str(refused.value)
    return str(refused.value)


def test_missing_unknown_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    state = dict(golden("litv2_model_cls")[0])
    del state["layers.2.blocks.1.attn.l_q.weight"]
    state["layers.2.blocks.1.extra.weight"] = torch.ones(2)
    state["layers.0.downsample.dconv.bias"] = torch.ones(5)
    told = complaint(write(tmp_path / "w.pth", {"model": state}))
    assert "looks like LITv2" in told
    assert "missing layers.2.blocks.1.attn.l_q.weight (16, 32)" in told
    assert "unknown layers.2.blocks.1.extra.weight (2,)" in told
    assert "shape of layers.0.downsample.dconv.bias: (5,) given, (16,) needed" in told


@pytest.mark.parametrize("block", CLASSIFIERS)
def test_every_single_tensor_is_needed(block: str) -> None:
    state = golden(block)[0]
    for key in random.Random(0).sample(sorted(k for k in state if not k.startswith(("head", "norm."))), 12):
        with pytest.raises(CheckpointError):
            recognise({k: v for k, v in state.items() if k != key})


def test_one_missing_tensor_of_a_papers_size_is_named() -> None:
    state = {k: torch.zeros(()).expand(s) for k, s in official("smt", "t").items() if k != "block3.5.attn.q.weight"}
    with pytest.raises(CheckpointError, match=r"like SMT-T, .* missing stages\.2\.blocks\.5\.attn\.q\.weight \(256"):
        recognise(state)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(169, 3)}, "a Swin Transformer"),
        ({"layers.2.blocks.0.attn.rate1": torch.ones(1)}, "an ACmix-Swin"),
        ({"layers.0.downsample.dconv.weight": torch.ones(1)}, "a LIT, the first version"),
        ({"layer1.0.conv1.weight": torch.ones(1)}, "a ResNet"),
        ({"model.0.conv.weight": torch.ones(1), "model.0.bn.weight": torch.ones(1)}, "a YOLO without its rows"),
        ({"encoder.w": torch.ones(1)}, "none of the networks understood here .* named w"),
        ({"model": {"patch_embed1.conv.0.weight": torch.ones(1)}}, "looks like SMT.* too little"),
        ({"model": {"patch_embed1.conv.0.weight": "text", "x": torch.ones(1)}}, "conv.0.weight in its state dict"),
        ({"epoch": 3, "notes": "none"}, "no state dict, but a dict of epoch, notes"),
        ([1, 2], "no state dict, but a list"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), r"object of the class torch\.nn\.modules\.container\.Sequential"),
    ],
)
def test_other_content_is_named(content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=says):
        convert.read(path)


def test_checkpoints_of_ultralytics_and_converted_ones_are_sent_where_they_belong(tmp_path: Path) -> None:
    torch.save({"model": tasks.DetectionModel("yolov8n.yaml", verbose=False)}, tmp_path / "best.pth")
    assert "a checkpoint of Ultralytics; use it as it is" in complaint(tmp_path / "best.pth")
    write(tmp_path / "w.pth", {"model": golden("clo_model")[0]})
    convert.read(tmp_path / "w.pth").save(tmp_path / "w-yolo.pt")
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


# --- files that are not what they seem ---


class Calls:
    """Pickled as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.what


def attacks(marker: Path) -> dict[str, Any]:
    command = f"touch {marker}"
    return {
        "os.system": Calls(os.system, command),
        "eval": Calls(eval, f"__import__('os').system('{command}')"),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Calls(getattr, "x", "upper"),
        "import": Calls(__import__, "os"),
        "Popen": Calls(subprocess.Popen, command.split()),
        "open": Calls(open, str(marker), "w"),
        "runpy": Calls(__import__("runpy").run_path, str(marker)),
        "pickle in a pickle": Calls(pickle.loads, pickle.dumps(Calls(os.system, command))),
        "torch.load": Calls(torch.load, str(marker)),
        "storage bytes": Calls(torch.storage._load_from_bytes, b"x"),
        "function of a library": Calls(np.save, str(marker), 1),
        "hidden in attributes": argparse.Namespace(inner=[{"x": Calls(os.system, command)}]),
        "hidden in a tensor's name": collections.OrderedDict(x=Calls(os.system, command)),
        "map": Calls(map, os.system, [command]),
    }


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("attack", attacks(Path("x")))
def test_a_file_that_calls_functions_is_refused_and_calls_none(attack: str, older: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    content = {"model": golden("clo_model")[0], "config": attacks(marker)[attack]}
    torch.save(content, path, _use_new_zipfile_serialization=not older)
    told = complaint(path)
    assert "evil.pth was refused: it " in told and "no checkpoint needs" in told
    assert not marker.exists()
    assert cli.main(["convert", f"weights={path}", f"out={tmp_path / 'out.pt'}"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Loaded the usual way, the same file does what it says; the test above would otherwise prove nothing."""
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"config": attacks(marker)["os.system"]}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_harmless_functions_are_not_called_either(tmp_path: Path) -> None:
    content = {
        "model": golden("clo_model")[0],
        "init": functools.partial(nn.LayerNorm, eps=1e-6),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list),
        "dtype": torch.float16,
        "size": torch.Size((2, 3)),
        "device": torch.device("cpu"),
        "array": np.arange(3),
        "set": {1, 2},
        "path": Path("x"),
        "act": nn.GELU,
        "function": nn.init.normal_,
    }
    path = write(tmp_path / "w.pth", content)
    beside = CheckpointFile(path).content
    assert convert.read(path).beside
    kinds = {k: type(v).__name__ for k, v in beside.items() if k != "model"}
    assert set(kinds.values()) <= {"Placeholder", "Reference", "set", "tuple", "dict"}
    assert beside["init"].name == "functools.partial" and beside["size"] == (2, 3)


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_truncated_files_say_so(older: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", swin_style(golden("clo_model")[0]), _use_new_zipfile_serialization=not older)
    whole = path.read_bytes()
    convert.read(path)
    cuts = [1, 2, 10, 63, 64, 100, *range(1000, len(whole), len(whole) // 25), len(whole) - 1]
    for n in cuts:
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match=r"w\.pth .*(truncated|damaged|no PyTorch checkpoint|refused)"):
            convert.read(path)
    path.write_bytes(b"")
    assert "it is empty" in complaint(path)


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_damaged_bytes_never_do_more_than_be_refused(older: bool, tmp_path: Path) -> None:
    small = {k: v for k, v in golden("litv2_model_cls")[0].items() if not k.startswith("layers.2.blocks.1")}
    path = write(tmp_path / "w.pth", swin_style(small), _use_new_zipfile_serialization=not older)
    whole, rng = path.read_bytes(), random.Random(0)
    places = [m.start() for m in re.finditer(b"layers|torch|storage|q\x00", whole)]
    for _ in range(150):
        data = bytearray(whole)
        at = rng.choice(places) + rng.randrange(-8, 24)
        data[max(0, at)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            convert.read(path)
        except CheckpointError:
            continue


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"model": golden("clo_model")[0]})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda m: m.file_size)
    data[largest.header_offset + 400] ^= 1
    path.write_bytes(data)
    assert "truncated or damaged: Bad CRC-32" in complaint(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"just text, and no checkpoint", "no PyTorch checkpoint: it starts with b'just text"),
        (b"<!DOCTYPE html><html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        (pickle.dumps({"model": 1}), "is a pickle, but no PyTorch checkpoint"),
        (b"\x80\x04" + b"\x8d" + (2**60).to_bytes(8, "little") + b"x", "truncated or damaged"),
        (b"\x80\x02r\xff\xff\xff\xff.", "truncated or damaged"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1, which no checkpoint needs"),
    ],
    ids=["text", "html", "lfs", "pickle", "huge text", "huge index", "extension"],
)
def test_files_that_are_something_else(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    assert says in complaint(tmp_path / "w.pth")


def test_archives_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "x")
    assert "a zip archive, but no PyTorch checkpoint" in complaint(path)
    torch.jit.save(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 2, 2)), path)
    assert "a TorchScript program" in complaint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", b"\0" * 10**7)
    assert "compressed parts, which PyTorch never writes" in complaint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"}0" * 3 * 2**20 + b"}.")
    assert "description is longer than 4 MiB" in complaint(path)


def test_tensors_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    state = dict(golden("clo_model")[0])
    torch.save({"model": state | {"head.weight": torch.zeros(1).expand(10**6, 10**6)}}, tmp_path / "w.pth")
    assert "a tensor reaches beyond its numbers" in complaint(tmp_path / "w.pth")
    shared = torch.zeros(10**6)
    torch.save({"model": state | {f"neck.{i}": shared for i in range(50)}}, tmp_path / "w.pth")
    assert "tensors take" in complaint(tmp_path / "w.pth")


def test_a_vast_network_that_only_names_suggest_takes_no_memory() -> None:
    state = {k: v for k, v in golden("clo_model")[0].items()}
    state["layers.3.blocks.0.norm1.weight"] = torch.ones(()).expand(2**40)
    state["layers.2.blocks.99999999999.norm1.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="do not fit"):
        recognise(state)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tasks.load_checkpoint(tmp_path / "none.pth")


# --- the converted checkpoint ---


def converted(folder: Path, block: str = "smt_model") -> Path:
    write(folder / "official.pth", swin_style(golden(block)[0]))
    assert cli.main(["convert", f"weights={folder / 'official.pth'}", f"out={folder / 'official-yolo.pt'}"]) == 0
    return folder / "official-yolo.pt"


@pytest.mark.parametrize("block", CLASSIFIERS)
@pytest.mark.parametrize("restricted", [False, True], ids=["usual", "restricted"])
def test_a_converted_file_does_what_the_authors_does(
    block: str, restricted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SAFE_LOAD", restricted, raising=False)
    path = converted(tmp_path, block)
    direct = mini_model(tmp_path, block).load(tmp_path / "official.pth").model.model[0].state_dict()
    through = mini_model(tmp_path, block).load(path).model.model[0].state_dict()
    assert all(torch.equal(through[k], v) for k, v in direct.items())
    report = transfer(mini_model(tmp_path, block), path, verbose=False)
    assert [r.index for r in report.rows if r.carried] == [0] and report.carried == report.total


def test_training_from_a_converted_file_alone_builds_its_model(tmp_path: Path) -> None:
    state = random_state(official("cloformer", "xs"))
    write(tmp_path / "clo.pth", {"model": state})
    convert.read(tmp_path / "clo.pth").save(tmp_path / "clo-yolo.pt")
    weights = YOLO(tmp_path / "clo-yolo.pt")
    assert weights.task == "detect" and weights.model.yaml["yaml_file"] == "yolov8s-cloformer.yaml"
    model = tasks.DetectionModel(weights.model.yaml, nc=3, verbose=False)  # as the trainer does
    assert transfer(model, weights, verbose=False).carried == len(weights.model.state_dict())
    with pytest.raises(RuntimeError, match=r"backbone of CloFormer-XS only.*model=yolov8s-cloformer\.yaml pretrained="):
        weights.model(torch.rand(1, 3, 64, 64))


def test_a_size_of_somebodys_own_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    weights = YOLO(converted(tmp_path))
    model = tasks.DetectionModel(weights.model.yaml, nc=3, verbose=False)
    assert model.model[0].network.channels == (16, 24, 32, 48)
    assert transfer(model, weights, verbose=False).carried == len(weights.model.state_dict())


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = convert.read(write(tmp_path / "w.pth", {"model": golden("clo_model")[0]}))
    (tmp_path / "out.pt").write_bytes(b"before")

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device", "out.pt")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError):
        conversion.save(tmp_path / "out.pt")
    assert (tmp_path / "out.pt").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.pt", "w.pth"]


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "litv2_s.pth", swin_style(random_state(official("litv2", "s"))))
    assert cli.main(["convert", f"weights={tmp_path / 'litv2_s.pth'}"]) == 0
    told = capsys.readouterr().out
    assert "LITv2-S, 27,076,152 parameters without the classifier" in told
    assert "under 'model'" in told and "config (yacs.config.CfgNode)" in told
    assert "head.weight" in told and "norm1.weight" in told
    assert "fits       yolov8n-litv2.yaml yolov8s-litv2.yaml" in told
    assert [p.name for p in tmp_path.iterdir()] == ["litv2_s.pth"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which file"),
        (["weights=none.pth"], "none.pth: No such file"),
        (["weight=x.pth"], "no argument 'weight'. Did you mean weights"),
        (["weights=w.pth", "out=w.onnx"], "end in .pt, such as w.pt"),
        (["weights=w.pth", "out=nowhere/w.pt"], "no folder nowhere"),
        (["weights=w.pt", "out=w.pt"], "is the file to be converted"),
        (["weights=."], "directory"),
    ],
)
def test_wrong_words(words: list, says: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("w.pth", "w.pt"):
        write(tmp_path / name, {"model": golden("clo_model")[0]})
    assert cli.main(["convert", *words]) == 2
    assert says in capsys.readouterr().err


# --- through Ultralytics ---


def test_stock_checkpoints_go_their_stock_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(convert, "load", lambda path: pytest.fail(f"{path} is none of ours"))
    torch.save({"model": tasks.DetectionModel("yolov8n.yaml", verbose=False)}, tmp_path / "best.pt")
    tasks.load_checkpoint(tmp_path / "best.pt")
    assert safe_load.OFFICIAL == (".pth", ".pth.tar")


@pytest.mark.slow
def test_plain_yolo_trains_from_the_authors_file(tmp_path: Path) -> None:
    mini_model(tmp_path, "smt_model")
    write(tmp_path / "smt_mini.pth", swin_style(golden("smt_model")[0]))
    words = ("train", "model=yolov8n-mini-smt.yaml", f"data={tiny_dataset(tmp_path)}", "pretrained=smt_mini.pth")
    told = yolo(*words, *short(tmp_path), "lr0=0", "warmup_bias_lr=0", "optimizer=SGD", cwd=tmp_path)
    assert "165/165 items of smt_mini.pth transferred" in told
    trained = tasks.load_checkpoint(tmp_path / "t" / "weights" / "last.pt")[0].model[0].state_dict()
    row = convert.read(tmp_path / "smt_mini.pth").found.row.state_dict()
    same = [torch.equal(trained[k], v.half().float()) for k, v in row.items() if k.endswith("proj.weight")]
    assert all(same) and len(same) > 5
