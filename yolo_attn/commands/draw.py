"""`yolo-attn draw`: a model's rows and connections as an editable figure."""

from __future__ import annotations

from pathlib import Path

from .parser import PATH, Argument, Command


def run(model: str, out: Path) -> int:
    """Write the figure."""
    from ..inside.drawing import draw

    draw(model, out)
    print(out)
    return 0


COMMAND = Command(
    "draw",
    "Draw a model: its rows with channels and strides, how they are connected, and which are inserted blocks.",
    run,
    Argument("model", "a checkpoint or a model YAML", required=True, positional=True),
    Argument("out", "the file, .svg, .pdf or .png", PATH, default=Path("model.svg")),
    notes="  yolo-attn draw model=yolov8n-hilo.yaml out=hilo.svg",
)
