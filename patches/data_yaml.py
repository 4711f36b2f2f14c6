"""Seam: shipped dataset YAMLs by bare name, from any folder.

Every detection, segmentation, pose and OBB run resolves `data=` through the name `check_file` in
ultralytics.data.utils. A file of the user's in reach wins, then Ultralytics' own, then ours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..yamls import shipped as assets
from . import _replace

TARGET = "ultralytics.data.utils:check_file"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "shipped dataset YAMLs such as shapes.yaml are found by full path only, not by name."


def apply(module: ModuleType) -> None:
    """Replace the name in ultralytics.data.utils."""
    _replace.replace(module, "check_file", _make)


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(module, "check_file")


def is_live(module: ModuleType) -> bool:
    """Whether the replacement is in place."""
    return _replace.find(module.check_file) is not None


def _make(original: Callable[..., Any]) -> Callable[..., Any]:
    def check_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        """The user's file, else Ultralytics', else ours."""
        path = Path(str(file).strip())
        shipped = None if "://" in str(file) or path.exists() else assets.find(path.name)
        if shipped is None:
            return original(file, *args, **kwargs)
        return original(file, *args, **{**kwargs, "hard": False}) or str(shipped)

    return check_file
