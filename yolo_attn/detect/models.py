"""The models of a matrix: words of the command line, the stock model, and the controls that cost as much.

A block adds parameters and operations. More of those help without any attention, so a block that beats the stock model
has shown nothing yet. The cost control is the stock model with as many plain bottlenecks more as cost what the block
costs; where a model has no C2f to put them into, its width is scaled instead.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..commands.cli import UsageError
from ..registry import suggest
from .plan import CANDIDATE, CONTROL, STOCK, Model

#: Within this share of the candidate's GFLOPs a control counts as matched; a candidate this close to stock needs none.
MATCH = 0.02
MODEL_CLASSES = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
    "classify": "ClassificationModel",
}


@dataclass(frozen=True)
class Size:
    """What costs are counted for.

    Attributes:
        imgsz: Side of the images in pixels.
        classes: Number of classes; None for that of the YAML.
    """

    imgsz: int
    classes: int | None = None


def read_models(words: Sequence[str], base: str, size: Size, controls: bool) -> list[Model]:
    """The models that the words mean, stock first, each candidate followed by its control if that is a new one.

    Args:
        words: Names, files, or generator words: block@place, block@P4+backbone.P5, block@neck@csp.
        base: The stock model.
        size: At which costs are matched.
        controls: Add controls.

    Raises:
        UsageError: A word means no model, one is given twice, or the tasks differ.
    """
    stock = _read(base, base, STOCK, size)
    found = {stock.name: stock}
    given: set[str] = set()
    for word in words:
        if word in given:
            raise UsageError(f"models={word} is given twice.")
        given.add(word)
        model = _read(word, base, CANDIDATE, size)
        if same(model, stock):
            continue
        if model.name in found:
            raise UsageError(f"models={word}: another model of this run is called {model.name}, too.")
        if task(model.d) != task(stock.d):
            raise UsageError(
                f"models={word} is for {task(model.d)}, but the stock model {stock.name} is for {task(stock.d)}. "
                "Name the right one: base=…"
            )
        found[model.name] = model
    if controls:
        for model in [m for m in found.values() if m.role == CANDIDATE]:
            control = cost_control(stock, model, size)
            if control is None:
                continue
            twin = next((m for m in found.values() if same(m, control)), None)
            if twin is None:
                found[control.name] = twin = control
            found[model.name] = Model(**{**vars(model), "control": twin.name})
    return list(found.values())


def same(a: Model, b: Model) -> bool:
    """Whether two models are built alike."""
    plain = [json.dumps({k: v for k, v in m.d.items() if k != "yaml_file"}, sort_keys=True) for m in (a, b)]
    return plain[0] == plain[1] and a.grown == b.grown


def task(d: dict[str, Any]) -> str:
    """The task of a model YAML."""
    from ..yamls.base import task_of

    return task_of(d)


def stock_of(words: Sequence[str]) -> str:
    """The stock model that the first word is, or whose name its name begins with."""
    from ..yamls.base import TASKS, stock_files

    def known(name: str) -> bool:
        """With a scale letter, or without where each scale has its file, as YOLOv9's and YOLOv10's."""
        return name in stock_files() or re.sub(r"(\d)[nslmx]", r"\1", name, count=1) in stock_files()

    first = next((w for w in words if "@" not in w), None)
    if first is None:
        return "yolov8n"
    stem = Path(first).stem
    if known(stem):
        return first
    ending = next((e for e in TASKS.values() if e and stem.endswith(e)), "")
    parts = stem.removesuffix(ending).split("-")
    for n in range(len(parts), 0, -1):
        name = "-".join(parts[:n]) + ending
        if known(name):
            return name
    raise UsageError(
        f"models={first}: its name does not begin with a stock model's, so there is nothing to compare it with. "
        "Name that model: base=yolov8n"
    )


def _read(word: str, base: str, role: str, size: Size) -> Model:
    from ultralytics.nn.tasks import guess_model_scale

    d, name = _generated(word, base) if "@" in word else read_yaml(word, guess_model_scale(base) or "")
    parameters, gflops = cost(d, size, word)
    return Model(name, role, d, parameters, gflops, word=word)


def read_yaml(word: str, scale: str = "") -> tuple[dict[str, Any], str]:
    """A model by name or file: its parsed YAML with one scale, and what it is called.

    Args:
        word: The name or file.
        scale: For a name without one.
    """
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    from ..measure.model import quiet

    if word.endswith((".pt", ".pth", ".onnx")):
        raise UsageError(
            f"models={word}: weights are no model YAML; start all models from them with pretrained={word}."
        )
    file = word if word.endswith((".yaml", ".yml")) else f"{word}.yaml"
    try:
        with quiet():
            d = yaml_model_load(file)
        d["head"][-1][2], d["backbone"][0][2]
    except (OSError, KeyError, TypeError, IndexError, yaml.YAMLError) as e:
        raise UsageError(f"models={word}: there is no such model YAML.{suggest(word, known_names())}") from e
    own = str(d.get("scale") or "")
    if own and own not in d.get("scales", own):
        raise UsageError(f"models={word}: it has no scale {own}; it has {', '.join(d['scales'])}.")
    return _scaled(d, own or scale), Path(file).stem


@functools.cache
def known_names() -> tuple[str, ...]:
    """Names of models at scale n: Ultralytics' and ours."""
    from ..yamls import shipped as assets
    from ..yamls.base import stock_files

    stems = [*stock_files(), *(p.stem for p in assets.model_yamls())]
    return tuple(re.sub(r"^(yolov?\d+)", r"\1n", s) for s in stems)


