"""Carriers: wrappers that insert an operator into a YOLO without changing the network's output at the start.

An operator is a paper's mechanism and nothing else. A carrier adds it to a network so that the network's function is
unchanged before the first optimiser step: the operator's branch ends in a BatchNorm whose gamma starts at zero, as in
zero-initialised residual networks (Goyal et al., https://arxiv.org/abs/1706.02677, section 5.1). A BatchNorm gamma,
unlike a bare gate parameter, is exempt from weight decay in Ultralytics' optimiser groups, and folds at inference.

    residual row    y = x + BN0(operator(x))
    C2f form        a stock C2f or C3k2 in which every inner bottleneck is followed by such a residual; the stock part
                    keeps its state-dict keys, so pretrained weights fit

The classes are derived per operator by the functions here.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import nn

from .layers import BatchNorm2d, Fusible, fold


class Residual(Fusible):
    """x + BN0(operator(x)); subclasses name the operator.

    Args:
        c1: Channels in and out.
        *args: The operator's options, by position.
        **kwargs: The operator's options, by name.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An option changes the size.
    """

    operator_class: ClassVar[type[nn.Module]]

    def __init__(self, c1: int, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        bound = inspect.signature(type(self)).bind(c1, *args, **kwargs)
        if (stride := bound.arguments.get("stride", 1)) != 1:
            raise ValueError(
                f"{stride=} must be 1: a residual row adds the operator's output to its input, so it cannot change the "
                f"size. To reduce the size, use {self.operator_class.__name__} itself as a row."
            )
        self.operator = self.operator_class(**bound.arguments)
        # YOLO's BatchNorm settings: this layer belongs to the carrier, not to the paper.
        gate = BatchNorm2d(c1, eps=1e-3, momentum=0.03)
        nn.init.zeros_(gate.weight)
        self.bn: nn.Module = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the gated operator's output to its input."""
        y: torch.Tensor = x + self.bn(self.operator(x))
        return y

    def fuse(self) -> None:
        """Fold the gate into the operator's last convolutions, or into a per-channel affine if it ends in none."""
        fold(self, "bn", getattr(self.operator, "output_convs", list)())


class CSPForm(nn.Module):
    """A stock cross-stage-partial block (C2f, C3k2) with a gated operator after each inner bottleneck.

    Args:
        c1: Input channels.
        c2: Output channels.
        n: Number of inner bottlenecks.
        *args: The stock block's arguments after its repeats, in its order; a dict at the end holds options of the
            operator by name.

    Shape:
        (B, c1, H, W) -> (B, c2, H, W).

    Raises:
        TypeError: An option that the operator does not have.
    """

    residual_class: ClassVar[type[Residual]]
    base_name: ClassVar[str] = "C2f"

    def __init__(self, c1: int, c2: int, n: int = 1, *args: Any) -> None:
        super().__init__()
        from ultralytics.nn import modules as stock

        *rest, options = args if args and isinstance(args[-1], dict) else (*args, {})
        base = getattr(stock, self.base_name)(c1, c2, n, *rest)
        self.cv1, self.cv2, self.m = base.cv1, base.cv2, base.m
        self.c = base.c  # hidden channels
        self.attn = nn.ModuleList(self.residual_class(self.c, **options) for _ in self.m)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Split, refine one half step by step, concatenate every step."""
        parts = list(self.cv1(x).chunk(2, 1))
        for bottleneck, attn in zip(self.m, self.attn, strict=True):
            parts.append(attn(bottleneck(parts[-1])))
        y: torch.Tensor = self.cv2(torch.cat(parts, 1))
        return y


def _signature_of_options(operator: type[nn.Module]) -> inspect.Signature:
    """The operator's signature as a keep-channels block sees it: without `c2`."""
    parameters = [p for k, p in inspect.signature(operator).parameters.items() if k != "c2"]
    return inspect.Signature(parameters)


def residual_row(operator: type[nn.Module], name: str) -> type[Residual]:
    """A class `name` that adds `operator` to a network as a residual row."""
    doc = f"Residual row around `{operator.__name__}`: x + BN0({operator.__name__}(x)). Shape: BCHW -> BCHW."
    attributes = {
        "__doc__": doc,
        "__module__": operator.__module__,
        "__qualname__": name,
        "operator_class": operator,
        "__signature__": _signature_of_options(operator),
    }
    return type(name, (Residual,), attributes)


def csp_form(residual: type[Residual], base_name: str, name: str) -> type[CSPForm]:
    """A class `name` that sets `residual` into the stock block `base_name`."""
    operator = residual.operator_class
    doc = (
        f"Stock `{base_name}` with a gated `{operator.__name__}` after each bottleneck. "
        "Shape: (B, c1, H, W) -> (B, c2, H, W)."
    )
    attributes = {
        "__doc__": doc,
        "__module__": operator.__module__,
        "__qualname__": name,
        "residual_class": residual,
        "base_name": base_name,
    }
    return type(name, (CSPForm,), attributes)
