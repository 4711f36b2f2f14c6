"""The YAML files of this package, found by name and scale letter."""

from __future__ import annotations

import re
from pathlib import Path

_SCALE = re.compile(r"^(yolo(?:e-|v)?\d+)[nslmx](?=-|$)")


def folder() -> Path:
    """The folder of model and dataset YAMLs: inside an installed package, next to the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "cfg"
    return inside if inside.is_dir() else package.parent / "cfg"


def unscaled(name: str) -> str:
    """A file name without its scale letter: yolov8n-sam.yaml -> yolov8-sam.yaml."""
    return _SCALE.sub(r"\1", name)


def find(name: str) -> Path | None:
    """The shipped YAML of a file name with or without a scale letter; None if there is none."""
    for candidate in (name, unscaled(name)):
        path = folder() / candidate
        if candidate.endswith((".yaml", ".yml")) and path.is_file():
            return path
    return None


def model_yamls() -> list[Path]:
    """All shipped model YAMLs."""
    return [p for p in sorted(folder().glob("*.yaml")) if p.name.startswith("yolo")]


def data_yamls() -> list[Path]:
    """All shipped dataset YAMLs."""
    return [p for p in sorted(folder().glob("*.yaml")) if not p.name.startswith("yolo")]