def _generated(word: str, base: str) -> tuple[dict[str, Any], str]:
    """A model by generator word."""
    from ultralytics.nn.tasks import guess_model_scale

    from ..yamls import ModelError, build_yaml

    block, place, *carrier = word.split("@")
    if len(carrier) > 1 or not block or not place:
        raise UsageError(f"models={word}: a generator word is block@place or block@place@carrier, such as hilo@neck.")
    try:
        made = build_yaml(base, block, place.replace("+", ","), None, carrier[0] if carrier else None)
    except (ModelError, ValueError) as e:
        raise UsageError(f"models={word}: {e}") from e
    return _scaled(made.d, guess_model_scale(base) or ""), f"{Path(base).stem}-{word}"


def _scaled(d: dict[str, Any], scale: str) -> dict[str, Any]:
    """A parsed YAML with one scale only, so that no file name decides which."""
    d = {k: copy.deepcopy(v) for k, v in d.items() if k != "yaml_file"}
    if "scales" in d:
        scale = scale if scale in d["scales"] else next(iter(d["scales"]))
        d["scales"], d["scale"] = {scale: list(d["scales"][scale])}, scale
    return d


def build(d: dict[str, Any]) -> nn.Module:
    """The model of a parsed YAML, for its own number of classes."""
    from ultralytics.nn import tasks

    from ..measure.model import quiet

    kind = "RTDETRDetectionModel" if "RTDETR" in str(d["head"][-1][2]) else MODEL_CLASSES.get(task(d), "")
    if not kind:
        raise UsageError(f"models for {task(d)} are not measured; those for {', '.join(MODEL_CLASSES)} are.")
    with quiet():
        return getattr(tasks, kind)(copy.deepcopy(d), verbose=False)


def cost(d: dict[str, Any], size: Size, word: str) -> tuple[int, float]:
    """Parameters and GFLOPs.

    Raises:
        UsageError: The model cannot be built.
    """
    from ..measure.model import cost as count

    try:
        model = build({**d, "nc": size.classes} if size.classes else d)
        parameters, gflops = count(model, trained_size(model, size.imgsz))
    except UsageError:
        raise
    except Exception as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UsageError(f"models={word} does not build: {reason}") from e
    if not gflops:
        raise UsageError(f"models={word}: its GFLOPs cannot be counted at imgsz={size.imgsz}.")
    return parameters, gflops


