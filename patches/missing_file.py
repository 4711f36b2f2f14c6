"""Patch: a suggestion where a model's name is nearly that of a shipped YAML.

`model=yolov8n-hilo-nek.yaml` and `model=yolov8n-sam` (without .yaml) both end in `check_file` in
ultralytics.utils.checks, which raises that the file does not exist. The error stays Ultralytics' own; its message gets
the nearest shipped name, if one is near.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..yamls import shipped
from .patch import Function, Patch


def _make(original: Function) -> Function:
    def check_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        """Find a file as Ultralytics does."""
        try:
            return original(file, *args, **kwargs)
        except FileNotFoundError as e:
            suggestion = shipped.similar(Path(str(file).strip()).name)
            if suggestion and len(e.args) == 1 and isinstance(e.args[0], str):
                e.args = (f"{e.args[0]}. Did you mean {suggestion}?",)
            raise

    return check_file


PATCH = Patch(
    name="missing_file",
    target="ultralytics.utils.checks:check_file",
    versions="8.3.200 - 8.4.190",
    why="a misspelt name of a shipped model YAML gets no suggestion.",
    make=_make,
    trigger="ultralytics.nn.tasks",
)
