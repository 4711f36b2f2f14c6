"""Patch: our classes under ULTRALYTICS_SAFE_LOAD=1, and the papers' released .pth files.

Restricted loading (Ultralytics 8.4.67 and later) accepts only classes on PyTorch's allow-list. Our classes, and those
of blocks that the running program registered, join the list for the duration of one load. Files that end in .pth, which
Ultralytics refuses by their suffix, are read by `yolo_attn.weights.checkpoints`, which executes nothing in them.
"""

from __future__ import annotations

from typing import Any

from .. import registry
from .patch import Function, Patch

RELEASED = (".pth", ".pth.tar")  # suffixes of the authors' files


def _make(original: Function) -> Function:
    def torch_safe_load(weight: Any, *args: Any, **kwargs: Any) -> Any:
        """Load with our classes allowed, where loading is restricted at all; convert a paper's released file."""
        if str(weight).lower().endswith(RELEASED):
            from ..weights.checkpoints import load

            return load(weight)
        from ultralytics.nn import tasks

        requested = args[0] if args else kwargs.get("safe_only")
        restricted = getattr(tasks, "SAFE_LOAD", False) if requested is None else requested
        if not restricted:
            return original(weight, *args, **kwargs)
        from torch.serialization import safe_globals

        from ..blocks.timm_layers import classes_in

        with safe_globals([*registry.classes(), *classes_in(weight)]):
            return original(weight, *args, **kwargs)

    return torch_safe_load


PATCH = Patch(
    name="safe_load",
    target="ultralytics.nn.tasks:torch_safe_load",
    versions="8.3.200 - 8.4.190",
    why="ULTRALYTICS_SAFE_LOAD=1 refuses checkpoints that hold attention blocks, and papers' .pth files do not load.",
    make=_make,
)
