"""Checkpoints name the classes of their modules, so the paths of these classes stay where they are.

Moving or renaming a class makes every checkpoint that holds one unreadable. A new class gets a line here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from torch import nn

import yolo_attn.blocks
from yolo_attn import registry

LIST = Path(__file__).with_name("class_paths.txt")
OUTSIDE = ("yolo_attn.layers", "yolo_attn.carriers")


def class_paths() -> list[str]:
    """Every module class of blocks, carriers and layers, the derived rows and forms included, sorted."""
    names = [*OUTSIDE, *(m.name for m in pkgutil.walk_packages(yolo_attn.blocks.__path__, "yolo_attn.blocks."))]
    found = set()
    for name in names:
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == name:
                found.add(f"{name}.{value.__qualname__}")
    return sorted(found)


def test_no_class_has_moved_and_every_new_one_is_listed() -> None:
    listed = LIST.read_text(encoding="utf-8").split()
    found = class_paths()
    assert [path for path in listed if path not in found] == [], "moved or removed: checkpoints that hold it break"
    assert [path for path in found if path not in listed] == [], "new: add it to tests/class_paths.txt"
    assert listed == sorted(set(listed))


def test_the_safe_loader_allows_exactly_these_classes() -> None:
    ours = {f"{c.__module__}.{c.__qualname__}" for c in registry.classes() if c.__module__.startswith("yolo_attn.")}
    assert ours == set(class_paths())
