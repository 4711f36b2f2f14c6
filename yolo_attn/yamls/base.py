"""The base model of a generated YAML: found by name, read, checked, and turned to another task.

Stock models are read from the installed Ultralytics on demand; this package holds no copy of them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..registry import suggest
from . import shipped as assets

#: Task -> suffix of the names of Ultralytics' models for it.
TASKS = {
    "detect": "",
    "segment": "-seg",
    "pose": "-pose",
    "obb": "-obb",
    "classify": "-cls",
    "semantic": "-sem",
    "depth": "-depth",
}
#: Part of a head's name -> task, in the order in which Ultralytics infers a task from the head.
_TASK_OF_HEAD = {
    "classify": "classify",
    "semanticsegment": "semantic",
    "segment": "segment",
    "pose": "pose",
    "obb": "obb",
    "depth": "depth",
    "detect": "detect",
    "rtdetr": "detect",
}
SWAPPABLE = ("detect", "segment", "pose", "obb", "classify")
GUIDED = ("C2fAttn", "ImagePoolingAttn", "WorldDetect", "YOLOEDetect", "YOLOESegment", "YOLOESegment26")


class ModelError(UsageError):
    """A model YAML cannot be generated as requested; the message says what can."""


@dataclass(frozen=True)
class Base:
    """A model to insert blocks into.

    Attributes:
        name: File stem of a stock or shipped model, the path of a user's file, or "" for a model given as data.
        d: The parsed YAML.
        command: The command in its first line, if there is one.
        stock: It is one of Ultralytics' models.
    """

    name: str
    d: dict[str, Any]
    command: str = ""
    stock: bool = False

    @property
    def title(self) -> str:
        """The model's name in messages."""
        return self.name or "this model"

    @property
    def rows(self) -> list[list[Any]]:
        """Backbone and head, row by row: [from, repeats, module, arguments]."""
        return [*self.d["backbone"], *self.d["head"]]

    @property
    def task(self) -> str:
        """The task of its head."""
        return task_of(self.d)


COMMAND = "yolo-attn yaml "
PIPE = " | "


def first_command(text: str) -> str:
    """The command in a YAML's first line, or an empty string."""
    line = text.split("\n", 1)[0].lstrip("# ").strip()
    return line if line.startswith(COMMAND) else ""


def task_of(d: Mapping[str, Any]) -> str:
    """The task of a model, inferred from its head as Ultralytics does."""
    name = str(d["head"][-1][2]).lower()
    return next((task for part, task in _TASK_OF_HEAD.items() if part in name), "detect")


@functools.cache
def stock_files() -> dict[str, Path]:
    """File stem -> path of every model YAML in the installed Ultralytics."""
    import ultralytics

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    return {p.stem: p for p in sorted(folder.rglob("*.yaml"))}


def find(base: str | Path | Mapping[str, Any]) -> Base:
    """Read a base model.

    Args:
        base: A stock model's name (yolov8, yolov8-p2, yolo11-seg.yaml, yolov8n), a shipped one's (yolov8-sam), the path
            of a YAML, or a parsed YAML.

    Returns:
        The base model; its data is a copy.

    Raises:
        ModelError: There is no such model, or the file is not a model YAML.
    """
    if isinstance(base, Mapping):
        return Base("", _checked(base, "the base"))
    name = str(base)
    if name.endswith((".pt", ".pth", ".onnx")):
        raise ModelError(
            f"base={name} holds weights. Name a model YAML, such as base=yolov8; weights go to `yolo train`."
        )
    path, is_stock = Path(name), False
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    if not (stem != name and path.is_file()):
        if stem in stock_files() or assets.unscaled(stem) in stock_files():
            stem = stem if stem in stock_files() else assets.unscaled(stem)
            path, is_stock = stock_files()[stem], True
        else:
            shipped = assets.find(f"{stem}.yaml")
            if shipped is None:
                known = [*stock_files(), *(p.stem for p in assets.model_yamls())]
                what = "no such file" if stem != name else "neither a model of Ultralytics nor one of yolo_attn"
                raise ModelError(f"base={name}: {what}.{suggest(stem, known)} Names of your own files end in .yaml.")
            path, stem = shipped, shipped.stem
        name = stem
    return parse(path.read_text(encoding="utf-8", errors="ignore"), name, is_stock)


