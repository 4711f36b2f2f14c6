"""Patch: a suggestion where a model is the name of a shipped YAML without its suffix.

`YOLO("yolov8n-sam")` is no YAML to Ultralytics; `Model._load` looks for a file of weights and raises that it does not
exist. The error stays Ultralytics' own; its message gets the nearest shipped name, if one is near.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..yamls import shipped
from .patch import Function, Patch


def _make(original: Function) -> Function:
    def _load(self: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as Ultralytics does."""
        try:
            return original(self, weights, *args, **kwargs)
        except FileNotFoundError as e:
            shipped.suggest(e, Path(str(weights).strip()).name)
            raise

    return _load


PATCH = Patch(
    name="model_file",
    target="ultralytics.engine.model:Model._load",
    versions="8.3.200 - 8.4.190",
    why="the name of a shipped model YAML without its suffix gets no suggestion.",
    make=_make,
)
