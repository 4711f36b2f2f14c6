"""`yolo-attn show`: pictures and numbers of what the blocks of a trained model do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .parser import PATH, Argument, Command, names, number, whole

#: The names of `inside.analyses.ANALYSES`, here so that the help text needs no PyTorch.
WHAT = ("gates", "reach", "spectrum", "rates", "kernels", "modulator", "points", "cam", "maps")


def run(model: tuple[str, ...], out: Path, **options: Any) -> int:
    """Write the gallery and print the numbers."""
    from ..inside.show import show

    return print_gallery(show(model, out=out, **options), out)


def print_gallery(found: Any, out: Path) -> int:
    """Print the headlines of a gallery, what it leaves out, and its path; returns the exit code.

    Args:
        found: Has `headlines` and `skipped`, by name.
        out: Folder of the files.
    """
    for name, headline in found.headlines.items():
        print(f"{name}: {headline}")
    for name, why in found.skipped.items():
        print(f"{name}: not shown: {why}")
    print(out / "index.html")
    return 0


COMMAND = Command(
    "show",
    "Show what the blocks of a trained model do: figures, the numbers behind them, and a gallery of all.",
    run,
    Argument(
        "model", "a checkpoint, such as best.pt, or several runs of one model", names, required=True, positional=True
    ),
    Argument("source", "images or video: file, folder or pattern; by default the model's validation images"),
    Argument("what", "analyses; by default all that apply to the model", names, choices=WHAT),
    Argument("against", "a checkpoint to compare with, such as yolov8n.pt"),
    Argument("out", "folder of the files", PATH, default=Path("show")),
    Argument("weights", "checkpoint for a model= that is a YAML"),
    Argument("images", "how many images to use, at most", whole(1), default=4),
    Argument("imgsz", "image size in pixels; by default that of the training", whole(1)),
    Argument("conf", "least score of a detection", number(0), default=0.25),
    Argument("object", "which detection of an image cam and kernels look at; 0 is the best", whole(0), default=0),
    Argument("device", "where to run, such as cpu or cuda:0; by default the CPU"),
    notes="  yolo-attn show model=runs/detect/train/weights/best.pt source=images/ against=yolov8n.pt\n\n"
    "See docs/inside.md.",
)
