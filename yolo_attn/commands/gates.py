"""`yolo-attn gates`: how much of the signal the blocks of a trained model contribute."""

from __future__ import annotations

from ..inside.gates import IMAGES, gates
from ..inside.shares import CLOSED
from .parser import Argument, Command, whole


def run(model: str, source: str | None, images: int, imgsz: int | None, device: str | None) -> int:
    """Print the table; 0 if the blocks are open or the model has no gate, 1 if they are closed."""
    found = gates(model, source, images, imgsz, device)
    print(found)
    return 1 if found.closed else 0


COMMAND = Command(
    "gates",
    "Measure how much of the signal each inserted block of a model contributes.",
    run,
    Argument("model", "a checkpoint, such as best.pt", required=True, positional=True),
    Argument("source", "images: file, folder or pattern; by default the validation images of the model's dataset"),
    Argument("images", "how many images to use, at most", whole(1), default=IMAGES),
    Argument("imgsz", "image size in pixels; by default that of the training", whole(1)),
    Argument("device", "where to run, such as cpu or cuda:0; by default the CPU"),
    notes=f"Exit code 1: the blocks are closed, that is, they contribute less than {CLOSED:.0%} on average. "
    "See docs/fine-tuning.md.",
)
