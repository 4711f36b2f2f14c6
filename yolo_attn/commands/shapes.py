"""`yolo-attn shapes`: generate the built-in dataset of a task."""

from __future__ import annotations

from pathlib import Path

from .. import shapes
from .parser import PATH, Argument, Command, whole


def run(task: str, dir: Path | None, train: int, val: int, size: int | None, seed: int) -> int:
    """Generate the dataset; print its folder and the command that trains on it."""
    default = shapes.default_root(task)
    root = shapes.make(dir or default, task, train=train, val=val, size=size, seed=seed)
    at_default = root == default.resolve()
    if task == "classify":
        print(f"{root}\nyolo classify train data={shapes.FOLDERS[task] if at_default else root}")
    else:
        note = "" if at_default else f"  # in a copy of this YAML with path: {root}"
        print(f"{root}\nyolo {task} train data={shapes.FOLDERS[task]}.yaml{note}")
    return 0


COMMAND = Command(
    "shapes",
    "Generate the built-in dataset; files that are missing or damaged are written again.",
    run,
    Argument("task", "which labels to write", default="detect", choices=tuple(shapes.FOLDERS)),
    Argument("dir", "folder of the dataset; by default in Ultralytics' datasets_dir", PATH),
    Argument("train", "number of training images", whole(1), 400),
    Argument("val", "number of validation images", whole(1), 100),
    Argument("size", "longer side in pixels, 32 to 2048; by default 160, for classify 96", whole(32)),
    Argument("seed", "another seed gives other images", whole(), 0),
    notes="  yolo-attn shapes task=segment dir=/data/shapes-big train=5000 val=500 size=640 seed=1",
)
