"""What a benchmark's arguments mean: checks that need models, data or Ultralytics, and the plan that results.

`yolo_attn.commands.bench_detect` declares the arguments.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..registry import suggest
from ..yamls.base import task_of
from ..yamls.learning_rate import VARIABLE
from .controls import with_controls
from .data import Split, name_of, read_dataset
from .models import Size, blocks_of, read_models, read_yaml, stock_of, with_costs
from .plan import DETECT, Dataset, Model, Plan, digest, versions
from .power import AUTO, with_seeds
from .report import check_installed
from .statistics import METRICS, TEST, metrics_of
from .store import Store
from .work import environment

#: Arguments of Ultralytics that the benchmark sets itself, or that would silently make cells differ -> what to do.
REFUSED = {
    **dict.fromkeys(("project", "name", "exist_ok", "save_dir"), "results go to out="),
    "model": "name models with models=",
    "seed": "seeds=5 runs seeds 0 to 4, seeds=3,7 runs those",
    "resume": "the same command resumes",
    "mode": "every run is a training and a validation",
    "task": "the heads of the models determine the task",
    "cfg": "give the arguments themselves, so that the results contain them",
    "val": "the best epoch is found by validation",
    "save": "the best weights are validated; keep=1 keeps them",
    "time": "a time limit gives every model another number of epochs; use epochs=",
    "verbose": "the output of a run is in its log.txt",
    "plots": "the report has the plots",
    "split": "scores are those of the val split; test=1 adds those of the test split",
    "source": "that is for prediction",
    "format": "that is for export",
}
#: Where they differ from Ultralytics' defaults. Workers are processes, and small machines have none to spare.
DEFAULTS: dict[str, Any] = {"epochs": 30, "imgsz": 640, "batch": 16, "workers": 0, "plots": False}
#: Seeds of a benchmark that names none.
SEEDS = 5


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    plan: Plan  # the table; its datasets have no images for the report yet
    folder: Path  # of the results
    splits: tuple[Split, ...]  # the val splits of the datasets
    values: Mapping[str, Any]  # name -> value of the declared arguments


def read_seeds(text: str) -> tuple[int, ...] | str:
    """Seeds 0 to N - 1, the ones named, or auto; ValueError for something else."""
    if text == AUTO:
        return AUTO
    parts = [p for p in text.split(",") if p]
    if not parts or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError("must be how many seeds, such as 5, which, such as 0,7, or auto")
    count = len(parts) if "," in text else int(text)
    if count > 1000:
        raise ValueError(f"means {count} seeds, over 1000; a list has commas: seeds=0,{text}")
    seeds = tuple(map(int, parts)) if "," in text else tuple(range(count))
    if len(set(seeds)) < len(seeds):
        raise ValueError("names a seed twice")
    return seeds


def read_request(values: Mapping[str, Any], command: str, kind: str = DETECT, names: Sequence[str] = ()) -> Request:
    """Check the arguments of `bench detect` or `bench places` and work out the table.

    Args:
        values: Name -> value of the declared arguments; `rest` has those for Ultralytics.
        command: As typed.
        kind: detect or places.
        names: The models; those of `models=` by default.

    Raises:
        UsageError: Something is wrong; nothing has been written.
    """
    check_installed()
    if os.environ.get(VARIABLE):
        raise UsageError(
            f"{VARIABLE}={os.environ[VARIABLE]} is set. Runs take the factor from their model's YAML, so that the same "
            "command gives the same models: unset it, and write it with `yolo-attn yaml block_lr=…` where needed."
        )
    arguments = _training(values["rest"])
    _check_resources(values)
    start, start_path = read_start(arguments.pop("pretrained", None))
    names = names or values["models"]
    base = values["base"] or stock_of(names)
    what = task_of(read_yaml(base)[0])
    metric = values["metric"] or metrics_of(what)[0]
    if metric.removeprefix(TEST) not in metrics_of(what) or (metric.startswith(TEST) and not values["test"]):
        known = ", ".join(metrics_of(what)) + f"; with test=1 also '{TEST}{metrics_of(what)[0]}' and so on"
        raise UsageError(f"metric={metric}: no such metric for {what}.{suggest(metric, METRICS)} Choices: {known}.")
    # The same folder for the same data, training arguments and weights, whatever the models and seeds.
    for name in ("resplit", "test"):
        if values[name] and what == "classify":
            raise UsageError(f"{name}=1 is for datasets with label files; those for classification are folders.")
    name = f"{kind}-{name_of(values['data'][0])}-{digest([','.join(values['data']), arguments, start])[:8]}"
    folder = Path(values["out"] or Path("runs", "bench", name))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"out={folder}: this is no folder.")
    read: list[tuple[Dataset, Split]] = []
    for source in values["data"]:
        read.append(read_dataset(source, what, arguments, [d.name for d, _ in read], values["test"]))
    datasets = tuple(d for d, _ in read)
    size = Size(arguments["imgsz"], len(datasets[0].names))
    models = read_models(names, base, size)
    models = with_costs(with_controls(models, size) if values["control"] else models, datasets, size)
    _check_freeze(arguments.get("freeze"), models)
    plan = Plan(
        command=command,
        metric=metric,
        arguments=arguments,
        start=start,
        seeds=tuple(range(SEEDS)) if values["seeds"] in (None, AUTO) else values["seeds"],
        models=tuple(models),
        datasets=datasets,
        versions={**versions(), **_block_modules(models)},
        resplit=values["resplit"],
        test=values["test"],
        kind=kind,
        local={"start": start_path, "keep": values["keep"]},
    ).with_cells()
    plan = with_seeds(plan, Store(folder), values) if values["seeds"] == AUTO else plan
    return Request(plan, folder, tuple(s for _, s in read), values)


def _training(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by which a training differs from a default one, each in one form, so that cells are recognised."""
    from ultralytics.cfg import DEFAULT_CFG_DICT, check_cfg

    try:
        check_cfg(dict(rest))
    except (TypeError, ValueError) as e:
        raise UsageError(" ".join(str(e).split("\n")[0].replace("'", "").split())) from e
    whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in rest.items()}
    changed = {k: v for k, v in whole.items() if k in (*DEFAULTS, "pretrained") or v != DEFAULT_CFG_DICT[k]}
    arguments = {**DEFAULTS, **changed}
    for key in ("epochs", "imgsz", "batch"):
        if isinstance(arguments[key], bool) or not isinstance(arguments[key], int) or arguments[key] < 1:
            why = "; a batch that fits the memory would differ between models" if key == "batch" else ""
            raise UsageError(f"{key}={arguments[key]} must be a whole number of at least 1{why}.")
    return arguments


