"""The models of a table: what `models=` names, and what each of them costs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from ultralytics.nn.tasks import guess_model_scale

from .. import registry
from ..errors import UsageError
from ..yamls import expression
from ..yamls.base import TASKS, ModelError, find, stock_files, task_of
from ..yamls.shipped import unscaled
from .plan import CANDIDATE, CONTROL, STOCK, Dataset, Model

#: Within this share of the candidate's GFLOPs a control counts as matched; a candidate this close to stock needs none.
MATCH = 0.02
MODEL_CLASSES = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
    "classify": "ClassificationModel",
}


class Size(NamedTuple):
    """The input and output sizes for which costs are counted."""

    imgsz: int  # side of the images in pixels
    classes: int | None = None  # None for the number of the YAML


def read_models(entries: Sequence[str], base: str, size: Size) -> list[Model]:
    """The stock model and the candidates.

    Args:
        entries: Names, files, or expressions as in `yamls.expression`: block@P4+backbone.P5@csp, sk(groups=8)@neck.
        base: The stock model.
        size: For which costs are counted.

    Raises:
        UsageError: An entry is no model, or has another task or scale than the stock model.
    """
    d, name = read_yaml(base)
    if len(d.get("scales", ())) > 1:
        raise UsageError(
            f"the stock model {base} has the scales {', '.join(d['scales'])}, and its name no scale letter. Add one to "
            f"all names, as in {_lettered(base, 'n')}."
        )
    stock = Model(name, STOCK, d, entry=base)
    found = {name: stock}
    for entry in entries:
        d, name = (
            _generated(entry, base)
            if expression.is_expression(entry)
            else read_yaml(entry, str(stock.d.get("scale") or ""))
        )
        model = Model(name, CANDIDATE, d, entry=entry)
        if same(model, stock):
            continue
        if name in found:
            raise UsageError(f"models={entry}: another model of this benchmark is called {name}, too.")
        scales = d.get("scale"), stock.d.get("scale")
        for what, ours, theirs in (("task", task_of(d), task_of(stock.d)), ("scale", *scales)):
            if ours and theirs and ours != theirs:
                raise UsageError(
                    f"models={entry} has {what} {ours}, but the stock model {stock.name} has {what} {theirs}. Models "
                    f"of one {what} can be compared; base=… names the stock model."
                )
        found[name] = model
    counted = [(m, *cost(m.d, size, m.entry)) for m in found.values()]
    return [replace(m, parameters=parameters, gflops=gflops) for m, parameters, gflops in counted]


def with_costs(models: Iterable[Model], datasets: Iterable[Dataset], size: Size) -> list[Model]:
    """The models with their costs for datasets that have another number of classes than `size`."""
    others = {d.name: size._replace(classes=len(d.names)) for d in datasets if len(d.names) != size.classes}
    return [replace(m, costs={name: [*cost(m.d, s, m.name)] for name, s in others.items()}) for m in models]


def same(a: Model, b: Model) -> bool:
    """Whether two models are built and started alike."""
    plain = [json.dumps({k: v for k, v in m.d.items() if k != "yaml_file"}, sort_keys=True) for m in (a, b)]
    return plain[0] == plain[1] and (a.role == CONTROL) == (b.role == CONTROL)


def stock_of(entries: Sequence[str]) -> str:
    """The stock model that the first entry is, or with whose name its name begins."""

    def known(name: str) -> bool:
        """With a scale letter, or without where each scale has its file, as YOLOv9's and YOLOv10's."""
        return name in stock_files() or re.sub(r"(\d)[nslmx]", r"\1", name, count=1) in stock_files()

    first = next((e for e in entries if not expression.is_expression(e)), "yolov8n")
    stem = Path(first).stem
    if known(stem):
        return first
    ending = next((e for e in TASKS.values() if e and stem.endswith(e)), "")
    parts = stem.removesuffix(ending).split("-")
    for n in range(len(parts), 0, -1):
        if known(name := "-".join(parts[:n]) + ending):
            return name
    raise UsageError(
        f"models={first}: its name does not begin with a stock model's, so there is nothing to compare it with. "
        "Name that model: base=yolov8n"
    )


def read_yaml(entry: str, scale: str = "") -> tuple[dict[str, Any], str]:
    """A model by name or file: its parsed YAML, and its name.

    Args:
        entry: The name or file; a scale letter in the name of a file need not be in the name on the disk.
        scale: For a name without one; without it, a YAML with several scales keeps them all.

    Raises:
        UsageError: There is no such model, or it lacks the scale that its name has.
    """
    file = Path(entry).with_name(unscaled(Path(entry).name))
    try:
        d = find(file if file.is_file() and not Path(entry).is_file() else entry).d
    except ModelError as e:
        raise UsageError(str(e).replace("base=", "models=", 1)) from e
    own = guess_model_scale(entry) or ""
    if scale and not own and len(d.get("scales", ())) > 1 and not file.is_file():
        raise UsageError(f"models={entry}: its name has no scale letter. Write {_lettered(entry, scale)}.")
    if own and own not in d.get("scales", own):
        raise UsageError(f"models={entry}: it has no scale {own}; it has {', '.join(d['scales'])}.")
    return _scaled(d, own or scale), Path(entry).name.removesuffix(".yaml").removesuffix(".yml")


def _lettered(name: str, scale: str) -> str:
    """A model's name with a scale letter."""
    return re.sub(r"^(yolov?\d+)(?=$|[-.])", rf"\1{scale}", name)


