"""The patches: every function of Ultralytics that this project replaces, one file each.

A patch module holds a `PATCH` (see `patch.Patch`): target, tested releases, reason, and the function that makes the
replacement. To add one, write the module, add its name to `PATCHES`, and list its trigger in
`startup/yolo_attn_boot.py` and `startup/yolo_attn_boot.pth`. A patch that cannot be applied logs one warning with
Ultralytics' version, the patch and a remedy, and leaves stock models working.
"""

from __future__ import annotations

import importlib
import sys

from .patch import Patch, PatchError, Status
from .startup import yolo_attn_boot

__all__ = ["PATCHES", "Patch", "PatchError", "Status", "apply", "arm", "get", "status", "undo"]

#: Modules of this package that hold a patch, in the order of application.
PATCHES = (
    "parse_model",
    "model_yaml",
    "data_yaml",
    "model_file",
    "safe_load",
    "fuse",
    "load_weights",
    "flops",
    "optimizer",
    "validate",
    "export",
)


def arm() -> None:
    """Patch the modules that are imported already, and each other one when it is imported."""
    yolo_attn_boot.install()
    for trigger in yolo_attn_boot.TARGETS:
        module = sys.modules.get(trigger)
        # A module that is still being executed is patched by the import hook afterwards.
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            apply(trigger)


def apply(trigger: str) -> None:
    """Apply the patches that the import of one module triggers; never raises."""
    for name in PATCHES:
        patch = get(name)
        if patch.trigger == trigger:
            patch.apply()


def undo() -> None:
    """Undo every patch and disarm the import hook."""
    sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "yolo_attn", False)]
    for name in PATCHES:
        get(name).undo()


def status() -> list[Status]:
    """State of every patch, in the order of application."""
    return [get(name).status() for name in PATCHES]


def get(name: str) -> Patch:
    """The patch of a module in this package."""
    patch: Patch = importlib.import_module(f"{__name__}.{name}").PATCH
    return patch
