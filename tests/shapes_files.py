"""Helpers for the tests of the built-in dataset."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Task -> dataset YAML in cfg/; classification has none.
YAMLS = {
    "detect": "shapes.yaml",
    "segment": "shapes-seg.yaml",
    "pose": "shapes-pose.yaml",
    "obb": "shapes-obb.yaml",
}


def contents(root: Path) -> dict[str, bytes]:
    """Relative path -> content of every file in a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
