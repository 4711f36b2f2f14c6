"""Rows of class logits, matched by the names of the classes.

Ultralytics 8.4.141 and later does this for detectors; here it is done for earlier releases and for classifiers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .alignment import Alignment
from .model_rows import is_detect


def copy_by_name(model: nn.Module, source: nn.Module, found: Alignment) -> set[str]:
    """Copy rows of class logits by class name where the installed Ultralytics does not.

    Args:
        model: The model to fill.
        source: The weights' model.
        found: Their alignment.

    Returns:
        State-dict keys of the tensors that were filled.
    """
    rows = _matching_rows(getattr(source, "names", None), getattr(model, "names", None))
    if rows is None:
        return set()
    here, there = model.state_dict(), source.state_dict()
    valid = rows >= 0
    done = set()
    for layer in _class_layers(model, len(rows)):
        keys = [f"{layer}.{p}" for p in ("weight", "bias")]
        if all(k in found.keys and there[found.keys[k]].shape[1:] == here[k].shape[1:] for k in keys):
            for k in keys:
                here[k][valid] = there[found.keys[k]][rows[valid]].to(here[k])
            done.update(keys)
    return done


def adopt_names(model: nn.Module, source: nn.Module) -> None:
    """Give the weights' class names to a model that has only placeholders.

    Args:
        model: The model that was filled, its head completely.
        source: The weights' model.
    """
    names = getattr(source, "names", None)
    placeholders = {i: str(i) for i in range(len(names or ()))}
    if isinstance(names, dict) and not hasattr(model, "set_classes") and getattr(model, "names", None) == placeholders:
        model.names = dict(names)  # type: ignore[assignment]


def _matching_rows(theirs: Any, ours: Any) -> torch.Tensor | None:
    """For each class of the model its row in the weights or -1; None if names decide nothing."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return None
    if any(all(str(k) == str(v) for k, v in names.items()) for names in (theirs, ours)):  # placeholders
        return None
    lookup = {str(v).strip().lower(): k for k, v in theirs.items()}
    rows = torch.tensor([lookup.get(str(ours[k]).strip().lower(), -1) for k in sorted(ours)], dtype=torch.long)
    same = len(theirs) == len(ours) and torch.equal(rows, torch.arange(len(ours)))
    return None if same or not (rows >= 0).any() else rows


def _class_layers(model: nn.Module, nc: int) -> list[str]:
    """Paths of the layers with one output per class that Ultralytics' own `load` does not sort by name."""
    last = len(model.model) - 1  # type: ignore[arg-type]
    head: Any = model.model[last]  # type: ignore[index]
    found = {}
    if is_detect(type(head)) and not hasattr(model, "_remap_cls_by_names"):
        for branch in ("cv3", "one2one_cv3"):
            for i, layers in enumerate(getattr(head, branch, None) or ()):
                found[f"model.{last}.{branch}.{i}.{len(layers) - 1}"] = getattr(layers[-1], "out_channels", None)
    elif type(head).__name__ == "Classify":
        found[f"model.{last}.linear"] = head.linear.out_features
    return [path for path, outputs in found.items() if outputs == nc]
