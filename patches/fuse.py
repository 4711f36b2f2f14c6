"""Patch: BatchNorm folding in our blocks.

Ultralytics' `model.fuse()` folds the BatchNorms of its own classes only. Our modules that hold any define `fuse()`,
which is called first, so that the summary printed by Ultralytics describes the folded model.
"""

from __future__ import annotations

from typing import Any

from .. import registry
from .patch import Function, Patch


def _make(original: Function) -> Function:
    def fuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Fold our modules, then Ultralytics' own."""
        from ..layers import fuse as fuse_modules

        fuse_modules(m for m in self.modules() if registry.is_ours(m))
        return original(self, *args, **kwargs)

    return fuse


PATCH = Patch(
    name="fuse",
    target="ultralytics.nn.tasks:BaseModel.fuse",
    versions="8.3.200 - 8.4.190",
    why="the BatchNorms inside attention blocks stay separate at inference, which is slower.",
    make=_make,
)
