"""SENetV2 (mahendran-narayanan/SENetV2, in TensorFlow: kernels are input by output)."""

from __future__ import annotations

from typing import Any

from ...blocks.senetv2 import SqueezeAggregatedExcitation
from .adapter import Adapter, Join, KeyMap, Part, Shape

BRANCHES = ("func1a", "func1b", "func1c", "func1d")


def _kernel(shape: Shape, _: Any) -> tuple[Shape, bool]:
    return (shape[1], shape[0]), True


def _branches(module: Any, _: Any) -> list[Part]:
    return [Part(name, module.fc1.out_channels // len(BRANCHES)) for name in BRANCHES]


ADAPTERS = {
    "senetv2": Adapter(
        "out, red=32",
        lambda a: SqueezeAggregatedExcitation(a.out, a.red, len(BRANCHES)),
        KeyMap(
            names=((r"^fc2\.", "func2."), (r"\.weight$", ".kernel")),
            layouts=((r"\.weight$", _kernel),),
            joins=(Join(SqueezeAggregatedExcitation, "fc1", _branches),),
        ),
    )
}
