"""Seam: pretrained weights into models with inserted rows.

`.load()`, `pretrained=` and the trainer all end in BaseModel.load, which goes by the names of tensors; an inserted row
shifts the names of all that follow. Models without a row of ours, on either side, go through the untouched original.
For the others the original gets the weights under the names that their rows have in the model to be filled.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import _replace

TARGET = "ultralytics.nn.tasks:BaseModel.load"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "pretrained weights are lost, or end up in the wrong layer, behind every inserted attention block."


def apply(module: ModuleType) -> None:
    """Wrap the method."""
    _replace.replace(module.BaseModel, "load", _make)


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(module.BaseModel, "load")


def is_live(module: ModuleType) -> bool:
    """Whether the wrapper is in place."""
    return _replace.find(module.BaseModel.load) is not None


def _make(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(self: Any, weights: Any, verbose: bool = True) -> None:
        """Load, by corresponding rows where a model of ours is involved."""
        from ..weights.pretrained import load_aligned

        load_aligned(original, self, weights, verbose)

    return load
