"""Patch: shipped model YAMLs by bare name and scale letter, from any folder.

`YOLO("yolov8s-hilo.yaml")`, the trainer's rebuild and the DDP child all reach a YAML through the name `check_yaml` in
ultralytics.nn.tasks. A file of the user's takes precedence, then Ultralytics' own, then ours. Where there is none, the
error stays Ultralytics' own, with the nearest shipped name if one is near.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..yamls import shipped
from .patch import Function, Patch

# The name looked up last without success: yaml_model_load tries it with its scale letter, then without and in earnest.
_missed: ContextVar[str] = ContextVar("missed", default="")


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
            return _check(original, path.name, file, suffix, hard)
        if not hard and path.name == ours.name and _has_scaled_copy(path):
            return []  # releases before 8.4.144 look for the unscaled name first; the user's own scaled file comes next
        return original(file, suffix, hard=False) or str(ours)

    return check_yaml


def _check(original: Function, name: str, file: Any, suffix: Any, hard: bool) -> Any:
    """Ultralytics' own function, with a suggestion in the message if the file does not exist."""
    try:
        found = original(file, suffix, hard=hard)
    except FileNotFoundError as e:
        scaled = _missed.get()
        shipped.suggest(e, scaled if re.sub(r"(\d+)[nslmx]", r"\1", scaled, count=1) == name else name)
        raise
    _missed.set("" if found else name)
    return found


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
