"""Seam: BatchNorm folding in our blocks.

Ultralytics' `model.fuse()` folds the BatchNorms of its own classes only. Our modules that hold any define `fuse()`,
which is called here first, so that the summary printed by Ultralytics describes the folded model.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import registry
from . import _replace

TARGET = "ultralytics.nn.tasks:BaseModel.fuse"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "the BatchNorms inside attention blocks stay separate at inference, which is slower."


def apply(module: ModuleType) -> None:
    """Wrap the method."""
    _replace.replace(module.BaseModel, "fuse", _make)


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(module.BaseModel, "fuse")


def is_live(module: ModuleType) -> bool:
    """Whether the wrapper is in place."""
    return _replace.find(module.BaseModel.fuse) is not None


def _make(original: Callable[..., Any]) -> Callable[..., Any]:
    def fuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Fold our modules, then Ultralytics' own."""
        # Children before their parents: a carrier folds its gate into what its operator has folded already.
        for m in reversed(list(self.modules())):
            if registry.is_ours(m) and hasattr(m, "fuse"):
                m.fuse()
        return original(self, *args, **kwargs)

    return fuse