def parse(text: str, name: str, stock: bool = False) -> Base:
    """The base model in the text of a YAML.

    Args:
        text: The YAML.
        name: Its name in commands and messages.
        stock: It is one of Ultralytics' models.

    Raises:
        ModelError: The text is not a model YAML.
    """
    import yaml

    try:
        d = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ModelError(f"base={name} is not valid YAML: {e}") from e
    return Base(name, _checked(d, f"base={name}"), first_command(text), stock)


def _checked(d: Any, where: str) -> dict[str, Any]:
    """A copy of a model's data, without the keys that Ultralytics adds at run time."""
    if not isinstance(d, Mapping) or not all(isinstance(d.get(k), list) and d[k] for k in ("backbone", "head")):
        raise ModelError(f"{where} is not a model YAML: it needs the lists of rows `backbone:` and `head:`.")
    for i, row in enumerate([*d["backbone"], *d["head"]]):
        fits = isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)
        sources = row[0] if fits and isinstance(row[0], list) else [row[0]] if fits else []
        if not fits or not all(isinstance(s, int) and -max(i, 1) <= s < i for s in sources):
            form = "[from, repeats, module, [arguments]] with `from` an earlier row"
            raise ModelError(f"{where}: row {i} is {row!r}; a row is {form}.")
    return {k: copy.deepcopy(v) for k, v in d.items() if k not in ("scale", "yaml_file", "ch")}


def with_task(base: Base, task: str | None) -> Base:
    """The base model for another task: the stock model of that task if there is one, otherwise with another head.

    Args:
        base: Any base model.
        task: A key of `TASKS` or its short form (seg, cls, ...); None keeps the model's own.

    Raises:
        ModelError: There is no such task, or this model has no form for it.
    """
    if task is None:
        return base
    name = next((t for t, suffix in TASKS.items() if task.lower() in (t, suffix[1:])), None) if task else None
    if name is None:
        raise ModelError(f"task={task}: no such task.{suggest(task, TASKS)} Tasks: {', '.join(TASKS)}.")
    if name == base.task:
        return base
    tokens = [t for t in Path(base.name or "yolov8").stem.split("-") if f"-{t}" not in TASKS.values()]
    suffix = TASKS[name]
    if base.stock:
        for stem in ("-".join([tokens[0] + suffix, *tokens[1:]]), "-".join(tokens) + suffix):
            if stem in stock_files() and find(stem).task == name:
                return find(stem)
    if name not in SWAPPABLE:
        raise ModelError(f"task={name}: Ultralytics has no {name} form of {base.title}.")
    return Base(base.name, _swap_head(base, name, tokens[0] + suffix), base.command, stock=False)


def _swap_head(base: Base, task: str, sibling: str) -> dict[str, Any]:
    """The model's data with the head of the stock model `sibling`, or of YOLOv8 for that task."""
    guided = sorted({row[2] for row in base.rows} & set(GUIDED))
    if guided:
        raise ModelError(f"task={task}: {base.title} takes text as input ({', '.join(guided)}) and keeps its task.")
    if base.task == "classify":
        raise ModelError(f"task={task}: {base.title} is a classification model; it has no neck for another head.")
    donor = find(sibling if sibling in stock_files() else "yolov8" + TASKS[task])
    d = copy.deepcopy(base.d)
    d.update({k: copy.deepcopy(v) for k, v in donor.d.items() if k == "nc" or (k not in d and k == "kpt_shape")})
    if task == "classify":
        d["head"] = [copy.deepcopy(donor.rows[-1])]
    else:
        d["head"][-1] = [d["head"][-1][0], *copy.deepcopy(donor.rows[-1][1:])]
    return d
