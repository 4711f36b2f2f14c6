"""`yolo-attn bench models`: time and memory of whole models; writes a CSV."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..measure.runtimes import PACKAGES, is_installed
from .bench_arguments import CONDITIONS
from .parser import SWITCH, Argument, Command, UsageError, names, whole

RUNTIMES = ("torch", "onnx", "openvino", "ncnn", "mnn")


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
    runtime: Sequence[str] | None,
    clock: str,
) -> int:
    """Measure, print, and write the CSV."""
    from ..measure import runtime_latency, whole_models
    from ..measure.conditions import Conditions
    from ..measure.table import write_csv

    conditions = Conditions.of(device, dtype, threads, channels_last, compile)
    if imgsz % 32:
        raise UsageError(f"imgsz={imgsz} must be a multiple of 32.")
    missing = [m for m in ("onnx", "onnxruntime") if importlib.util.find_spec(m) is None]
    if onnx and missing:
        raise UsageError(f"onnx=1 needs {' and '.join(missing)}: pip install 'yolo-attn[export]'.")
    onnx = not missing and device == "cpu" if onnx is None else onnx
    _check_runtimes(runtime or (), device, dtype)
    files = whole_models.check_models(models) if models else whole_models.default_models()
    out.mkdir(parents=True, exist_ok=True)
    if runtime:
        rows = runtime_latency.measure(files, conditions, runtime, imgsz, repeats, clock)
    else:
        rows = whole_models.measure(files, conditions, imgsz, batch, repeats, onnx, images)
    whole_models.print_results(rows)
    path = out / f"{conditions.file_name('latency' if runtime else 'models')}.csv"
    write_csv(path, whole_models.FIELDS, rows)
    print(f"\n{path}")
    return 0


def _check_runtimes(names: Sequence[str], device: str, dtype: str) -> None:
    """Raise UsageError where a runtime is unknown, not installed, or cannot run under these conditions."""
    for name in names:
        if name not in RUNTIMES:
            raise UsageError(f"runtime={name} must be out of {','.join(RUNTIMES)}.")
        if name != "torch" and not is_installed(name):
            raise UsageError(f"runtime={name} needs {PACKAGES[name]}: pip install {PACKAGES[name]}.")
        if name != "torch" and (device != "cpu" or dtype != "float32"):
            raise UsageError(f"runtime={name} is measured on the CPU in float32; omit device= and dtype=.")


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
    Argument("runtime", f"measure only one image in these, out of {','.join(RUNTIMES)}: files of `yolo export`", names),
    Argument(
        "clock", "with runtime=: wall time, or CPU time for a busy machine", default="wall", choices=("wall", "cpu")
    ),
    notes="  yolo-attn bench models models=yolov8s,yolov8s-hilo imgsz=320 batch=8 threads=4 out=results\n"
    "  yolo-attn bench models runtime=onnx,openvino threads=1",
)
