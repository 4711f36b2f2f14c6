"""`yolo_attn.transfer`: pretrained weights into a model on request, with a report.

Above both `weights`, which aligns the rows, and `patches`, through which Ultralytics' `load` does so.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from .weights.model_rows import TransferError
from .weights.pretrained import REQUEST, Request
from .weights.transfer_report import TransferReport

__all__ = ["TransferError", "TransferReport", "transfer"]


def transfer(model: Any, weights: Any, verbose: bool = True) -> TransferReport:
    """Fill a model with pretrained weights and report where each tensor went.

    `model.load(weights)` and `pretrained=weights` do the same for models with our blocks; this function also aligns
    the rows of two stock models, such as yolov8 and yolov8-p2.

    Args:
        model: A `YOLO`, or the Ultralytics model inside one.
        weights: Path of a checkpoint, a `YOLO`, a loaded checkpoint, or the model inside one.
        verbose: Log one line.

    Returns:
        Per row of the model: where it came from, what was copied, what is new; and which weights were not used, and
        why.

    Raises:
        TransferError: The weights have no rows, or are of another scale.
        TypeError: `model` is no model of Ultralytics.
        OSError: The weights are a path that is no file.
    """
    from ultralytics.engine.model import Model
    from ultralytics.nn import tasks

    from .patches import load_weights

    patch = load_weights.PATCH.status()
    if patch.state not in ("live", "unknown"):
        detail = f": {patch.detail}" if patch.detail else ""
        raise RuntimeError(f"the patch 'load_weights' is {patch.state}{detail}. Remedy: {patch.remedy}.")
    if not isinstance(model, (Model, tasks.BaseModel)):
        raise TypeError(f"{type(model).__name__} is no model of Ultralytics; give a YOLO or its `.model`.")
    if isinstance(weights, Model):
        weights = weights.model
    if isinstance(weights, (str, Path)) and Path(weights).is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory; name the checkpoint file in it", str(weights))
    request = Request(verbose)
    token = REQUEST.set(request)
    try:
        if isinstance(model, Model):
            model.load(weights)
            if not model.ckpt:  # releases before 8.4.141: without it train() starts from scratch
                model.ckpt = {"model": model.model}
        else:
            if isinstance(weights, (str, Path)):
                weights, _ = tasks.load_checkpoint(weights)
            model.load(weights, verbose)
    finally:
        REQUEST.reset(token)
    if request.report is None:
        raise RuntimeError(f"the patch 'load_weights' was not called: {patch.detail}. Remedy: {patch.remedy}.")
    return request.report
