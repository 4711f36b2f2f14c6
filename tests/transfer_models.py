"""Models for tests of transferred weights: stock ones with random weights, and the same with rows of ours.

Stock checkpoints are made here from Ultralytics' own YAMLs, with random weights and BatchNorm statistics, so that a
tensor in a wrong layer changes the output.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import torch
import yaml
from torch import nn
from ultralytics.nn import tasks

from yolo_attn.loading import TransferReport

MODELS = {
    "detect": (tasks.DetectionModel, ""),
    "segment": (tasks.SegmentationModel, "-seg"),
    "pose": (tasks.PoseModel, "-pose"),
    "obb": (tasks.OBBModel, "-obb"),
    "classify": (tasks.ClassificationModel, "-cls"),
}


def config(name: str, *inserts: tuple[int, list], replace: dict[int, list] | None = None) -> dict:
    """A stock YAML by name, with rows `[repeats, name, arguments]` inserted behind rows and others replaced.

    References to a row go to what was inserted behind it.
    """
    d = tasks.yaml_model_load(name)
    table = [list(r) for r in d["backbone"] + d["head"]]
    split = len(d["backbone"])
    for i, (block, arguments) in (replace or {}).items():
        table[i][2:] = [block, arguments]
    for at, row in sorted(inserts, key=lambda pair: -pair[0]):
        for r in table[at + 1 :]:
            froms = [x + (x >= at) for x in (r[0] if isinstance(r[0], list) else [r[0]])]
            r[0] = froms if isinstance(r[0], list) else froms[0]
        table.insert(at + 1, [-1, *row])
        split += at < split
    d["backbone"], d["head"] = table[:split], table[split:]
    return d


def build(
    name: str, *inserts: tuple[int, list], replace: dict | None = None, task: str = "detect", **kwargs
) -> nn.Module:
    """The model of such a YAML."""
    cls = tasks.RTDETRDetectionModel if "rtdetr" in name else MODELS[task][0]
    return cls(config(name, *inserts, replace=replace), verbose=False, **kwargs)


def write_yaml(path: Path, d: dict) -> Path:
    """Write a model YAML without its scale; returns the name that selects scale n."""
    path.with_name(path.name.replace("8n", "8")).write_text(
        yaml.safe_dump({k: v for k, v in d.items() if k not in ("scale", "yaml_file")})
    )
    return path


def shake(model: nn.Module) -> nn.Module:
    """Random weights everywhere, BatchNorm statistics included; kept small, so that outputs stay finite."""
    generator = torch.Generator().manual_seed(1)
    for v in model.state_dict().values():
        if v.is_floating_point():
            values = torch.rand(v.shape, generator=generator) * 0.2 + (0.9 if v.ndim == 1 else -0.1)
            v.copy_(values.half())  # checkpoints are stored in half precision
    return model.eval()


@functools.cache
def stock(task: str = "detect") -> nn.Module:
    """YOLOv8n with random weights, shared between tests: read it, or copy it."""
    return shake(build(f"yolov8n{MODELS[task][1]}.yaml", task=task))


def stock_checkpoint(folder: Path) -> Path:
    """Path of a checkpoint with the weights of `stock()` and names of classes."""
    model = copy.deepcopy(stock())
    model.names = {i: f"thing {i}" for i in range(80)}
    torch.save({"model": model, "train_args": {}}, folder / "stock.pt")
    return folder / "stock.pt"


def tensors(output) -> list[torch.Tensor]:
    """All tensors in a model's output."""
    if torch.is_tensor(output):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [t for part in output for t in tensors(part)] if isinstance(output, (list, tuple)) else []


def outputs(model: nn.Module) -> list[torch.Tensor]:
    """What a model puts out in eval mode for one random image."""
    image = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return tensors(model.eval()(image))


def equal_outputs(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models put out the same, bit for bit."""
    mine, theirs = outputs(a), outputs(b)
    return len(mine) == len(theirs) > 0 and all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def came_from(report: TransferReport) -> dict[int, int | None]:
    """Row -> row of the weights, for rows that got tensors."""
    return {r.index: r.source for r in report.rows if r.carried}


def new_rows(report: TransferReport) -> list[str]:
    """Names of the rows that have new tensors."""
    return [r.name for r in report.rows if r.new]
