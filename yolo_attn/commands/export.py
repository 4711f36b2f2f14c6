"""`yolo-attn export`: export a model through Ultralytics and compare the file's outputs with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..measure.runtimes import PACKAGES, is_installed
from .parser import SWITCH, Argument, Command, UsageError, whole


def run(model: str, format: str, imgsz: int | None, dynamic: bool, opset: int | None, simplify: bool) -> int:
    """Export, run the file, and print the largest difference; 1 if it is too large."""
    if not is_installed(format):
        raise UsageError(f"format={format} needs {PACKAGES[format]}: pip install {PACKAGES[format]}.")
    from ultralytics import YOLO

    from ..measure import exported

    if not model.endswith((".pt", ".yaml", ".yml")):
        raise UsageError(f"model={model} must be a checkpoint (.pt) or a model YAML.")
    try:
        yolo: Any = YOLO(model)
    except FileNotFoundError:
        raise UsageError(f"model={model}: there is no such file.") from None
    stride = int(yolo.model.stride.max()) if hasattr(yolo.model, "stride") else 32
    side = imgsz or int(yolo.overrides.get("imgsz", 640))
    if side % stride:
        raise UsageError(f"imgsz={side} must be a multiple of {stride}.")
    options = {"simplify": simplify, **({"opset": opset} if opset else {})} if format == "onnx" else {}
    with exported.quiet_export():
        file = Path(yolo.export(format=format, imgsz=side, dynamic=dynamic, device="cpu", **options))
    print(file)
    equal = True
    for size in [(1, side, side), (2, side + stride, side)] if dynamic else [(1, side, side)]:
        images = exported.random_images(*size)
        gap = exported.compare(yolo.model.float().cpu(), format, file, images)
        equal &= gap <= exported.TOLERANCE
        shape = "x".join(map(str, images.shape))
        print(f"{shape}: largest difference from PyTorch {gap:.1e} of the largest value")
    print(
        "equal"
        if equal
        else f"not equal: more than {exported.TOLERANCE:g}; docs/export.md lists what is exported exactly"
    )
    return 0 if equal else 1


COMMAND = Command(
    "export",
    "Export a model through Ultralytics, run the file by itself, and compare its outputs with PyTorch's.",
    run,
    Argument("model", "a checkpoint (best.pt) or a model YAML", required=True, positional=True),
    Argument("format", "format of the file", default="onnx", choices=tuple(PACKAGES)),
    Argument("imgsz", "height and width of the images; by default those of the training", whole(32)),
    Argument("dynamic", "1 exports for any batch and image size, and compares two sizes", SWITCH, default=False),
    Argument("opset", "ONNX opset; by default Ultralytics' choice", whole(7)),
    Argument("simplify", "0 skips the simplification of ONNX graphs", SWITCH, default=True),
    notes="  yolo-attn export model=runs/detect/train/weights/best.pt format=onnx dynamic=1\n\n"
    "Other formats and options: `yolo export`, which needs nothing of this command.",
)
