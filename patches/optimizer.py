"""Patch: the optimizer's parameter groups.

Every trainer of Ultralytics builds its optimizer in BaseTrainer.build_optimizer. Blocks that start new among pretrained
layers get groups with a learning rate of their own (`yolo_attn.training.block_lr`); all other models keep the optimizer
as it was built.
"""

from __future__ import annotations

from typing import Any

from .patch import Function, Patch


def _make(original: Function) -> Function:
    def build_optimizer(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Build it, then give new blocks their learning rate."""
        from ..training import block_lr

        optimizer = original(self, model, *args, **kwargs)
        block_lr.apply(self, model, optimizer)
        return optimizer

    return build_optimizer


PATCH = Patch(
    name="optimizer",
    target="ultralytics.engine.trainer:BaseTrainer.build_optimizer",
    versions="8.3.200 - 8.4.190",
    why="inserted attention blocks learn so slowly in a fine-tuning that they hardly take part in the model.",
    make=_make,
)
