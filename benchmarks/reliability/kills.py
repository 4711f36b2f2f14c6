"""SIGKILL at random moments: shapes, convert, yaml out=, training with resume.

Each try starts the command in a forked process and kills it, half of the times after a random share of the time that an
undisturbed run takes, half of the times before a random one of its operations on files. The file or folder must be as
before or complete then, and the next undisturbed run must succeed and leave nothing else behind.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import math
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from reliability.count import Count, Ended, child, contents
from reliability.files import commands_that_write

#: A detector of 10 rows with a block, of which an epoch on eight small images takes a fraction of a second.
TINY_MODEL = {
    "nc": 7,
    "scales": {"n": [1.0, 0.25, 64]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [64, 3, 2]], [-1, 1, "SAM", []]],
    "head": [[[-1], 1, "Detect", ["nc"]]],
}
EPOCHS = 8


def _kill(work: Callable[[], object], folder: Path, whole: Ended, rng: random.Random) -> Ended:
    if rng.random() < 0.5:
        return child(work, folder, kill_after=rng.random() * whole.seconds)
    return child(work, folder, kill_at=rng.randint(1, max(whole.operations, 1)))


def command(name: str, n: int, seed: int, folder: Path) -> Count:
    """Kill one of the commands that write a file or a folder.

    Args:
        name: Key of `commands_that_write`.
        n: Number of kills.
        seed: Of the moments.
        folder: For the files.
    """
    logs = folder / "logs"
    logs.mkdir()
    job = commands_that_write(folder)[name]
    whole = child(job.run, logs)
    assert whole.code == 0, whole.text
    after = contents(job.folder)
    job.prepare()
    before = contents(job.folder)
    count, killed, rng = Count(n), 0, random.Random(seed)
    for i in range(n):
        job.prepare()
        ended = _kill(job.run, logs, whole, rng)
        killed += ended.code == -9
        left = job.visible()
        if left not in (before, after):
            count.lost.append(f"kill {i}: {sorted(left)} is neither as before nor complete")
            continue
        again = child(job.run, logs)
        if again.code or contents(job.folder) != after:
            count.lost.append(f"kill {i}: the next run exits with {again.code}; files {sorted(contents(job.folder))}")
    count.notes = f"{killed} ended by the signal, the others were faster"
    return count


def training(n: int, seed: int, folder: Path) -> Count:
    """Kill trainings at random moments and resume them until they are complete.

    A try survives if the resumed training ends with every epoch exactly once in gates.csv, at least once in
    results.csv, and finite weights. Ultralytics writes the line of results.csv before the checkpoint, so an epoch that
    was interrupted in between stands there twice, with stock models as well; the notes count those.
    """
    from ultralytics import YOLO

    from yolo_attn import shapes

    logs = folder / "logs"
    logs.mkdir()
    model, data = folder / "tiny.yaml", folder / "data.yaml"
    model.write_text(yaml.safe_dump(TINY_MODEL))
    root = shapes.make(folder / "shapes", train=8, val=4, size=32)
    names = dict(enumerate(shapes_names()))
    data.write_text(yaml.safe_dump({"path": str(root), "train": "images/train", "val": "images/val", "names": names}))
    last = folder / "runs" / "t" / "weights" / "last.pt"
    options = {"data": str(data), "epochs": EPOCHS, "imgsz": 32, "batch": 4, "workers": 0, "plots": False}
    options |= {"device": "cpu", "project": str(folder / "runs"), "name": "t", "exist_ok": True, "verbose": False}

    def train() -> None:
        YOLO(model).train(**options)

    def resume() -> None:
        YOLO(last).train(resume=True)

    def train_and_list_imports() -> None:
        train()
        (logs / "modules.txt").write_text("\n".join(sys.modules))

    # What a training imports late is imported here, so that each fork trains from its first moments. A training in this
    # process would start threads, which forks do not survive.
    child(train_and_list_imports, logs)
    for module in (logs / "modules.txt").read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    whole = child(train, logs)
    assert whole.code == 0, whole.text
    count, resumed, twice, rng = Count(n), 0, 0, random.Random(seed)
    complete = list(range(1, EPOCHS + 1))
    for i in range(n):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        _kill(train, logs, whole, rng)
        if not last.exists():
            ended = child(train, logs)
        elif _epoch(last) is None:
            count.lost.append(f"kill {i}: last.pt is damaged")
            continue
        elif _epoch(last) == EPOCHS - 1:  # killed after the last epoch; Ultralytics has nothing to resume
            ended = Ended(0, "", 0)
        else:
            resumed += _epoch(last) != -1
            ended = child(resume if _epoch(last) != -1 else train, logs)
        epochs, gates = (_epochs(folder / "runs" / "t" / name) for name in ("results.csv", "gates.csv"))
        twice += len(epochs) > EPOCHS
        if ended.code or gates != complete or sorted(set(epochs)) != complete or not _finite(last):
            count.lost.append(f"kill {i}: exit {ended.code}, epochs {epochs}, {gates}: {ended.text[-300:]!r}")
    count.notes = (
        f"{resumed} resumed, the others were complete or began again; {twice} times a line of results.csv twice"
    )
    return count


def shapes_names() -> list[str]:
    """Names of the classes of the dataset `shapes`."""
    from yolo_attn.shapes import labels

    return list(labels.NAMES["detect"])


def _epoch(path: Path) -> int | None:
    """The last epoch in a checkpoint: -1 for a finished training, None if it cannot be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=False)["epoch"])
    except Exception:  # whatever reading half a file raises; the caller counts the try as lost
        return None


def _epochs(path: Path) -> list[int]:
    try:
        with open(path, newline="") as f:
            return [int(float(row["epoch"])) for row in csv.DictReader(f)]
    except (OSError, KeyError, ValueError):
        return []


def _finite(path: Path) -> bool:
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    model = checkpoint.get("ema") or checkpoint["model"]
    return all(math.isfinite(v.float().sum()) for v in model.state_dict().values())
