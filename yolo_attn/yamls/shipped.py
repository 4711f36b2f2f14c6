"""The YAML files of this package, found by name and scale letter."""

from __future__ import annotations

import re
from difflib import get_close_matches
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


def similar(name: str) -> str:
    """The shipped model YAML with the nearest name, at the same scale; empty if none is near.

    Args:
        name: A misspelt file name, with or without suffix and scale letter.
    """
    written = re.fullmatch(r"(yolo(?:e-|v)?\d+)([nslmx]?)[-_]?(.*?)(?:\.ya?ml)?", name.lower())
    if written is None:
        return ""
    base, letter, variant = written.groups()
    stems = [p.stem for p in model_yamls()]
    variants = [stem.removeprefix(f"{base}-") for stem in stems if stem.startswith(f"{base}-")]
    near = [f"{base}-{v}" for v in get_close_matches(variant, variants, n=1, cutoff=0.7)]
    near += get_close_matches(f"{base}-{variant}", stems, n=1, cutoff=0.9)
    return re.sub(r"-", f"{letter}-", near[0], count=1) + ".yaml" if near else ""


def suggest(error: FileNotFoundError, name: str) -> None:
    """Add the nearest shipped name to the message of an error, if one is near.

    Args:
        error: Raised for a model file that does not exist.
        name: The file's name.
    """
    suggestion = similar(name)
    if suggestion and len(error.args) == 1:
        error.args = (f"{error.args[0]}. Did you mean {suggestion}?",)


def model_yamls() -> list[Path]:
    """All shipped model YAMLs."""
    return [p for p in sorted(folder().glob("*.yaml")) if p.name.startswith("yolo")]


def data_yamls() -> list[Path]:
    """All shipped dataset YAMLs."""
    return [p for p in sorted(folder().glob("*.yaml")) if not p.name.startswith("yolo")]
