"""`yolo-attn compare`: what two or more trained models get right differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .parser import PATH, Argument, Command, names, number, whole
from .show import print_gallery


def run(models: tuple[str, ...], out: Path, **options: Any) -> int:
    """Write the page and print the numbers."""
    from ..comparison.compare import compare

    return print_gallery(compare(models, out=out, **options), out)


COMMAND = Command(
    "compare",
    "Compare trained models: scores by class and size, curves, types of errors, images, costs, and the table of a "
    "paper.",
    run,
    Argument(
        "models",
        "checkpoints to compare; name=a.pt+b.pt is a model with several seeds",
        names,
        required=True,
        positional=True,
    ),
    Argument("data", "the dataset's YAML", required=True),
    Argument("split", "part of the dataset", default="val", choices=("train", "val", "test")),
    Argument("out", "folder of the files", PATH, default=Path("compare")),
    Argument("imgsz", "image size in pixels; by default that of the training", whole(1)),
    Argument("batch", "images in a batch", whole(1), default=16),
    Argument(
        "conf", "least confidence of predictions in the confusion matrix and on the images", number(0), default=0.25
    ),
    Argument("images", "how many images to show, at most", whole(1), default=6),
    Argument("device", "where to run, such as cpu or cuda:0", default="cpu"),
    notes="  yolo-attn compare models=sk=sk0.pt+sk1.pt,stock=stock0.pt+stock1.pt data=data.yaml split=test\n\n"
    "See docs/inside.md.",
)
