"""Seam: the GFLOPs in the model summary.

`model_info`, which prints the summary, asks `get_flops` beside it. For models without our blocks that function runs as
ever; for the others `yolo_attn.measure.multiply_adds` adds what its counter does not see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import _replace

TARGET = "ultralytics.nn.tasks:model_info"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "the GFLOPs printed for models with attention blocks leave out what Ultralytics' counter does not see."


def apply(module: ModuleType) -> None:
    """Wrap the function that `model_info` asks."""
    _replace.replace(_home(module), "get_flops", _make)


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(_home(module), "get_flops")


def is_live(module: ModuleType) -> bool:
    """Whether the wrapper is in place."""
    return _replace.find(_home(module).get_flops) is not None


def _home(module: ModuleType) -> ModuleType:
    """The module of `model_info`, `ultralytics.utils.torch_utils`."""
    return sys.modules[module.model_info.__module__]


def _make(original: Callable[..., float]) -> Callable[..., float]:
    def get_flops(model: Any, imgsz: Any = 640, *args: Any, **kwargs: Any) -> float:
        """GFLOPs of a model, our blocks counted in full."""
        from ultralytics.utils import LOGGER

        from ..measure import multiply_adds as flops

        if flops.has_blocks(model):
            try:
                return flops.gflops(model, imgsz)
            except Exception:  # a summary never stops a training; the original swallows its errors too
                LOGGER.debug("yolo_attn: the blocks could not be counted", exc_info=True)
        return original(model, imgsz, *args, **kwargs)

    return get_flops