def trained_size(model: Any, imgsz: int) -> int:
    """Side of the images that Ultralytics trains with: a multiple of the largest stride, and of 32 at least."""
    stride = max(int(model.stride.max()), 32)
    return -(-imgsz // stride) * stride


def cost_control(stock: Model, candidate: Model, size: Size) -> Model | None:
    """The stock model scaled to a candidate's GFLOPs; None where the candidate costs no more than stock."""
    if candidate.gflops <= stock.gflops * (1 + MATCH):
        return None
    options = [m for m in (_deeper(stock, candidate, size), _wider(stock, candidate, size)) if m]
    for model in options:
        if abs(model.gflops / candidate.gflops - 1) <= MATCH:
            return model
    return min(options, key=lambda m: abs(m.gflops - candidate.gflops), default=None)


def _deeper(stock: Model, candidate: Model, size: Size) -> Model | None:
    """Bottlenecks added one by one to the C2f rows, in turn, from the first row on."""
    name = f"{stock.name}+bottlenecks"
    rows = _deepened_rows(stock.d)
    if not rows:
        return None

    def made(n: int) -> Model:
        d = with_bottlenecks(stock.d, n)
        parameters, gflops = cost(d, size, name)
        text = f"{stock.name} with {n} bottleneck{'s' * (n > 1)} more in its {rows_module(stock.d)} rows"
        return Model(f"{stock.name}+{n}", CONTROL, d, parameters, gflops, recipe=text, grown=True)

    one = made(1)
    step = one.gflops - stock.gflops
    n = max(1, round((candidate.gflops - stock.gflops) / step)) if step > 0 else 1
    near = [made(k) for k in {max(1, n - 1), n, n + 1}]
    return min(near, key=lambda m: (abs(m.gflops - candidate.gflops), m.gflops))


def rows_module(d: dict[str, Any]) -> str:
    """What the rows that take bottlenecks are called."""
    rows = [*d["backbone"], *d["head"]]
    return "/".join(dict.fromkeys(rows[i][2] for i in _deepened_rows(d)))


def _deepened_rows(d: dict[str, Any]) -> list[int]:
    """Rows that are a C2f or a subclass of it: more bottlenecks change nothing before they are trained."""
    from ultralytics.nn import tasks
    from ultralytics.nn.modules import C2f

    def takes(name: str) -> bool:
        kind = getattr(tasks, name, None)
        return isinstance(kind, type) and issubclass(kind, C2f)

    return [i for i, row in enumerate([*d["backbone"], *d["head"]]) if isinstance(row[2], str) and takes(row[2])]


def with_bottlenecks(d: dict[str, Any], n: int) -> dict[str, Any]:
    """A parsed YAML with `n` more repeats, spread over its C2f rows; repeats are written out, depth is 1."""
    d = copy.deepcopy(d)
    depth, width, most = next(iter(d["scales"].values()))[:3] if "scales" in d else (d.get("depth_multiple", 1), 1, 0)
    rows = [*d["backbone"], *d["head"]]
    for row in rows:
        row[1] = max(round(row[1] * depth), 1) if row[1] > 1 else row[1]
    if "scales" in d:
        d["scales"] = {next(iter(d["scales"])): [1.0, width, most]}
    else:
        d["depth_multiple"] = 1.0
    order = _deepened_rows(d)
    for i in range(n):
        rows[order[i % len(order)]][1] += 1
    return d


def _wider(stock: Model, candidate: Model, size: Size) -> Model | None:
    """The width multiple that comes closest, found by halving."""
    if "scales" not in stock.d:
        return None
    scale, (depth, width, most) = next((k, v[:3]) for k, v in stock.d["scales"].items())

    def made(factor: float) -> Model:
        d = copy.deepcopy(stock.d)
        d["scales"] = {scale: [depth, factor, most]}
        parameters, gflops = cost(d, size, f"{stock.name} at width {factor}")
        text = f"{stock.name} at width {factor:g} instead of {width:g}"
        return Model(f"{stock.name}-w{factor:g}", CONTROL, d, parameters, gflops, recipe=text)

    low = width
    high = round(width * math.sqrt(candidate.gflops / stock.gflops) * 1.15, 4)
    tried: list[Model] = []
    for factor in [high, *[0.0] * 9]:
        middle = factor or round((low + high) / 2, 4)
        try:
            tried.append(made(middle))
        except UsageError:  # some rows take multiples of 32 channels only
            high = middle
            continue
        if tried[-1].gflops < candidate.gflops:
            low = middle
        else:
            high = middle
    wider = [m for m in tried if m.gflops > stock.gflops]
    return min(wider, key=lambda m: (abs(m.gflops - candidate.gflops), m.parameters), default=None)


def starting_weights(d: dict[str, Any], source: nn.Module) -> nn.Module:
    """A deeper stock model that computes what `source` computes.

    New bottlenecks keep the weights with which they were built; the convolution that reads them gets zeros there, which
    training changes. The other tensors are those of the source.

    Args:
        d: Parsed YAML of the deeper model.
        source: The stock model with its weights.

    Returns:
        The deeper model, for the source's classes.
    """
    import torch

    of_source: Any = source.yaml
    model = build({**d, "nc": of_source["nc"]})
    have, want = source.float().state_dict(), model.state_dict()
    for key, tensor in want.items():
        if key not in have:
            continue
        if have[key].shape == tensor.shape:
            want[key] = have[key].clone()
        elif tensor.dim() == 4 and have[key].shape[0] == tensor.shape[0] and have[key].shape[1] < tensor.shape[1]:
            grown = torch.zeros_like(tensor)
            grown[:, : have[key].shape[1]] = have[key]
            want[key] = grown
    model.load_state_dict(want)
    model.names = source.names
    return model
