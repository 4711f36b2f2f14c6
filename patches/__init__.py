"""The seams: every place where this project touches Ultralytics' insides, one file each.

A seam module states

    TARGET     "module:attribute" that it replaces
    VERSIONS   Ultralytics releases it was run on
    WHY        what breaks for users without it

and has `apply(module)` and `undo(module)`. Applying twice is harmless. A seam that cannot be applied warns once, with
Ultralytics' version, the seam and a remedy, and leaves stock models working.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType

from .startup import yolo_attn_boot

SEAMS = ("parse_model", "model_yaml", "data_yaml", "safe_load", "fuse", "load_weights", "flops")
_failures: dict[str, str] = {}


@dataclass(frozen=True)
class Status:
    """State of one seam in this interpreter.

    Attributes:
        name: File name of the seam.
        target: What it replaces.
        versions: Ultralytics releases it was run on.
        why: What breaks without it.
        state: "live", "waiting" (the target module is not imported yet), "off" or "failed".
        error: Why it failed; empty otherwise.
    """

    name: str
    target: str
    versions: str
    why: str
    state: str
    error: str = ""


def arm() -> None:
    """Patch target modules that are imported already, and each other one when it is imported."""
    yolo_attn_boot.install()
    for target in yolo_attn_boot.TARGETS:
        module = sys.modules.get(target)
        # A module still running its own code is patched by the import hook when it is done.
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            apply(target)


def apply(target: str) -> None:
    """Apply the seams of one target module; never raises."""
    for name, seam in _seams(target):
        if name in _failures:  # told once already; `undo` clears it
            continue
        try:
            seam.apply(sys.modules[target])
        except Exception as e:
            _fail(name, seam, e)


def undo() -> None:
    """Take every patch out and disarm the import hook; stock Ultralytics is left."""
    sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "yolo_attn", False)]
    for target in yolo_attn_boot.TARGETS:
        if target in sys.modules:
            for _, seam in _seams(target):
                seam.undo(sys.modules[target])
    _failures.clear()


def status() -> list[Status]:
    """State of every seam, in the order of application."""
    out = []
    for name in SEAMS:
        seam = _load(name)
        module = sys.modules.get(seam.TARGET.split(":")[0])
        if name in _failures:
            state = "failed"
        elif module is None:
            state = "waiting"
        else:
            state = "live" if seam.is_live(module) else "off"
        out.append(Status(name, seam.TARGET, seam.VERSIONS, seam.WHY, state, _failures.get(name, "")))
    return out


def failure(name: str) -> str:
    """Why a seam failed; empty if it did not."""
    return _failures.get(name, "")


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _seams(target: str) -> list[tuple[str, ModuleType]]:
    return [(n, s) for n in SEAMS if (s := _load(n)).TARGET.split(":")[0] == target]


def _fail(name: str, seam: ModuleType, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    _failures[name] = reason
    from ultralytics import __version__
    from ultralytics.utils import LOGGER

    LOGGER.warning(
        f"yolo_attn: the seam '{name}' ({seam.TARGET}) does not fit Ultralytics {__version__}: {reason}. "
        f"Stock models work as usual; without it {seam.WHY} "
        f"Remedy: upgrade yolo_attn, or install an Ultralytics release it was run on ({seam.VERSIONS}); "
        "'yolo-attn doctor' tells more."
    )
