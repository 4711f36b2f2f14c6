"""Pretrained weights into models with attention blocks: every tensor to the layer it belongs to, none to another.

Ultralytics' own `load` matches tensors by name, and names count rows. Here rows are aligned first (`align`),
then Ultralytics' own `load` does the work on a view of the weights whose names are those of the model to be filled.
So whatever a release adds there (class rows by name, grey-scale input, its log line) applies as ever.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import registry
from .align import Alignment, align
from .model_rows import TransferError, is_detect
from .transfer_report import Left, Report, RowReport

__all__ = ["Report", "TransferError", "transfer"]

FIRST = "model.0.conv.weight"  # Ultralytics treats this key apart, for other numbers of input channels


@dataclass
class _Order:
    """What `transfer` asks of `load_aligned` below, through Ultralytics' frames between them."""

    verbose: bool
    report: Report | None = None


_order: ContextVar[_Order | None] = ContextVar("_order", default=None)


def transfer(model: Any, weights: Any, verbose: bool = True) -> Report:
    """Fill a model with pretrained weights and tell what went where.

    `model.load(weights)` and `pretrained=weights` do the same for models with our blocks; this function also aligns
    the rows of two stock models, such as yolov8 and yolov8-p2.

    Args:
        model: A `YOLO`, or the Ultralytics model inside one.
        weights: Path of a checkpoint, a `YOLO`, a loaded checkpoint, or the model inside one.
        verbose: Log one line.

    Returns:
        Per row of the model: where it came from, what was copied, what is new; and what was left behind, and why.

    Raises:
        TransferError: The weights have no rows, or are of another scale.
        TypeError: `model` is no model of Ultralytics.
    """
    from ultralytics.engine.model import Model
    from ultralytics.nn import tasks

    from ..patches import load_weights

    patch = load_weights.PATCH.status()
    if patch.state not in ("live", "unknown"):
        detail = f": {patch.detail}" if patch.detail else ""
        raise RuntimeError(f"the patch 'load_weights' is {patch.state}{detail}. Remedy: {patch.remedy}.")
    if not isinstance(model, (Model, tasks.BaseModel)):
        raise TypeError(f"{type(model).__name__} is no model of Ultralytics; give a YOLO or its `.model`.")
    if isinstance(weights, Model):
        weights = weights.model
    order = _Order(verbose)
    token = _order.set(order)
    try:
        if isinstance(model, Model):
            model.load(weights)
            if not model.ckpt:  # releases before 8.4.141: without it train() starts from scratch
                model.ckpt = {"model": model.model}
        else:
            if isinstance(weights, (str, Path)):
                weights, _ = tasks.load_checkpoint(weights)
            model.load(weights, verbose)
    finally:
        _order.reset(token)
    if order.report is None:
        raise RuntimeError(f"the patch 'load_weights' was not called: {patch.detail}. Remedy: {patch.remedy}.")
    return order.report


def load_aligned(original: Callable[..., Any], model: nn.Module, weights: Any, verbose: bool = True) -> None:
    """BaseModel.load, for models with our blocks by corresponding rows.

    Args:
        original: Ultralytics' method.
        model: The model to fill.
        weights: A checkpoint or the model inside one.
        verbose: Log what was transferred.

    Raises:
        TransferError: A model with our blocks is involved, and the weights have no rows or are of another scale.
    """
    order = _order.get()
    source = _module_of(weights)
    if order is None and not (has_ours(model) or (source is not None and has_ours(source))):
        original(model, weights, verbose)
        return
    if source is None:
        raise TransferError(
            f"this {type(weights).__name__} holds no model. A bare state dict names tensors but not their "
            "rows: give a checkpoint saved by Ultralytics, or the model itself."
        )
    verbose = order.verbose if order else verbose
    found = align(source, model)
    misfit: Any = getattr(source, "misfit", None)
    if misfit and not found.pairs:  # a paper's backbone alone, and the model has no place for it
        raise TransferError(misfit(model))
    by_name = _class_rows(model, source, found)
    if order is None and not by_name and _is_itself(found, model, source):  # a resumed run, the trainer's rebuild
        original(model, weights, verbose)
        return
    name = _name(model)
    view, given = _view(source, model, found, by_name)
    original(model, view, verbose)
    by_name |= set(found.keys) - set(given) - {FIRST}
    report = _report(found, model, source, by_name, name)
    _adopt_names(model, source, report)
    if order:
        order.report = report
    if verbose and (report.new or report.left):  # otherwise Ultralytics' own line says it all
        _log(report, _is_fused(source) and not _is_fused(model))


def has_ours(model: nn.Module) -> bool:
    """Whether a model holds a block of this package, or one that the user registered."""
    return any(registry.is_ours(m) for m in model.modules())


def _module_of(weights: Any) -> nn.Module | None:
    if isinstance(weights, dict):
        weights = next((weights[k] for k in ("ema", "model") if weights.get(k) is not None), None)
    return weights if isinstance(weights, nn.Module) else None


def _is_itself(found: Alignment, model: nn.Module, source: nn.Module) -> bool:
    """Whether both models are the same, tensor by tensor."""
    here, there = model.state_dict(), source.state_dict()
    same = here.keys() == there.keys() and all(v.shape == there[k].shape for k, v in here.items())
    return same and all(found.keys.get(k) == k for k in here)


