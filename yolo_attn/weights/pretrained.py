"""Pretrained weights into models with attention blocks: every tensor to the layer it belongs to, none to another.

Ultralytics' own `load` matches tensors by name, and names count rows. Here rows are aligned first (`alignment`), then
Ultralytics' own `load` does the work on a view of the weights whose names are those of the model to be filled. So
whatever a release adds there (class rows by name, grey-scale input, its log line) still applies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import registry
from . import new_parameters
from .alignment import Alignment, align
from .class_rows import adopt_names, copy_by_name
from .model_rows import TransferError
from .transfer_report import FIRST, TransferReport, compare, item_count, name_of


@dataclass
class Request:
    """What `loading.transfer` asks of `load_aligned` below, through the frames of Ultralytics between them."""

    verbose: bool
    report: TransferReport | None = None


REQUEST: ContextVar[Request | None] = ContextVar("request", default=None)


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
    request = REQUEST.get()
    source = _module_of(weights)
    if request is None and not (registry.has_blocks(model) or (source is not None and registry.has_blocks(source))):
        original(model, weights, verbose)
        return
    if source is None:
        raise TransferError(
            f"this {type(weights).__name__} holds no model. A bare state dict names tensors but not their "
            "rows: give a checkpoint saved by Ultralytics, or the model itself."
        )
    verbose = request.verbose if request else verbose
    found = align(source, model)
    misfit: Any = getattr(source, "misfit", None)
    if misfit and not found.pairs:  # a paper's backbone alone, and the model has no place for it
        raise TransferError(misfit(model))
    by_name = copy_by_name(model, source, found)
    if request is None and not by_name and _is_itself(found, model, source):  # a resumed run, the trainer's rebuild
        original(model, weights, verbose)
        new_parameters.after_copy(model, source)
        return
    name = name_of(model)
    view, given = _view(source, model, found, by_name)
    original(model, view, verbose)
    by_name |= set(found.keys) - set(given) - {FIRST}
    report = compare(found, model, source, by_name, name)
    copied = {f"model.{row.index}.{key}" for row in report.rows for key in row.carried}
    new_parameters.after_load(model, source, {k: s for k, s in found.keys.items() if k in copied})
    if not (report.rows[-1].new or report.rows[-1].partial):
        adopt_names(model, source)
    if request:
        request.report = report
    if verbose:
        _log(report, _is_fused(source) and not _is_fused(model))


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
    """A shallow copy of the weights' model with the rows and names of `model`, and the tensors that it provides."""
    given: dict[str, torch.Tensor] = {}

    def state_dict(*_: Any, **__: Any) -> dict[str, torch.Tensor]:
        tensors = source.float().state_dict()
        given.update({k: tensors[s] for k, s in found.keys.items() if k not in without})
        if FIRST in model.state_dict():  # releases before 8.4.190 read it without a check
            given.setdefault(FIRST, torch.empty(0, 0, 0, 0))
        return given

    places = [found.pairs.get(t.index) for t in found.targets]
    # A head that corresponds only in part is not shown: its class branch must not replace the model's.
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


def _is_fused(model: nn.Module) -> bool:
    return bool(getattr(model, "is_fused", lambda: False)())


def _log(report: TransferReport, fused: bool) -> None:
    """One line; a warning where most of the weights were of no use and most of the model got none, or NaN."""
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
    elif report.new or report.left:  # otherwise Ultralytics' own line is complete
        LOGGER.info(f"yolo_attn: {report.summary}")
    if report.nonfinite:
        LOGGER.warning(
            f"yolo_attn: {report.weights} holds NaN or infinite numbers in {item_count(len(report.nonfinite))}, first "
            f"in {report.nonfinite[0]}. A model with these weights computes NaN; use another checkpoint."
        )
