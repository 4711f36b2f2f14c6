"""The command line of `bench detect`, checked before anything is trained."""

from __future__ import annotations

import hashlib
import inspect
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..commands.cli import UsageError
from ..measure.conditions import at_least
from ..registry import suggest
from . import executors
from .data import read_dataset, with_place, with_samples
from .models import Size, read_models, read_yaml, stock_of, task
from .plan import DETECT, Dataset, Model, Plan, digest
from .report import check_installed
from .statistics import METRICS, metrics_of
from .work import environment

OWN = (
    "models",
    "data",
    "seeds",
    "base",
    "control",
    "metric",
    "out",
    "executor",
    "jobs",
    "device",
    "threads",
    "keep",
    "costs",
    "dry",
)
#: Arguments of Ultralytics that the bench sets itself or that would let cells differ unseen.
TAKEN = {
    "model": "name models with models=",
    "seed": "seeds=5 runs seeds 0 to 4, seeds=3,7 runs those",
    "project": "results go to out=",
    "name": "results go to out=",
    "exist_ok": "results go to out=",
    "save_dir": "results go to out=",
    "resume": "the same command goes on where it ended",
    "mode": "every cell is a training and a validation",
    "task": "the models' heads tell the task",
    "cfg": "give the arguments themselves, so that the results tell them",
    "val": "the best epoch is found by validation",
    "save": "the best weights are validated; keep=1 keeps them",
    "time": "a limit in time gives every model another number of epochs; use epochs=",
    "verbose": "what a cell prints is in its log.txt",
    "plots": "the report has the pictures",
    "split": "scores are those of the val split",
    "source": "that is for prediction",
    "format": "that is for export",
}
#: Where they differ from Ultralytics' defaults. Workers are processes, and small machines have none to spare.
DEFAULTS: dict[str, Any] = {"epochs": 30, "imgsz": 640, "batch": 16, "workers": 0, "plots": False}
USAGE = """usage: yolo-attn bench detect models=MODEL,... data=DATA,... [key=value ...]

  models    names (yolov8n-sam), YAML files, or generator words: hilo@neck, sam@P4+backbone.P5, sk@both@csp
  data      datasets as for `yolo train`, several with commas
  seeds     how many (5 means 0 to 4), or which, with commas; by default 5
  base      the stock model; by default the one that the first model's name begins with
  control   0 leaves the cost-matched controls out
  metric    what verdicts rest on: mAP50-95 (top1 for classification), mAP50, precision, recall, ...
  executor  local, ray or submitit; by default local
  jobs      cells at a time; by default one for each GPU, or one
  device    cpu, or numbers of GPUs; by default all of them
  threads   CPU threads of a cell; by default the cores divided by jobs
            executor=ray takes ray_address; executor=submitit takes slurm_partition, timeout_min, mem_gb and
            submitit_cluster (slurm, or local to try it out); both take device=cpu for cells without a GPU
  out       results folder; by default runs/bench/detect-DATA-...
  keep      1 keeps the trained weights
  costs     0 leaves the measurement of latency out
  dry       1 prints the matrix, its size and an estimate of time
  every other word is an argument of `yolo train`, the same for all cells: epochs=30 imgsz=320 pretrained=yolov8n.pt"""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        plan: The matrix.
        folder: Results folder.
        executor: Name of the executor.
        resources: Words for the executor.
        start: Path of the starting weights; empty for none.
        keep: Keep trained weights.
        costs: Measure latency for the report.
        dry: Only say what would be done.
    """

    plan: Plan
    folder: Path
    executor: str = "local"
    resources: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    keep: bool = False
    costs: bool = True
    dry: bool = False


def split_words(words: Sequence[str], own: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The bench's own words, and Ultralytics' arguments with the types that Ultralytics gives them.

    Raises:
        UsageError: A word is neither, or its value is none that Ultralytics takes.
    """
    from ultralytics.cfg import DEFAULT_CFG_DICT, check_cfg
    from ultralytics.utils.checks import check_yaml  # noqa: F401  (Ultralytics' own parser needs its package loaded)

    given: dict[str, str] = {}
    theirs: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = key.lstrip("-")
        if not sign or not value:
            known = [*own, *DEFAULT_CFG_DICT]
            wrong = f"{key!r} needs a value: {key}=…" if key in known else f"{word!r} is no key=value."
            raise UsageError(f"{wrong}{'' if sign else suggest(key, known)}")
        if key in given or key in theirs:
            raise UsageError(f"{key!r} is given twice.")
        if key in TAKEN:
            raise UsageError(f"{key}= is not for this bench: {TAKEN[key]}.")
        if key in own:
            given[key] = value
        elif key in DEFAULT_CFG_DICT:
            theirs[key] = _typed(value)
        else:
            raise UsageError(f"no argument {key!r}.{suggest(key, [*own, *DEFAULT_CFG_DICT])}")
    try:
        check_cfg(dict(theirs))
    except (TypeError, ValueError) as e:
        raise UsageError(" ".join(str(e).split("\n")[0].replace("'", "").split())) from e
    return given, theirs


