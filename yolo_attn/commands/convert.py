"""`yolo-attn convert`: what is in a checkpoint of a paper's authors, and the same as a checkpoint of Ultralytics."""

from __future__ import annotations

from pathlib import Path

from .parser import PATH, Argument, Command


def run(weights: Path, out: Path | None) -> int:
    """Print what is in a checkpoint, and write it as Ultralytics loads it.

    Args:
        weights: The authors' file.
        out: The file to write, if one is to be written.

    Returns:
        0.

    Raises:
        UsageError: The file holds no weights that are known here, or `out` cannot be used.
        OSError: A file cannot be read or written.
    """
    from ..weights import checkpoints

    conversion = checkpoints.read(weights)
    print(conversion)
    if out is not None:
        conversion.save(out)
    model = conversion.models[0] if conversion.models else "<your model>.yaml"
    state = "usable" if out is None else f"wrote {out}"
    print(f"{state}: yolo train model={model} pretrained={out or weights} data=...")
    return 0


COMMAND = Command(
    "convert",
    "Recognise a checkpoint of a paper's authors, and write its backbone as a checkpoint of Ultralytics.",
    run,
    Argument("weights", "the authors' file, such as smt_tiny.pth", PATH, required=True),
    Argument("out", "the file to write, such as smt_tiny-yolo.pt; without it nothing is written", PATH),
    notes="Nothing in the file is executed. `pretrained=smt_tiny.pth` and `.load('smt_tiny.pth')` read it directly.",
)
