"""`yolo-attn bench models`: time and memory of whole models; writes a CSV."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from .bench_arguments import CONDITIONS
from .parser import SWITCH, Argument, Command, UsageError, names, whole


def run(
    models: Sequence[str] | None,
    imgsz: int,
    batch: int,
    images: int,
    dtype: str,
    device: str,
    threads: int,
    channels_last: bool,
    compile: bool,
    repeats: int | None,
    out: Path,
    onnx: bool | None,
) -> int:
    """Measure, print, and write the CSV."""
    from ..measure import whole_models
    from ..measure.conditions import Conditions
    from ..measure.table import write_csv

    conditions = Conditions.of(device, dtype, threads, channels_last, compile)
    if imgsz % 32:
        raise UsageError(f"imgsz={imgsz} must be a multiple of 32.")
    missing = [m for m in ("onnx", "onnxruntime") if importlib.util.find_spec(m) is None]
    if onnx and missing:
        raise UsageError(f"onnx=1 needs {' and '.join(missing)}: pip install 'yolo-attn[export]'.")
    onnx = not missing and device == "cpu" if onnx is None else onnx
    files = whole_models.check_models(models) if models else whole_models.default_models()
    out.mkdir(parents=True, exist_ok=True)
    rows = whole_models.measure(files, conditions, imgsz, batch, repeats, onnx, images)
    whole_models.print_results(rows)
    path = out / f"{conditions.file_name('models')}.csv"
    write_csv(path, whole_models.FIELDS, rows)
    print(f"\n{path}")
    return 0


COMMAND = Command(
    "bench models",
    "Measure whole models against the first one: training step, inference, memory, ONNX Runtime.",
    run,
    Argument(
        "models",
        "names or files of detection YAMLs; the others are compared with the first; by default yolov8n and each of "
        "ours with a block in backbone and neck",
        names,
    ),
    Argument("imgsz", "height and width of the images, a multiple of 32", whole(32), default=640),
    Argument("batch", "images of a training step", whole(1), default=4),
    Argument("images", "images of an inference", whole(1), default=1),
    *CONDITIONS,
    Argument("onnx", "0 skips the exported models; by default they are measured if onnx and onnxruntime exist", SWITCH),
    notes="  yolo-attn bench models models=yolov8s,yolov8s-hilo imgsz=320 batch=8 threads=4 out=results",
)
