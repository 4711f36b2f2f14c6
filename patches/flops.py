"""Patch: the GFLOPs in the model summary.

The summary calls `get_flops`. For models without our blocks that function runs unchanged; for the others
`yolo_attn.measure.multiply_adds` adds what its counter does not count.
"""

from __future__ import annotations

from typing import Any

from .. import registry
from .patch import Function, Patch


def _make(original: Function) -> Function:
    def get_flops(model: Any, imgsz: Any = 640, *args: Any, **kwargs: Any) -> float:
        """GFLOPs of a model, with our blocks counted in full."""
        from ultralytics.utils import LOGGER

        if registry.has_blocks(model):
            from ..measure import multiply_adds

            try:
                return multiply_adds.gflops(model, imgsz)
            except Exception:  # a summary never stops a training; the original suppresses its errors too
                LOGGER.debug("yolo_attn: the blocks could not be counted", exc_info=True)
        gflops: float = original(model, imgsz, *args, **kwargs)
        return gflops

    return get_flops


PATCH = Patch(
    name="flops",
    target="ultralytics.utils.torch_utils:get_flops",
    versions="8.3.200 - 8.4.190",
    why="the GFLOPs printed for models with attention blocks omit what Ultralytics' counter does not count.",
    make=_make,
    trigger="ultralytics.nn.tasks",
)
