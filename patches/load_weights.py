"""Patch: pretrained weights into models with inserted rows.

`.load()`, `pretrained=` and the trainer all end in BaseModel.load, which matches the names of tensors; an inserted row
shifts the names of all that follow. Models without a row of ours, on either side, use the original. For the others the
original gets the weights under the names that their rows have in the model to be filled.
"""

from __future__ import annotations

from typing import Any

from .patch import Function, Patch


def _make(original: Function) -> Function:
    def load(self: Any, weights: Any, verbose: bool = True) -> None:
        """Load, by corresponding rows where a model of ours is involved."""
        from ..weights.pretrained import load_aligned

        load_aligned(original, self, weights, verbose)

    return load


PATCH = Patch(
    name="load_weights",
    target="ultralytics.nn.tasks:BaseModel.load",
    versions="8.3.200 - 8.4.190",
    why="pretrained weights are lost, or end up in the wrong layer, behind every inserted attention block.",
    make=_make,
)