def _typed(value: str) -> Any:
    """A word's value as Ultralytics' command line takes it."""
    import ast

    words = {"none": None, "true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _plain(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by which a training differs from the default one, each in one form, so that cells are recognised."""
    from ultralytics.cfg import DEFAULT_CFG_DICT

    whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in theirs.items()}
    return {k: v for k, v in whole.items() if k in (*DEFAULTS, "pretrained") or v != DEFAULT_CFG_DICT[k]}


def _check_freeze(freeze: Any, models: Sequence[Model]) -> None:
    """Whether the rows that are frozen are the same ones in all models.

    Raises:
        UsageError: A model has other rows before the last of them.
    """
    numbers = [freeze - 1] if isinstance(freeze, int) else freeze if isinstance(freeze, list) else []
    end = max((n for n in numbers if isinstance(n, int)), default=-1) + 1
    rows = {m.name: [row[2] for row in (*m.d["backbone"], *m.d["head"])] for m in models}
    stock = rows[models[0].name]
    for name, own in rows.items():
        if len(own) != len(stock) and own[:end] != stock[:end]:
            raise UsageError(f"freeze={freeze} counts rows, and {name} has others: it would freeze other layers there.")


def _check_blocks(models: Sequence[Model]) -> dict[str, str]:
    """Digests of the modules of blocks that are not ours, whose code no version tells.

    Raises:
        UsageError: A cell's process would not know such a block.
    """
    from .. import registry

    found: dict[str, registry.Block] = {}
    for model in models:
        for row in (*model.d["backbone"], *model.d["head"]):
            block = registry.get(row[2]) if isinstance(row[2], str) else None
            if block and (block.operator or block.cls).__module__.partition(".")[0] != __name__.partition(".")[0]:
                found[block.name] = block
    if not found:
        return {}
    code = "from yolo_attn.registry import list_blocks; print(*(b.name for b in list_blocks()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    modules = {}
    for block in found.values():
        module = (block.operator or block.cls).__module__
        if block.name not in done.stdout.split():
            raise UsageError(
                f"the block {block.name} of {module} is known to this process only, and each cell is one of its own. "
                "An installed package that names its module in the entry-point group yolo_attn.blocks is known to all."
            )
        modules[module] = hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()[:12]
    return modules


def switch(given: Mapping[str, str], key: str, default: bool) -> bool:
    """A word that is 0 or 1.

    Raises:
        UsageError: It is something else.
    """
    word = given.get(key, str(int(default)))
    if word not in ("0", "1"):
        raise UsageError(f"{key}={word} is neither 0 nor 1.")
    return word == "1"


def read_seeds(word: str) -> tuple[int, ...]:
    """Seeds 0 to N - 1, or the ones named.

    Raises:
        UsageError: They are no such numbers.
    """
    parts = [p for p in word.split(",") if p]
    if not parts or not all(p.isascii() and p.isdigit() for p in parts):
        raise UsageError(f"seeds={word} must be how many seeds, such as 5, or which, such as 0,7.")
    count = len(parts) if "," in word else int(word)
    if count > 1000:
        raise UsageError(f"seeds={word} are {count} seeds, over 1000; a list is written with commas: seeds=0,{word}")
    seeds = tuple(map(int, parts)) if "," in word else tuple(range(count))
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds={word} names a seed twice.")
    return seeds


def read_request(words: Sequence[str]) -> Request:
    """Check the command line of `bench detect` and work out its matrix.

    Raises:
        UsageError: Something is wrong with it; nothing was trained, and no results were written.
    """
    given, theirs = split_words(words, (*OWN, *executors.words()))
    for key in ("models", "data"):
        if key not in given:
            raise UsageError(f"{key}=… is missing.\n{USAGE}")
    return assemble(DETECT, words, given, theirs, listed(given["models"]), given.get("base"))


