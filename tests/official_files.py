"""Checkpoints as the papers' authors write them, for tests: their layouts, and states to put into them.

The released files are not at hand. The states are those of the golden files, or random ones with the shapes of the
papers' sizes (`official_shapes`).
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from official_shapes import cloformer, litv2, smt
from safetensors.torch import load_file
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks

from yolo_attn.blocks.cloformer import network as cloformer_net
from yolo_attn.blocks.litv2 import network as litv2_net
from yolo_attn.blocks.smt import network as smt_net
from yolo_attn.weights import checkpoints
from yolo_attn.weights.checkpoints import CheckpointError
from yolo_attn.yamls import shipped as assets

State = dict[str, torch.Tensor]

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


@functools.cache
def golden(block: str) -> tuple[State, State]:
    """The authors' state, and input and outputs."""
    (path,) = (WHOLE if "det" in block else GOLDEN).glob(f"{block}/mini*.safetensors")
    tensors = load_file(path)
    state = {k[6:]: v for k, v in tensors.items() if k.startswith("state.")}
    return state, {k: v for k, v in tensors.items() if not k.startswith("state.")}


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    """Random tensors of these shapes, with outputs of moderate size."""
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


def mini_model(folder: Path, block: str) -> YOLO:
    """YOLOv8n behind a backbone of the golden file's configuration."""
    name, options = MINI[block]
    d = yaml.safe_load((assets.folder() / f"yolov8-{name}.yaml").read_text(encoding="utf-8"))
    d["backbone"][0][3] = [{"options": options}]
    (folder / f"yolov8-mini-{name}.yaml").write_text(yaml.safe_dump(d))
    return YOLO(folder / f"yolov8n-mini-{name}.yaml")


class CfgNode(dict):
    """Like the configuration of yacs: a dict with attributes; pickled under its name there."""


class Schedule:
    """An object of a training code."""

    def __init__(self) -> None:
        self.rates = [0.1, 0.2]


def write(path: Path, content: Any, **kwargs: Any) -> Path:
    """Save as on the authors' machine, with classes that this one does not have."""
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


def refusal(path: Path) -> CheckpointError:
    """The error of a file that is not loaded: the same one here and where Ultralytics loads it."""
    with pytest.raises(CheckpointError) as refused:
        checkpoints.read(path)
    with pytest.raises(CheckpointError) as by_ultralytics:
        tasks.load_checkpoint(path)
    assert str(by_ultralytics.value) == str(refused.value)
    assert type(by_ultralytics.value) is type(refused.value) and refused.value.path == path
    return refused.value


def complaint(path: Path) -> str:
    """Its message."""
    return str(refusal(path))
