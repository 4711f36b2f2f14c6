"""Patch: shipped model YAMLs by bare name and scale letter, from any folder.

`YOLO("yolov8s-hilo.yaml")`, the trainer's rebuild and the DDP child all reach a YAML through the name `check_yaml` in
ultralytics.nn.tasks. A file of the user's takes precedence, then Ultralytics' own, then ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..yamls import shipped
from .patch import Function, Patch


def _make(original: Function) -> Function:
    def check_yaml(file: Any, suffix: Any = (".yaml", ".yml"), hard: bool = True) -> Any:
        """The user's file, else Ultralytics', else ours."""
        path = Path(str(file).strip())
        if "://" in str(file) or path.exists():
            return original(file, suffix, hard=hard)
        # Ultralytics strips the scale letter from the first digit and letter of the whole path, so a folder such as
        # exp5s/ misleads it; the letter belongs to the file name.
        sibling = path.with_name(shipped.unscaled(path.name))
        if sibling.exists():
            return str(sibling)
        ours = shipped.find(path.name)
        if ours is None:
            return original(file, suffix, hard=hard)
        if not hard and path.name == ours.name and _has_scaled_copy(path):
            return []  # releases before 8.4.144 look for the unscaled name first; the user's own scaled file comes next
        return original(file, suffix, hard=False) or str(ours)

    return check_yaml


def _has_scaled_copy(path: Path) -> bool:
    """Whether a file beside `path` has its name with a scale letter."""
    pattern = f"yolo*{path.suffix}"
    return any(p.name != path.name and shipped.unscaled(p.name) == path.name for p in path.parent.glob(pattern))


PATCH = Patch(
    name="model_yaml",
    target="ultralytics.nn.tasks:check_yaml",
    versions="8.3.200 - 8.4.190",
    why="shipped model YAMLs are found by full path only, not by name.",
    make=_make,
)
