"""Seam: shipped model YAMLs by bare name and scale letter, from any folder.

`YOLO("yolov8s-hilo.yaml")`, the trainer's rebuild and the DDP child all reach a YAML through the name `check_yaml` in
ultralytics.nn.tasks. A file of the user's in reach wins, then Ultralytics' own, then ours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..yamls import shipped as assets
from . import _replace

TARGET = "ultralytics.nn.tasks:check_yaml"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "shipped model YAMLs are found by full path only, not by name."


def apply(module: ModuleType) -> None:
    """Replace the name in ultralytics.nn.tasks."""
    _replace.replace(module, "check_yaml", _make)


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(module, "check_yaml")


def is_live(module: ModuleType) -> bool:
    """Whether the replacement is in place."""
    return _replace.find(module.check_yaml) is not None


def _make(original: Callable[..., Any]) -> Callable[..., Any]:
    def check_yaml(file: Any, suffix: Any = (".yaml", ".yml"), hard: bool = True) -> Any:
        """The user's file, else Ultralytics', else ours."""
        path = Path(str(file).strip())
        if "://" in str(file) or path.exists():
            return original(file, suffix, hard=hard)
        # Ultralytics strips the scale letter from the first digit-and-letter of the whole path, so a folder such as
        # exp5s/ leads it astray; the letter belongs to the file name.
        sibling = path.with_name(assets.unscaled(path.name))
        if sibling.exists():
            return str(sibling)
        shipped = assets.find(path.name)
        if shipped is None:
            return original(file, suffix, hard=hard)
        if not hard and path.name == shipped.name and _has_scaled_copy(path):
            return []  # releases before 8.4.144 ask for the unscaled name first; the user's own scaled file comes next
        return original(file, suffix, hard=False) or str(shipped)

    return check_yaml


def _has_scaled_copy(path: Path) -> bool:
    """Whether a file beside `path` has its name with a scale letter."""
    pattern = f"yolo*{path.suffix}"
    return any(p.name != path.name and assets.unscaled(p.name) == path.name for p in path.parent.glob(pattern))
