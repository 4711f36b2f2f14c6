"""Exported files: run by the runtime of their format, not through Ultralytics, and compared with PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Formats of Ultralytics' exporter that can be run here.
FORMATS = ("torchscript", "onnx", "openvino")
#: Largest difference that counts as equal; see `difference`.
TOLERANCE = 1e-3


def run_exported(format: str, file: str | Path, x: Tensor) -> list[Tensor]:
    """The outputs of an exported file on the CPU.

    Args:
        format: One of `FORMATS`.
        file: What Ultralytics' exporter returned.
        x: Images, (B, 3, H, W).
    """
    if format == "torchscript":
        with quiet_export():
            return flatten(torch.jit.load(str(file))(x))
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return [torch.from_numpy(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]
    import openvino

    path = next(Path(file).glob("*.xml"))
    # Without this hint some processors compute in bfloat16, which is a choice of the runtime, not of the file.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [torch.from_numpy(y.copy()) for y in compiled(x.numpy()).values()]


def compare(model: nn.Module, format: str, file: str | Path, x: Tensor) -> float:
    """The largest difference between the outputs of an exported file and those of the model in eval mode.

    Raises:
        ValueError: An output of the file has a shape that no output of the model has.
    """
    found = run_exported(format, file, x)
    with torch.no_grad():
        expected = flatten(model.eval()(x))
    gaps = []
    for y in found:
        like = next((e for e in expected if e.shape == y.shape), None)
        if like is None:
            shapes = ", ".join(str(tuple(e.shape)) for e in expected)
            raise ValueError(f"an output has the shape {tuple(y.shape)}; those of the model are {shapes}")
        gaps.append(difference(y.float(), like.float()))
    return max(gaps, key=lambda gap: (gap != gap, gap))  # NaN first


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two outputs, relative to the largest expected value; NaN if one contains a NaN.

    In a detection output (B, 4 + classes, N), boxes and scores are compared separately: in pixels, a difference of
    scores would be invisible.
    """
    parts = [(found, expected)]
    if found.ndim == 3 and found.shape[1] > 4:
        parts = [(found[:, :4], expected[:, :4]), (found[:, 4:], expected[:, 4:])]
    gaps = [(f - e).abs().max() / e.abs().max().clamp(min=1e-12) for f, e in parts]
    return float(torch.stack(gaps).max())


def flatten(y: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(y, Tensor):
        return [y]
    items: Sequence[Any] = list(y.values()) if isinstance(y, dict) else y if isinstance(y, (list, tuple)) else ()
    return [t for item in items for t in flatten(item)]


def random_images(b: int, h: int, w: int) -> Tensor:
    """Random images with structure at two scales; of white noise alone, a BatchNorm amplifies every rounding error."""
    patches = nn.functional.interpolate(torch.rand(b, 3, h // 16, w // 16), (h, w), mode="bicubic").clamp(0, 1)
    return 0.8 * patches + 0.2 * torch.rand(b, 3, h, w)


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Suppress the messages of exporters."""
    loggers = [logging.getLogger(name) for name in ("ultralytics", "torch.onnx", "nncf")]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
