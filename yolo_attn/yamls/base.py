"""The model a generated YAML starts from: its rows, its task, and where in the feature pyramid each row works.

Stock models are read from the installed Ultralytics when they are asked for; nothing of them is kept here.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..registry import RegistryError, suggest
from . import shipped as assets

#: Task -> ending of the file names of Ultralytics' models for it.
TASKS = {
    "detect": "",
    "segment": "-seg",
    "pose": "-pose",
    "obb": "-obb",
    "classify": "-cls",
    "semantic": "-sem",
    "depth": "-depth",
}
_HEAD_WORDS = {  # as Ultralytics tells a task by its head: the first word that is in the head's name decides
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
    """A model YAML cannot be made as asked; the message says what can."""


@dataclass(frozen=True)
class Map:
    """What one row puts out.

    Attributes:
        stride: Image pixels between neighbouring cells.
        channels: Channels at the scale that was measured.
    """

    stride: int
    channels: int

    @property
    def level(self) -> str:
        """Level of the feature pyramid: P3 has stride 8."""
        return f"P{round(math.log2(self.stride))}"


@dataclass(frozen=True)
class Base:
    """A model to insert blocks into.

    Attributes:
        name: File stem of a stock or shipped model, the path of a user's file, or "" for a model given as data.
        d: The parsed YAML.
        command: The command that made it, where its first line tells one.
        stock: It is one of Ultralytics' own.
    """

    name: str
    d: dict[str, Any]
    command: str = ""
    stock: bool = False

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name or "this model"

    @property
    def rows(self) -> list[list[Any]]:
        """Backbone and head, row by row: [from, repeats, module, arguments]."""
        return [*self.d["backbone"], *self.d["head"]]

    @property
    def task(self) -> str:
        """The task its last row is made for."""
        return task_of(self.d)


COMMAND = "yolo-attn yaml "
PIPE = " | "


def first_command(text: str) -> str:
    """The command in a YAML's first line, or an empty string."""
    line = text.split("\n", 1)[0].lstrip("# ").strip()
    return line if line.startswith(COMMAND) else ""


def task_of(d: Mapping[str, Any]) -> str:
    """The task of a model, told by its last row as Ultralytics tells it."""
    name = str(d["head"][-1][2]).lower()
    return next((task for word, task in _HEAD_WORDS.items() if word in name), "detect")


@functools.cache
def stock_files() -> dict[str, Path]:
    """File stem -> path of every model YAML in the installed Ultralytics."""
    import ultralytics

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    return {p.stem: p for p in sorted(folder.rglob("*.yaml"))}


def find(base: str | Path | Mapping[str, Any]) -> Base:
    """Read a base.

    Args:
        base: A stock model's name (yolov8, yolov8-p2, yolo11-seg.yaml, yolov8n), a shipped one's (yolov8-sam), the path
            of a YAML, or a parsed YAML.

    Returns:
        The base; changing its data changes nothing else.

    Raises:
        ModelError: Nothing of that name, or not a model YAML.
    """
    if isinstance(base, Mapping):
        return Base("", _checked(base, "the base"))
    name = str(base)
    if name.endswith((".pt", ".pth", ".onnx")):
        raise ModelError(
            f"base={name} holds weights. Name a model's YAML, such as base=yolov8; weights go to training."
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
                what = "no such file" if stem != name else "neither a model of Ultralytics nor one of ours"
                raise ModelError(f"base={name}: {what}.{suggest(stem, known)} A file of yours ends in .yaml.")
            path, stem = shipped, shipped.stem
        name = stem
    return parse(path.read_text(encoding="utf-8", errors="ignore"), name, is_stock)


def parse(text: str, name: str, stock: bool = False) -> Base:
    """A base from the text of a YAML.

    Args:
        text: The YAML.
        name: What to call it in commands and messages.
        stock: It is one of Ultralytics' own.

    Raises:
        ModelError: The text is no model YAML.
    """
    import yaml

    try:
        d = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ModelError(f"base={name} is no valid YAML: {e}") from e
    return Base(name, _checked(d, f"base={name}"), first_command(text), stock)


def _checked(d: Any, where: str) -> dict[str, Any]:
    """A copy of a model's data, without what Ultralytics adds at run time."""
    if not isinstance(d, Mapping) or not all(isinstance(d.get(k), list) and d[k] for k in ("backbone", "head")):
        raise ModelError(f"{where} is no model YAML: it needs lists of rows `backbone:` and `head:`.")
    for i, row in enumerate([*d["backbone"], *d["head"]]):
        fits = isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)
        sources = row[0] if fits and isinstance(row[0], list) else [row[0]] if fits else []
        if not fits or not all(isinstance(s, int) and -max(i, 1) <= s < i for s in sources):
            form = "[from, repeats, module, [arguments]] with `from` an earlier row"
            raise ModelError(f"{where}: row {i} is {row!r}; a row is {form}.")
    return {k: copy.deepcopy(v) for k, v in d.items() if k not in ("scale", "yaml_file", "ch")}


