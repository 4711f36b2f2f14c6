"""Which parameters of inserted blocks start new, that is, without pretrained weights.

`BaseModel.load` is the one way by which weights reach a model, so the record is kept there: a tuple of parameter names
on the model itself. It consists of plain built-in types, so it travels with the model through deepcopy, checkpoints,
the trainer's rebuild of the model and the file from which Ultralytics starts its DDP processes.

    no record        nothing was ever loaded: a model that is trained from scratch
    ("model.5.…",)   weights were loaded; these parameters of blocks did not get any
    ()               every block got weights, or the model has been trained

A resumed training must build the same optimizer groups again, so the choice that a training made is kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .. import registry
from ..carriers import CSPForm

_NEW = "yolo_attn_new"
_TRAINED = "yolo_attn_trained"


def block_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of the blocks inside a model.

    In C2f and C3k2 forms these are the residual rows; the rest of a form is Ultralytics' own and keeps its weights. A
    block in row 0 reads the image. It is a whole backbone, before which nothing can be pretrained, and does not count.
    """
    found: dict[str, None] = {}
    for path, module in model.named_modules():
        if registry.is_ours(module) and not isinstance(module, CSPForm):
            found.update((f"{path}.{name}" if path else name, None) for name, _ in module.named_parameters())
    return tuple(name for name in found if not name.startswith("model.0."))


def recorded(model: nn.Module) -> tuple[str, ...] | None:
    """Names of a model's new block parameters; None where nothing was ever loaded into it."""
    return model.__dict__.get(_NEW)


def record(model: nn.Module, names: Iterable[str]) -> None:
    """State which block parameters of a model are new."""
    model.__dict__[_NEW] = tuple(names)


def choice(model: nn.Module) -> dict[str, Any] | None:
    """What the model's last training chose, as given to `record_choice`; None before any training."""
    return model.__dict__.get(_TRAINED)


def record_choice(model: nn.Module, block_lr: float, names: Iterable[str]) -> None:
    """Keep what a resumed training needs, and mark the model as trained: nothing in its checkpoints is new.

    Args:
        model: The model that is about to be trained.
        block_lr: Factor on the learning rate.
        names: The parameters that it applies to.
    """
    model.__dict__[_TRAINED] = {"block_lr": block_lr, "names": list(names)}
    record(model, ())


def after_load(model: nn.Module, source: nn.Module, loaded: Mapping[str, str]) -> None:
    """Update the record of a model that was filled with weights.

    A block parameter is new if it got nothing and was new before, or if what it got is new in the source.

    Args:
        model: The model that was filled.
        source: The model that the weights come from.
        loaded: Tensor of `model` -> tensor of `source` that was copied to it, by state-dict key.
    """
    names = block_parameters(model)
    if not names:
        return
    before, there = recorded(model), set(recorded(source) or ())
    was_new = set(names if before is None else before)
    record(model, (k for k in names if (loaded[k] in there if k in loaded else k in was_new)))
    if (chosen := choice(source)) is not None:  # a resumed training asks for it; a new one replaces it
        model.__dict__[_TRAINED] = chosen


def after_copy(model: nn.Module, source: nn.Module) -> None:
    """The same for a model that got every tensor of an equal one."""
    after_load(model, source, {k: k for k in block_parameters(model)})
