"""Seam: what Ultralytics' loader accepts: our classes under ULTRALYTICS_SAFE_LOAD=1, and the papers' authors' files.

Restricted loading (Ultralytics 8.4.67 and later) accepts only classes on PyTorch's allow-list. Our classes, and those
of blocks that the running program registered, join the list for the duration of one load. Files that end in .pth, which
Ultralytics refuses by their ending, are read by `yolo_attn.weights.checkpoints`, which executes nothing in them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import registry
from . import _replace

TARGET = "ultralytics.nn.tasks:torch_safe_load"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "ULTRALYTICS_SAFE_LOAD=1 refuses checkpoints that hold attention blocks, and papers' .pth files do not load."

OFFICIAL = (".pth", ".pth.tar")  # endings of the authors' files


def apply(module: ModuleType) -> None:
    """Wrap the loader."""
    _replace.replace(module, "torch_safe_load", lambda original: _make(module, original))


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(module, "torch_safe_load")


def is_live(module: ModuleType) -> bool:
    """Whether the wrapper is in place."""
    return _replace.find(module.torch_safe_load) is not None


def _make(module: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
    def torch_safe_load(weight: Any, *args: Any, **kwargs: Any) -> Any:
        """Load with our classes allowed, where loading is restricted at all; convert a paper's authors' file."""
        if str(weight).lower().endswith(OFFICIAL):
            from ..weights.checkpoints import load

            return load(weight)
        asked = args[0] if args else kwargs.get("safe_only")
        restricted = getattr(module, "SAFE_LOAD", False) if asked is None else asked
        if not restricted:
            return original(weight, *args, **kwargs)
        from torch.serialization import safe_globals

        with safe_globals(registry.classes()):
            return original(weight, *args, **kwargs)

    return torch_safe_load
