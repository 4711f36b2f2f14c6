"""`yolo-attn card`: a README.md for sharing a trained checkpoint."""

from __future__ import annotations

from pathlib import Path

from ..atomic import write_text
from ..errors import UsageError
from .parser import PATH, Argument, Command


def run(run: Path, out: Path | None) -> int:
    """Write the card."""
    from ..card import card

    text = card(run)
    file = out or (run if run.is_dir() else run.parent) / "README.md"
    if file.exists() and out is None:
        raise UsageError(f"{file} exists already; name another file with out=, or the same to replace it.")
    write_text(file, text)
    todo = text.count("TODO")
    print(f"wrote {file}; fill in the {todo} places marked TODO")
    return 0


COMMAND = Command(
    "card",
    "Write a model card for a training: architecture, data, metrics, blocks with citations, how to load it, licence.",
    run,
    Argument(
        "run",
        "folder of the training, such as runs/detect/train, or a checkpoint",
        PATH,
        required=True,
        positional=True,
    ),
    Argument("out", "the file; by default README.md in the folder, if there is none", PATH),
    notes="  yolo-attn card run=runs/detect/train",
)