def _view(
    source: nn.Module, model: nn.Module, found: Alignment, without: set[str]
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A shallow copy of the weights' model with the rows and names of `model`, and the tensors that it hands out."""
    given: dict[str, torch.Tensor] = {}

    def state_dict(*_: Any, **__: Any) -> dict[str, torch.Tensor]:
        tensors = source.float().state_dict()
        given.update({k: tensors[s] for k, s in found.keys.items() if k not in without})
        if FIRST in model.state_dict():  # releases before 8.4.190 read it unasked
            given.setdefault(FIRST, torch.empty(0, 0, 0, 0))
        return given

    places = [found.pairs.get(t.index) for t in found.targets]
    # A head that corresponds only in parts is kept from view: its class branch must not replace the model's.
    if any(r.target.startswith(f"model.{len(places) - 1}.") for r in found.refusals) or not _same_levels(found):
        places[-1] = None
    placed = [nn.Identity() if i is None else found.sources[i].module for i in places]
    view = copy.copy(source)
    view.__dict__["_modules"] = {**source._modules, "model": nn.Sequential(*placed)}
    view.__dict__["state_dict"] = state_dict
    if hasattr(source, "is_fused"):
        view.__dict__["is_fused"] = source.is_fused
    return view, given


def _same_levels(found: Alignment) -> bool:
    return found.sources[-1].stride_in == found.targets[-1].stride_in


def _class_rows(model: nn.Module, source: nn.Module, found: Alignment) -> set[str]:
    """Copy rows of class logits by class name where the installed Ultralytics does not; keys of the tensors."""
    rows = _rows_by_name(getattr(source, "names", None), getattr(model, "names", None))
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


def _rows_by_name(theirs: Any, ours: Any) -> torch.Tensor | None:
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


def _adopt_names(model: nn.Module, source: nn.Module, report: Report) -> None:
    """Class names come with the head's weights, to a model that has only placeholders."""
    names = getattr(source, "names", None)
    placeholders = {i: str(i) for i in range(len(names or ()))}
    head = report.rows[-1]
    if not isinstance(names, dict) or head.new or head.partial or hasattr(model, "set_classes"):
        return
    if getattr(model, "names", None) == placeholders:
        model.names = dict(names)  # type: ignore[assignment]


def _report(found: Alignment, model: nn.Module, source: nn.Module, by_name: set[str], name: str) -> Report:
    """Compare what was planned with what the model holds now."""
    here, there = model.state_dict(), source.state_dict()
    partial, carried, reasons = {}, set(), {r.source: r.reason for r in found.refusals}
    for k, s in found.keys.items():
        if k in by_name:
            partial[k] = "class rows by name"
        elif here[k].shape == there[s].shape:
            carried.add(k)
        elif k == FIRST and here[k].shape[2:] == there[s].shape[2:]:
            partial[k] = "input channels in common"
        else:
            reasons[s] = f"{_shape(there[s])} there, {_shape(here[k])} here"
    rows = []
    for t in found.targets:
        at = f"model.{t.index}."
        keys = [k for k in here if k.startswith(at)]
        new = [k for k in keys if k not in carried and k not in partial]
        why = [found.notes.get(t.index, "")] if new else []
        why += sorted({r.reason for r in found.refusals if r.target.startswith(at)})
        changed = [k for k in new if found.keys.get(k) in reasons]
        why += [f"{changed[0][len(at) :]}: {reasons[found.keys[changed[0]]]}"] if changed else []
        pair = found.pairs.get(t.index)
        rows.append(
            RowReport(
                index=t.index,
                name=t.name,
                source=pair,
                source_name="" if pair is None else found.sources[pair].name,
                carried=tuple(k[len(at) :] for k in keys if k in carried),
                partial={k[len(at) :]: v for k, v in partial.items() if k.startswith(at)},
                new=tuple(k[len(at) :] for k in new),
                note="; ".join(filter(None, why)),
                ours=t.is_own or t.is_form,
            )
        )
    used = {found.keys[k] for k in carried | partial.keys()}
    return Report(name, _name(source), len(there), tuple(rows), _left(found, set(there) - used, reasons))


def _left(found: Alignment, keys: set[str], reasons: dict[str, str]) -> tuple[Left, ...]:
    """What of the weights went nowhere, by row and reason."""
    paired = set(found.pairs.values())
    groups: dict[tuple[int, str, str], list[str]] = {}
    for s in found.sources:
        for key in sorted(k for k in keys if k.startswith(f"model.{s.index}.")):
            known = [why for prefix, why in reasons.items() if key.startswith(prefix)]
            nothing = "the model has no such part" if s.index in paired else "the model has no such row at this place"
            groups.setdefault((s.index, s.name, known[0] if known else nothing), []).append(key)
    return tuple(Left(i, name, tuple(group), why) for (i, name, why), group in groups.items())


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _name(model: nn.Module) -> str:
    """What a user would call a model."""
    path = getattr(model, "pt_path", None) or (getattr(model, "yaml", None) or {}).get("yaml_file")
    return Path(str(path)).name if path else type(model).__name__


def _is_fused(model: nn.Module) -> bool:
    return bool(getattr(model, "is_fused", lambda: False)())


def _log(report: Report, fused: bool) -> None:
    """One line; a warning where little of the weights was of use, and most of the model got nothing."""
    from ultralytics.utils import LOGGER

    missing = sum(len(r.new) for r in report.rows if not r.ours)
    if fused:
        LOGGER.warning(
            f"yolo_attn: {report.summary}. These weights are fused for inference: their BatchNorms are folded into the "
            "convolutions before them and missing here. Use the checkpoint as it was trained."
        )
    elif report.carried < missing and 2 * report.carried < report.total:
        LOGGER.warning(
            f"yolo_attn: {report.summary}. Most stock layers of this model have no counterpart in these weights; "
            "they probably belong to another architecture."
        )
    else:
        LOGGER.info(f"yolo_attn: {report.summary}")