def _generated(entry: str, base: str) -> tuple[dict[str, Any], str]:
    """A model by expression."""
    try:
        made = expression.build(base, entry)
    except ValueError as e:
        raise UsageError(f"models={entry}: {e}") from e
    return _scaled(made.d, guess_model_scale(base) or ""), f"{Path(base).stem}-{entry}"


def _scaled(d: dict[str, Any], scale: str) -> dict[str, Any]:
    """A parsed YAML with one scale only, so that no file name decides which."""
    d = copy.deepcopy(d)
    scale = next(iter(d["scales"])) if len(d.get("scales", ())) == 1 else scale
    if scale in d.get("scales", ()):
        d["scales"], d["scale"] = {scale: list(d["scales"][scale])}, scale
    return d


def blocks_of(d: Mapping[str, Any]) -> list[registry.Block]:
    """The registered blocks in the rows of a parsed YAML, in their order."""
    names = (row[2] for part in ("backbone", "head") for row in d.get(part, ()))
    return [block for name in names if isinstance(name, str) and (block := registry.get(name))]


def build(d: dict[str, Any]) -> nn.Module:
    """The model of a parsed YAML, for its own number of classes; UsageError for a task that is not measured."""
    from ultralytics.nn import tasks

    from ..measure.model import quiet

    kind = "RTDETRDetectionModel" if "RTDETR" in str(d["head"][-1][2]) else MODEL_CLASSES.get(task_of(d), "")
    if not kind:
        raise UsageError(f"models for {task_of(d)} are not measured; those for {', '.join(MODEL_CLASSES)} are.")
    with quiet():
        return getattr(tasks, kind)(copy.deepcopy(d), verbose=False)


def cost(d: dict[str, Any], size: Size, entry: str) -> tuple[int, float]:
    """Parameters and GFLOPs of a model as it is trained; UsageError where it cannot be built."""
    from ..measure.model import cost as count

    try:
        model = build({**d, "nc": size.classes} if size.classes else d)
        parameters, gflops = count(model, trained_size(model, size.imgsz))
    except UsageError:
        raise
    except Exception as e:
        raise UsageError(f"models={entry} does not build: {(str(e) or type(e).__name__).splitlines()[0]}") from e
    if not gflops:
        raise UsageError(f"models={entry}: its GFLOPs cannot be counted at imgsz={size.imgsz}.")
    return parameters, gflops


def trained_size(model: Any, imgsz: int) -> int:
    """Side of the images that Ultralytics trains with: a multiple of the largest stride, and of 32 at least."""
    stride = max(int(model.stride.max()), 32)
    return -(-imgsz // stride) * stride
