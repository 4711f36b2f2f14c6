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
    """The shipped model YAML whose name is nearest to a misspelt one, same scale letter; empty if none is near.

    Args:
        name: A bare file name, with or without a suffix.
    """
    stem = re.sub(r"\.ya?ml$", "", name)
    base, _, variant = unscaled(stem).partition("-")
    letter = stem.removeprefix(base)[:1] if not stem.startswith(f"{base}-") and stem != base else ""
    variants = {p.stem.removeprefix(f"{base}-"): p for p in model_yamls() if p.stem.startswith(f"{base}-")}
    near = get_close_matches(variant.lower(), variants, n=1, cutoff=0.7)
    if not near:
        bases = {p.stem: p for p in model_yamls()}
        near = get_close_matches(unscaled(stem).lower(), bases, n=1, cutoff=0.9)
        base = bases[near[0]].stem.partition("-")[0] if near else base
        near = [near[0].removeprefix(f"{base}-")] if near else []
    return f"{base}{letter}-{near[0]}.yaml" if near else ""


def model_yamls() -> list[Path]:
    """All shipped model YAMLs."""
    return [p for p in sorted(folder().glob("*.yaml")) if p.name.startswith("yolo")]


def data_yamls() -> list[Path]:
    """All shipped dataset YAMLs."""
    return [p for p in sorted(folder().glob("*.yaml")) if not p.name.startswith("yolo")]
