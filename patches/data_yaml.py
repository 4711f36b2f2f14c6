"""Patch: shipped dataset YAMLs by bare name, from any folder.

Every detection, segmentation, pose and OBB run resolves `data=` through the name `check_file` in
ultralytics.data.utils. A file of the user's takes precedence, then Ultralytics' own, then ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..yamls import shipped
from .patch import Function, Patch


def _make(original: Function) -> Function:
    def check_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        """The user's file, else Ultralytics', else ours."""
        path = Path(str(file).strip())
        ours = None if "://" in str(file) or path.exists() else shipped.find(path.name)
        if ours is None:
            return original(file, *args, **kwargs)
        return original(file, *args, **{**kwargs, "hard": False}) or str(ours)

    return check_file


PATCH = Patch(
    name="data_yaml",
    target="ultralytics.data.utils:check_file",
    versions="8.3.200 - 8.4.190",
    why="shipped dataset YAMLs such as shapes.yaml are found by full path only, not by name.",
    make=_make,
)