def with_task(base: Base, task: str | None) -> Base:
    """The base for another task: the stock model of that task where there is one, else with the head changed.

    Args:
        base: Any base.
        task: A key of `TASKS` or its short form (seg, cls, ...); None keeps the base's own.

    Raises:
        ModelError: No such task, or this model cannot be turned to it.
    """
    if task is None:
        return base
    word = next((t for t, ending in TASKS.items() if task.lower() in (t, ending[1:])), None) if task else None
    if word is None:
        raise ModelError(f"task={task}: no such task.{suggest(task, TASKS)} Tasks are {', '.join(TASKS)}.")
    if word == base.task:
        return base
    tokens = [t for t in Path(base.name or "yolov8").stem.split("-") if f"-{t}" not in TASKS.values()]
    ending = TASKS[word]
    if base.stock:
        for stem in ("-".join([tokens[0] + ending, *tokens[1:]]), "-".join(tokens) + ending):
            if stem in stock_files() and find(stem).task == word:
                return find(stem)
    if word not in SWAPPABLE:
        raise ModelError(f"task={word}: Ultralytics has no {word} form of {base.title}.")
    return Base(base.name, _swap_head(base, word, tokens[0] + ending), base.command, stock=False)


def _swap_head(base: Base, task: str, sibling: str) -> dict[str, Any]:
    """The base's data with the head of the stock model `sibling`, or of the YOLOv8 of that task."""
    guided = sorted({row[2] for row in base.rows} & set(GUIDED))
    if guided:
        raise ModelError(f"task={task}: {base.title} takes texts as input ({', '.join(guided)}) and keeps its task.")
    if base.task == "classify":
        raise ModelError(f"task={task}: {base.title} classifies; it has no neck for another head to read.")
    donor = find(sibling if sibling in stock_files() else "yolov8" + TASKS[task])
    d = copy.deepcopy(base.d)
    d.update({k: copy.deepcopy(v) for k, v in donor.d.items() if k == "nc" or (k not in d and k == "kpt_shape")})
    if task == "classify":
        d["head"] = [copy.deepcopy(donor.rows[-1])]
    else:
        d["head"][-1] = [d["head"][-1][0], *copy.deepcopy(donor.rows[-1][1:])]
    return d


def scales(d: Mapping[str, Any]) -> list[str]:
    """Letters of a model's scales; one empty letter where it has none."""
    return list(d.get("scales") or {}) or [""]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave random state and Ultralytics' default activation as they were."""
    import torch
    from ultralytics.nn.modules import Conv

    act = Conv.default_act
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            yield
        finally:
            Conv.default_act = act


def build(d: Mapping[str, Any], scale: str) -> Any:
    """The model's rows as modules without memory, on the meta device.

    Args:
        d: A parsed YAML.
        scale: Letter of the scale, or "".

    Returns:
        nn.Sequential, each row with `i` and `f` as Ultralytics sets them.
    """
    from ultralytics.nn import tasks

    model = copy.deepcopy(dict(d))
    if scale:
        model["scale"] = scale
    for row in [*model["backbone"], *model["head"]]:
        if row[2] == "TorchVision" and len(row[3]) > 2:
            row[3][2] = None  # names of weights to fetch
    with _undisturbed():
        return tasks.parse_model(model, model.get("channels", 3), verbose=False)[0]


def measure(d: Mapping[str, Any], scale: str | None = None) -> list[Map | None]:
    """Stride and channels of every row's output, from a forward pass on the meta device.

    Args:
        d: A parsed YAML.
        scale: Letter of the scale; the first by default.

    Returns:
        One entry a row; None where a row's output is not one map (lists of maps, texts, the head).
    """
    scale = scales(d)[0] if scale is None else scale
    return list(_measured(json.dumps(d, sort_keys=False), scale))


@functools.lru_cache(maxsize=256)
def _measured(d_json: str, scale: str) -> tuple[Map | None, ...]:
    import torch

    d, size = json.loads(d_json), 256
    modules = build(d, scale).eval()
    outputs: list[Any] = []
    found: list[Map | None] = []
    with _undisturbed():
        image = torch.zeros(1, d.get("channels", 3), size, size)
        text = torch.zeros(1, 80, 512)
        for m in modules[:-1]:
            sources = [m.f] if isinstance(m.f, int) else m.f
            inputs = [outputs[s] if outputs else image for s in sources]
            if m.type.endswith("ImagePoolingAttn"):  # refines the text; the map passes by
                outputs.append(outputs[-1])
                found.append(None)
                continue
            x = inputs[0] if isinstance(m.f, int) else inputs
            y = m(x, text) if m.type.endswith("C2fAttn") else m(x)
            outputs.append(y)
            found.append(_map(y, size))
    return (*found, None)


def _map(y: Any, size: int) -> Map | None:
    if not hasattr(y, "shape") or y.ndim != 4:
        return None
    return Map(2 ** round(math.log2(size / y.shape[-1])), y.shape[1])


def check_builds(d: Mapping[str, Any], what: str) -> list[Map | None]:
    """Build a model at every scale and run it at the first.

    Args:
        d: A parsed YAML.
        what: How to name it in messages.

    Returns:
        As `measure`.

    Raises:
        ModelError: A row does not fit; the message is the constructor's own.
    """
    with _explained(what, scales(d)[0]):
        maps = measure(d)
    for scale in scales(d)[1:]:
        with _explained(what, scale):
            build(d, scale)
    return maps


@contextlib.contextmanager
def _explained(what: str, scale: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RegistryError, RuntimeError, IndexError, KeyError, AttributeError) as e:
        at = f" at scale {scale}" if scale else ""
        why = f"the maps do not fit together ({e})" if isinstance(e, RuntimeError) else str(e)
        raise ModelError(f"{what} does not build{at}: {why}") from e
