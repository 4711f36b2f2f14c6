"""SENetV2: the weights of mahendran-narayanan/SENetV2 (TensorFlow: kernels are input by output)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...blocks.senetv2 import SqueezeAggregatedExcitation
from . import adapts
from ._join import join, refuse

BRANCHES = ("func1a", "func1b", "func1c", "func1d")


@adapts("senetv2")
def senetv2(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """SEv2 of the authors' repository; `args` are its arguments by position."""

    def build(out: int, red: int = 32) -> SqueezeAggregatedExcitation:
        return SqueezeAggregatedExcitation(out, red, len(BRANCHES))

    positional: Sequence[Any] = kwargs.pop("args", ())
    named = {k: v for k, v in kwargs.items() if k not in ("out", "red")[: len(positional)]}
    module = build(*positional, **named)
    ours = {}
    for key, value in state.items():
        kernel = key.endswith(".kernel") and value.dim() == 2
        ours[key.replace(".kernel", ".weight")] = value.T[:, :, None, None] if kernel else value
    hidden = module.fc1.out_channels // len(BRANCHES)
    refuse(module, join(ours, "fc1", module.fc1, dict.fromkeys(BRANCHES, hidden)))
    return module, {k.replace("func2.", "fc2."): v for k, v in ours.items()}
