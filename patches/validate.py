"""Patch: the validation after an epoch.

While BaseTrainer.validate runs, forward hooks measure on the first images how much of the signal the gated blocks
contribute; afterwards the hooks are gone and the figures are in gates.csv (`yolo_attn.training.gate_log`). Models
without gated blocks are validated by the untouched original.
"""

from __future__ import annotations

from typing import Any

from .patch import Function, Patch


def _make(original: Function) -> Function:
    def validate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Validate, and log how far the blocks are open."""
        from ..training import gate_log

        with gate_log.watching(self):
            return original(self, *args, **kwargs)

    return validate


PATCH = Patch(
    name="validate",
    target="ultralytics.engine.trainer:BaseTrainer.validate",
    versions="8.3.200 - 8.4.190",
    why="nothing shows during training whether inserted attention blocks take part in the model.",
    make=_make,
)
