"""One model: its parameters and GFLOPs, its fused form, and its ONNX export."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..kernels.graph import fixed_sizes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what Ultralytics prints while it builds a model, except warnings."""
    import logging

    from ultralytics.utils import LOGGER

    before = LOGGER.level
    LOGGER.setLevel(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        LOGGER.setLevel(before)


def cost(model: nn.Module, imgsz: int) -> tuple[int, float]:
    """Number of parameters, and GFLOPs as Ultralytics counts them."""
    from ultralytics.utils.torch_utils import get_flops

    return sum(p.numel() for p in model.parameters()), get_flops(model, imgsz)


def folded(model: Any) -> Any:
    """A copy in eval mode with fused layers, as Ultralytics uses for prediction."""
    with quiet():
        return copy.deepcopy(model).eval().fuse(verbose=False)


def onnx_call(model: Any, image: torch.Tensor, threads: int) -> Callable[[], object]:
    """Export a model and return its prediction for an image, in ONNX Runtime on the CPU.

    Args:
        model: As `folded` returns it.
        image: (1, 3, H, W).
        threads: Threads of ONNX Runtime's operators.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        content = export(model, image, Path(folder, "model.onnx")).read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {"images": image.cpu().numpy()})


def export(model: Any, image: torch.Tensor, path: Path) -> Path:
    """Write a fused model of any task as ONNX for the image's size, as `yolo export format=onnx` does."""
    import inspect
    import logging
    import warnings

    from ultralytics.nn.modules import C2f, Classify, Detect, RTDETRDecoder

    model = copy.deepcopy(model).cpu().eval()
    for m in model.modules():
        if isinstance(m, Detect | RTDETRDecoder | Classify):
            vars(m).update(export=True, format="onnx", dynamic=False)
        elif isinstance(m, C2f):
            vars(m)["forward"] = m.forward_split  # without chunk
    image = image.cpu()
    with torch.no_grad():
        model(image)
    options: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), quiet(), fixed_sizes(gathers=True):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (image,), str(path), opset_version=17, input_names=["images"], output_names=["output0"], **options
        )
    return path