def assemble(
    kind: str,
    words: Sequence[str],
    given: Mapping[str, str],
    theirs: Mapping[str, Any],
    names: Sequence[str],
    base: str | None,
    control: bool = True,
) -> Request:
    """Work out a matrix from words that are known by name.

    Args:
        kind: The bench: detect or places.
        words: The command line, to be told in the report.
        given: The bench's own words.
        theirs: Arguments of Ultralytics.
        names: Words for models.
        base: The stock model; None to find it.
        control: Add cost controls where the words do not say.

    Raises:
        UsageError: Something is wrong with it; nothing was trained, and no results were written.
    """
    check_installed()
    arguments = {**DEFAULTS, **_plain(theirs)}
    for key in ("epochs", "imgsz", "batch"):
        if isinstance(arguments[key], bool) or not isinstance(arguments[key], int) or arguments[key] < 1:
            why = "; one that fits the memory would be another for each model" if key == "batch" else ""
            raise UsageError(f"{key}={arguments[key]} must be a whole number of at least 1{why}.")
    name = given.get("executor", "local")
    executors.check(name)
    resources: dict[str, Any] = {
        "jobs": at_least(given, "jobs", None),
        "threads": at_least(given, "threads", None),
        "device": read_devices(given.get("device")),
        **executors.read_words(name, given),
    }
    seeds = read_seeds(given.get("seeds", "5"))
    start, start_path = read_start(arguments.pop("pretrained", None))
    base = base or stock_of(names)
    what = task(read_yaml(base)[0])
    metric = given.get("metric", metrics_of(what)[0])
    if metric not in metrics_of(what):
        known = ", ".join(metrics_of(what))
        raise UsageError(f"metric={metric}: no such metric for {what}.{suggest(metric, METRICS)} There are: {known}.")
    folder = Path(given["out"] if "out" in given else _folder(kind, given["data"], arguments, start))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"out={folder}: this is no folder.")
    dry, keep, costs = switch(given, "dry", False), switch(given, "keep", False), switch(given, "costs", True)
    read: list[tuple[Dataset, list[str]]] = []
    for word in listed(given["data"]):
        read.append(read_dataset(word, what, [d.name for d, _ in read]))
    datasets = [d for d, _ in read]
    # Costs are those of the models that are trained, which have the dataset's classes.
    size = Size(int(arguments["imgsz"]), len(datasets[0].names))
    models = read_models(names, base, size, switch(given, "control", control))
    _check_freeze(arguments.get("freeze"), models)
    if not dry:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cells").mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # it may be somebody else's
            datasets = [with_place(with_samples(d, files, folder), folder) for d, files in read]
        except OSError as e:
            raise UsageError(f"out={folder}: {e.strerror}.") from e
    plan = Plan(
        command=f"yolo-attn bench {kind} {shlex.join(words)}",
        metric=metric,
        arguments=arguments,
        start=start,
        seeds=seeds,
        models=tuple(models),
        datasets=tuple(datasets),
        versions={**versions(), **_check_blocks(models)},
        kind=kind,
    ).with_cells()
    return Request(plan, folder, name, resources, start_path, keep, costs, dry)


def listed(value: str) -> list[str]:
    """Words between commas."""
    return [word for word in value.split(",") if word]


def versions() -> dict[str, str]:
    """Packages that decide what a training gives."""
    import torch
    import ultralytics

    from .. import __version__

    return {"yolo_attn": __version__, "ultralytics": ultralytics.__version__, "torch": torch.__version__}


def read_devices(word: str | None) -> str | None:
    """cpu, or numbers of GPUs.

    Raises:
        UsageError: It is neither.
    """
    if word is None or word == "cpu" or re.fullmatch(r"\d+(,\d+)*", word):
        return word
    raise UsageError(f"device={word} must be cpu or numbers of GPUs, such as 0 or 0,1; every cell runs on one of them.")


def read_start(word: Any) -> tuple[dict[str, str], str]:
    """Name, content and path of the starting weights.

    Raises:
        UsageError: There is no such file.
    """
    if word in (None, False):
        return {}, ""
    if word is True:
        raise UsageError("pretrained=True does not say from which weights; name them: pretrained=yolov8n.pt.")
    from ultralytics import YOLO
    from ultralytics.utils.downloads import attempt_download_asset

    from ..measure.model import quiet

    path = Path(str(word))
    if not path.is_file():
        try:
            with quiet():
                path = Path(attempt_download_asset(str(word)))
        except Exception:
            path = Path(str(word))
    if not path.is_file():
        raise UsageError(f"pretrained={word}: there is no such file, and it could not be fetched.")
    if path.suffix != ".pt":
        raise UsageError(f"pretrained={word}: starting weights are a .pt file of Ultralytics.")
    try:
        with quiet():
            YOLO(str(path))
    except Exception as e:  # whatever reading a foreign file raises
        reason = (str(e).strip().splitlines() or [""])[0]
        raise UsageError(f"pretrained={word}: these are no weights that load: {type(e).__name__}: {reason}") from e
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": path.name, "sha256": content}, str(path.resolve())


def _folder(kind: str, data: str, arguments: Mapping[str, Any], start: Mapping[str, str]) -> str:
    """A results folder that the same training arguments lead to again, whatever the models and the seeds."""
    first = Path(listed(data)[0])
    stem = first.resolve().parent.name if first.stem in ("data", "dataset") else first.stem
    return f"runs/bench/{kind}-{stem}-{digest([data, arguments, dict(start)])[:8]}"