def _check_resources(values: Mapping[str, Any]) -> None:
    """Whether the arguments for the executor fit it, and this machine."""
    device = values["device"]
    if values["executor"] == "ray":
        if device not in (None, "cpu"):
            raise UsageError(f"device={device}: Ray gives each run its GPU; device=cpu is for runs without.")
        if importlib.util.find_spec("ray") is None:
            raise UsageError("executor=ray needs ray: pip install 'yolo-attn[ray]'.")
    elif values["ray_address"]:
        raise UsageError("ray_address= requires executor=ray.")
    check_device(device)


def check_device(device: str | None) -> None:
    """Whether `device=` is cpu or numbers of GPUs that this machine has; UsageError where it is not."""
    import torch

    if device in (None, "cpu"):
        return
    if not re.fullmatch(r"\d+(,\d+)*", device):
        raise UsageError(
            f"device={device} must be cpu or numbers of GPUs, such as 0 or 0,1; each run uses one of them."
        )
    count = torch.cuda.device_count()
    if any(int(d) >= count for d in device.split(",")):
        counted = ", counted from 0" if count else "; device=cpu works everywhere"
        raise UsageError(f"device={device}: PyTorch finds {count or 'no'} GPU{'s' * (count != 1)} here{counted}.")


def _check_freeze(freeze: Any, models: Sequence[Model]) -> None:
    """Whether the frozen rows are the same ones in all models."""
    numbers = [freeze - 1] if isinstance(freeze, int) else freeze if isinstance(freeze, list) else []
    end = max((n for n in numbers if isinstance(n, int)), default=-1) + 1
    rows = {m.name: [row[2] for row in (*m.d["backbone"], *m.d["head"])] for m in models}
    stock = rows[models[0].name]
    for name, own in rows.items():
        if len(own) != len(stock) and own[:end] != stock[:end]:
            raise UsageError(f"freeze={freeze} counts rows, and {name} has others: it would freeze other layers there.")


def _block_modules(models: Sequence[Model]) -> dict[str, str]:
    """Versions of the packages that blocks need; digests of the modules of blocks that no version identifies."""
    blocks = [b for m in models for b in blocks_of(m.d)]
    packages = {b.requires: metadata.version(b.requires) for b in blocks if b.requires}
    found = {b.name: (b.operator or b.cls).__module__ for b in blocks}
    found = {name: module for name, module in found.items() if not module.startswith("yolo_attn.")}
    if not found:
        return packages
    code = "from yolo_attn.registry import list_blocks; print(*(b.name for b in list_blocks()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    for name in found.keys() - set(done.stdout.split()):
        raise UsageError(
            f"the block {name} of {found[name]} is known to this process only, and each run has a process of its own. "
            "Install a package that names its module in the entry-point group yolo_attn.blocks."
        )
    digests = {m: hashlib.sha256(inspect.getsource(sys.modules[m]).encode()).hexdigest()[:12] for m in found.values()}
    return packages | digests


def read_start(weights: Any) -> tuple[dict[str, str], str]:
    """Name and SHA-256 of the starting weights, and their path; UsageError where they do not load."""
    if weights in (None, False):
        return {}, ""
    if weights is True:
        raise UsageError("pretrained=True does not name the weights; name them: pretrained=yolov8n.pt.")
    from ultralytics import YOLO

    from ..measure.model import quiet

    if Path(str(weights)).suffix != ".pt":
        raise UsageError(f"pretrained={weights}: starting weights are a .pt file of Ultralytics.")
    try:
        with quiet():  # downloads a file of Ultralytics that is not here
            path = Path(str(YOLO(str(weights)).ckpt_path))
        content = path.read_bytes()
    except Exception as e:  # whatever reading a foreign file raises
        reason = str(e).strip().partition("\n")[0]
        raise UsageError(f"pretrained={weights}: these weights do not load: {type(e).__name__}: {reason}") from e
    return {"name": path.name, "sha256": hashlib.sha256(content).hexdigest()}, str(path.resolve())
