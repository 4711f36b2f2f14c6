"""Random transfer pairs: a stock model, and the same with blocks at random places; every tensor is traced.

A stock YAML of Ultralytics becomes the source; its rows with residual rows inserted at random places, and C2f or C3k2
rows exchanged for forms with attention, become the model. Row j of the model is row i of the source by construction.
Every tensor of the source has random numbers of its own; the transfer has to put each into the tensor of the same name
in the corresponding row, and to leave the tensors of new rows as they were.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
import ultralytics
from reliability.count import Count
from torch import nn
from ultralytics.nn import tasks

from yolo_attn import RegistryError, registry
from yolo_attn.loading import transfer

MODELS = Path(ultralytics.__file__).parent / "cfg" / "models"
#: Part of a file's name -> class of its model; the first that occurs counts. Some releases lack some classes.
CLASSES = {
    "yoloe": "YOLOEModel",
    "rtdetr": "RTDETRDetectionModel",
    "world": "WorldModel",
    "-seg": "SegmentationModel",
    "-sem": "SemanticSegmentationModel",
    "-depth": "DepthModel",
    "-pose": "PoseModel",
    "-obb": "OBBModel",
    "-cls": "ClassificationModel",
}


def run(n: int, seed: int, folder: Path) -> Count:
    """Build and transfer `n` pairs.

    Args:
        n: Number of pairs.
        seed: Of bases, places and blocks.
        folder: Not needed.
    """
    rng, count = random.Random(seed), Count()
    bases = sorted(p.name for p in MODELS.rglob("*.yaml"))
    sources: dict[str, tuple[dict[str, Any], nn.Module]] = {}
    skipped: dict[str, str] = {}
    traced = new = 0
    order: list[str] = []
    while count.tried < n and len(skipped) < len(bases):
        order = order or rng.sample(bases, len(bases))  # each base equally often
        name = order.pop()
        if name in skipped:
            continue
        if name not in sources:
            try:
                d = _offline(tasks.yaml_model_load(name))
                sources[name] = d, _filled(_model(name, copy.deepcopy(d)), 1)
            except Exception as e:  # needs a package or a file that is not there
                skipped[name] = f"{type(e).__name__}: {e}"
                continue
        d, source = sources[name]
        changed, origin = _changed(d, rng)
        try:
            model = _model(name, changed)
        except RegistryError:  # a place that no block fits, such as one behind a row with several maps
            continue
        before = {k: v.clone() for k, v in _filled(model, 2).state_dict().items()}
        report = transfer(model, source, verbose=False)
        count.tried += 1
        wrong, carried = _trace(model, source, before, origin)
        if report.carried != carried:
            wrong.append(f"the report counts {report.carried} tensors, not {carried}")
        if wrong:
            rows = [r[2] for r in changed["backbone"] + changed["head"] if registry.get(str(r[2]))]
            count.lost.append(f"{name} with {rows}: {wrong[0]} (of {len(wrong)})")
        traced, new = traced + carried, new + len(before) - carried
    left_out = f"; left out: {', '.join(skipped)}" if skipped else ""
    count.notes = f"{len(sources)} of {len(bases)} bases, {traced:,} tensors carried, {new:,} new{left_out}"
    return count


def _offline(d: dict[str, Any]) -> dict[str, Any]:
    """The model's YAML without downloads of torchvision's weights."""
    for row in d["backbone"] + d["head"]:
        if row[2] == "TorchVision":
            row[3] = ["None" if argument == "DEFAULT" else argument for argument in row[3]]
    return d


def _model(name: str, d: dict[str, Any]) -> nn.Module:
    kind = next((c for part, c in CLASSES.items() if part in name), "DetectionModel")
    if kind == "YOLOEModel" and "-seg" in name:
        kind = "YOLOESegModel"
    model: nn.Module = getattr(tasks, kind)(d, verbose=False)
    return model


def _filled(model: nn.Module, seed: int) -> nn.Module:
    """The model with random numbers in every tensor, integers included."""
    generator = torch.Generator().manual_seed(seed)
    for v in model.state_dict().values():
        v.copy_(torch.rand(v.shape, generator=generator) * (1000 if not v.is_floating_point() else 1))
    return model


def _changed(d: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], list[int | None]]:
    """A model's YAML with blocks at random places, and for each of its rows the index of the source's row."""
    d = copy.deepcopy(d)
    split = len(d["backbone"])
    table: list[Any] = [list(row) for row in d["backbone"] + d["head"]]
    rows = [b.name for b in registry.list_blocks() if b.carrier == "row" and not b.requires]
    for i, row in enumerate(table):
        froms = [x if x == -1 or x >= 0 else i + x for x in (row[0] if isinstance(row[0], list) else [row[0]])]
        row[0] = froms if isinstance(row[0], list) else froms[0]
        if row[2] in ("C2f", "C3k2") and rng.random() < 0.15:
            row[2] += rng.choice(rows)
    origin: list[int | None] = list(range(len(table)))
    places = range(len(table) - 1)
    for at in sorted(rng.sample(places, min(rng.randint(1, 3), len(places))), reverse=True):
        for row in table[at + 1 :]:
            froms = [x + (x >= at) for x in (row[0] if isinstance(row[0], list) else [row[0]])]
            row[0] = froms if isinstance(row[0], list) else froms[0]
        table.insert(at + 1, [-1, 1, rng.choice(rows), []])
        origin.insert(at + 1, None)
        split += at < split
    d["backbone"], d["head"] = table[:split], table[split:]
    return d, origin


def _trace(
    model: nn.Module, source: nn.Module, before: dict[str, torch.Tensor], origin: list[int | None]
) -> tuple[list[str], int]:
    """Tensors that are not what they should be, and the number of those that came from the source."""
    theirs, wrong, carried = source.state_dict(), [], 0
    for key, value in model.state_dict().items():
        _, index, *rest = key.split(".")
        at = origin[int(index)] if index.isdigit() else None
        name = ".".join(["model", str(at), *rest]) if index.isdigit() else key
        want = theirs.get(name) if at is not None or not index.isdigit() else None
        if want is None:
            if not torch.equal(value, before[key]):
                wrong.append(f"{key} is new, and was overwritten")
        elif want.shape != value.shape or not torch.equal(value, want):
            wrong.append(f"{key} is not {name}")
        carried += want is not None
    return wrong, carried
