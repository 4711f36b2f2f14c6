"""The rows of a built model: what each is underneath, where its input comes from, and its stride."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .. import carriers, registry
from ..errors import UsageError

Shapes = dict[str, tuple[int, ...]]


class TransferError(UsageError):
    """Weights that cannot be transferred; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a model.

    Attributes:
        index: Its number in the model.
        module: What was built from it.
        inputs: Indices of the rows it takes its input from; empty for the first.
        stride_in: Strides of those rows' outputs.
        stride: Stride of its own output.
    """

    index: int
    module: nn.Module
    inputs: tuple[int, ...]
    stride_in: tuple[float, ...]
    stride: float

    @cached_property
    def elements(self) -> list[tuple[str, nn.Module]]:
        """State-dict prefix and module of each repeat; a single module is one repeat without prefix."""
        parts = list(self.module) if type(self.module) is nn.Sequential else []
        if parts and len({type(p) for p in parts}) == 1:
            return [(f"{i}.", p) for i, p in enumerate(parts)]
        return [("", self.module)]

    @property
    def cls(self) -> type[nn.Module]:
        """The class that the YAML row names."""
        return type(self.elements[0][1])

    @property
    def name(self) -> str:
        """The class's name, with the repeats if there are several."""
        return self.cls.__name__ + (f" x{len(self.elements)}" if len(self.elements) > 1 else "")

    @property
    def is_residual(self) -> bool:
        """Whether the row is a residual row of ours."""
        return issubclass(self.cls, carriers.Residual)

    @property
    def is_form(self) -> bool:
        """Whether the row is a stock block with an operator of ours inside."""
        return issubclass(self.cls, carriers.CSPForm)

    @property
    def is_own(self) -> bool:
        """Whether all of the row is ours: a residual row, or a block as its author wrote it."""
        return not self.is_form and registry.is_ours(self.elements[0][1])

    @property
    def keeps_size(self) -> bool:
        """Whether input and output have the same stride."""
        return self.stride_in == (self.stride,)

    @cached_property
    def base(self) -> str:
        """What the row is underneath; only rows of equal base can correspond."""
        if issubclass(self.cls, carriers.CSPForm):
            return self.cls.base_name
        if is_detect(self.cls):
            return "Detect"
        return path_of(self.cls) if self.is_own else self.cls.__name__

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes of the tensors that make the base; what an operator adds to a form is left out."""
        return {k: v for k, v in shapes_of(self.module).items() if not (self.is_form and k.startswith("attn."))}


def rows(model: nn.Module) -> list[Row]:
    """The rows of a model built from a YAML.

    Args:
        model: A model of Ultralytics; its rows are `model.model`.

    Raises:
        TransferError: It has no rows.
    """
    sequence = getattr(model, "model", None)
    if not isinstance(sequence, nn.Sequential) or not all(hasattr(m, "f") for m in sequence):
        raise TransferError(
            f"{type(model).__name__} was not built from rows of a YAML, so there is nothing to align. "
            "Give the weights as a checkpoint saved by Ultralytics (model.save, best.pt, last.pt) or as a YOLO model."
        )
    modules: list[Any] = list(sequence)
    inputs = [_inputs(i, m.f) for i, m in enumerate(modules)]
    strides = _strides(modules, inputs)
    return [
        Row(i, m, f, tuple(strides[j] for j in f) or (1.0,), strides[i])
        for i, (m, f) in enumerate(zip(modules, inputs, strict=True))
    ]


def strides_hold(all_rows: list[Row]) -> bool:
    """Whether the strides read from the rows are those that the head was built with."""
    head = all_rows[-1]
    known = head_strides(head.module)
    return not known or list(head.stride_in) == known


def is_detect(cls: type) -> bool:
    """Whether a class is a head of the Detect family."""
    return any(c.__name__ == "Detect" and c.__module__.startswith("ultralytics.") for c in cls.__mro__)


def is_head(module: nn.Module) -> bool:
    """Whether a module is a head of Ultralytics."""
    return type(module).__module__ == "ultralytics.nn.modules.head"


def level_count(head: nn.Module) -> int:
    """Number of pyramid levels a head works on; 0 where it has none."""
    return int(getattr(head, "nl", 0))


def head_strides(head: nn.Module) -> list[float]:
    """Strides of a head's levels; empty before the model was built completely."""
    stride = getattr(head, "stride", None)
    known = stride.tolist() if isinstance(stride, torch.Tensor) and stride.ndim == 1 else []
    return known if len(known) == level_count(head) and all(x > 0 for x in known) else []


def path_of(cls: type) -> str:
    """Import path of a class: the same for a class that a notebook cell declared twice."""
    return f"{cls.__module__}.{cls.__qualname__}"


def shapes_of(module: nn.Module) -> Shapes:
    """Shape of every tensor of a module."""
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def _inputs(i: int, f: int | list[int]) -> tuple[int, ...]:
    """Indices of the rows that feed row `i`; the image has none."""
    froms = [f] if isinstance(f, int) else f
    return tuple(j for j in (i + x if x < 0 else x for x in froms) if j >= 0)


def _strides(modules: list[nn.Module], inputs: list[tuple[int, ...]]) -> list[float]:
    """Stride of each row's output, read from the modules."""
    factors = [_stride_factor(m) for m in modules]
    strides: list[float] = []
    for m, factor, feeders in zip(modules, factors, inputs, strict=True):
        arriving = [strides[j] for j in feeders] or [1.0]
        strides.append(factor * (arriving[-1] if type(m).__name__ == "CBFuse" else max(arriving)))
    # A backbone in one row has several outputs, each with a stride of its own: behind it the head's strides count.
    several = [i for i, m in enumerate(modules) if callable(getattr(m, "out_channels", None)) and registry.is_ours(m)]
    several += [i for i, m in enumerate(modules) if type(m).__name__ == "TorchVision"]
    known = dict(zip(inputs[-1], head_strides(modules[-1]), strict=False))
    if several and known:
        for i in range(len(modules) - 2, min(several), -1):
            strides[i] = known.get(i, strides[i])
            for j in inputs[i]:
                known.setdefault(j, strides[i] / factors[i])
    return strides


def _stride_factor(module: nn.Module) -> float:
    """How much a row shrinks height and width."""
    if type(module) is nn.Sequential:
        factor = 1.0
        for part in module:
            factor *= _stride_factor(part)
        return factor
    block = registry.of(type(module))
    if block is not None:
        chosen = getattr(module, "stride", None)  # where it is an option
        return float(chosen if isinstance(chosen, int) else block.stride)
    if isinstance(module, nn.Upsample):
        scale = module.scale_factor
        return 1.0 / float(scale[0] if isinstance(scale, tuple) else scale) if scale else 1.0
    name = type(module).__name__
    if name == "HGStem" or (name == "ResNetLayer" and getattr(module, "is_first", False)):
        return 4.0  # two strided layers, one after the other
    if name == "Focus":
        return 2.0  # by slicing
    if is_head(module):
        return 1.0
    factor = 1.0
    for m in module.modules():
        if isinstance(m, nn.ConvTranspose2d):
            factor = min(factor, 1.0 / m.stride[0])
        elif isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            stride = m.stride[0] if isinstance(m.stride, tuple) else m.stride
            factor = max(factor, float(stride))
    return factor
