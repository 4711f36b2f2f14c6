"""Exported files: run by the runtime of their format, not through Ultralytics, and compared with PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .runtimes import PACKAGES, is_installed

#: Largest difference that counts as equal; see `difference`.
TOLERANCE = 1e-3

Run = Callable[[Tensor], list[Tensor]]


class LoadError(RuntimeError):
    """The runtime of a format does not load an exported file; the message says why."""


def run_exported(format: str, file: str | Path, x: Tensor) -> list[Tensor]:
    """The outputs of an exported file on the CPU, in float32.

    Args:
        format: One of `FORMATS`.
        file: What Ultralytics' exporter returned.
        x: Images, (B, 3, H, W).

    Raises:
        LoadError: The runtime does not load the file.
    """
    with quiet_export():
        return LOADERS[format](Path(file))(x)


def _torchscript(file: Path) -> Run:
    net = torch.jit.load(str(file))
    return lambda x: flatten(net(x))


def _onnx(file: Path, threads: int = 0) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


def _openvino(file: Path, threads: int = 0) -> Run:
    import openvino

    path = next(file.glob("*.xml"))
    # Without this hint some processors compute in bfloat16, which is a choice of the runtime, not of the file.
    settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda x: [torch.from_numpy(y.copy()) for y in compiled(x.numpy()).values()]


def _ncnn(file: Path, threads: int = 0) -> Run:
    import ncnn

    net, path = ncnn.Net(), next(file.glob("*.param"))
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads or net.opt.num_threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    # Both functions report failure by their result alone, and a net that failed to load crashes when it is run.
    layers = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()}
    unknown = sorted(layer for layer in layers if "." in layer)
    if unknown:
        raise LoadError(f"ncnn has no layer {', '.join(unknown)}")
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise LoadError(f"ncnn does not load {path}")

    def run(x: Tensor) -> list[Tensor]:
        outputs = []
        for image in x:
            extractor = net.create_extractor()
            extractor.input(net.input_names()[0], ncnn.Mat(image.contiguous().numpy()))
            outputs.append([torch.tensor(np.array(extractor.extract(name)[1])) for name in net.output_names()])
        return [torch.stack(ys) for ys in zip(*outputs, strict=True)]

    return run


def _mnn(file: Path, threads: int = 1) -> Run:
    import MNN

    config = {"precision": "high", "backend": "CPU", "numThread": threads}
    runtime = MNN.nn.create_runtime_manager((config,))
    net = MNN.nn.load_module_from_file(str(file), [], [], runtime_manager=runtime, rearrange=True)
    if net is None:
        raise LoadError(f"MNN does not load {file}")

    def run(x: Tensor) -> list[Tensor]:
        x = x.contiguous()
        return [torch.tensor(y.read()) for y in net.onForward([MNN.expr.const(x.data_ptr(), x.shape)])]

    return run


def _executorch(file: Path) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(next(file.rglob("*.pte")))).load_method("forward")
    return lambda x: [y.clone() for y in method.execute([x])]


def _litert(file: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(file))

    def run(x: Tensor) -> list[Tensor]:
        net.allocate_tensors()
        net.set_tensor(net.get_input_details()[0]["index"], x.numpy())
        net.invoke()
        y = torch.tensor(net.get_tensor(net.get_output_details()[0]["index"]))
        y[:, :4] *= torch.tensor([x.shape[3], x.shape[2]] * 2)[:, None]  # Ultralytics divides boxes by the image's size
        return [y]

    return run


#: Format of Ultralytics' exporter -> function that loads a file on the CPU; those of `THREADED` also take a number of
#: threads. CoreML runs on Apple's systems alone.
LOADERS: dict[str, Callable[..., Run]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "mnn": _mnn,
    "executorch": _executorch,
    "litert": _litert,
}
FORMATS = tuple(LOADERS)
THREADED = ("onnx", "openvino", "ncnn", "mnn")


def check_loads(format: str, file: str | Path) -> None:
    """Load an exported file, if the runtime of its format is installed.

    Args:
        format: Format of Ultralytics' exporter.
        file: What the exporter returned.

    Raises:
        LoadError: The runtime does not load the file.
    """
    if format not in LOADERS or not is_installed(format):
        return
    try:
        with quiet_export():
            LOADERS[format](Path(file))
    except LoadError:
        raise
    except Exception as e:
        raise LoadError(f"{PACKAGES[format]} does not load {file}: {' '.join(str(e).split())[:300]}") from e


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
