"""`yolo-attn draw`: a model's rows and connections, or the inside of one block, as an editable figure."""

from __future__ import annotations

from pathlib import Path

from .parser import PATH, Argument, Command, whole


def run(model: str, out: Path, block: str | None, row: int | None) -> int:
    """Write the figure."""
    from ..inside.drawing import draw

    draw(model, out, block=block, row=row)
    print(out)
    return 0


COMMAND = Command(
    "draw",
    "Draw a model: its rows with channels and strides, how they are connected, and which are inserted blocks.",
    run,
    Argument("model", "a checkpoint or a model YAML", required=True, positional=True),
    Argument("out", "the file, .svg, .pdf or .png", PATH, default=Path("model.svg")),
    Argument("block", "draw the inside of this block, such as HiLo: modules, operations and shapes at 640 pixels"),
    Argument("row", "draw the inside of this row, or of the block= in it", whole()),
    notes="  yolo-attn draw model=yolov8n-hilo.yaml out=hilo.svg\n"
    "  yolo-attn draw model=yolov8n-hilo.yaml block=HiLo out=operator.svg",
)
