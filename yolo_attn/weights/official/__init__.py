"""The authors' weights in our modules.

`load(block, kwargs, state)` takes a block's reference name, the constructor arguments of the authors' class and their
state dict, and returns our module with those weights, in eval mode, BCHW in and BCHW out. One module per paper family
beside this file says how names and arguments correspond.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ...errors import UsageError

Adapter = Callable[[dict[str, Any], Mapping[str, Tensor]], tuple[nn.Module, Mapping[str, Tensor]]]
_adapters: dict[str, Adapter] = {}


class OfficialWeightsError(UsageError):
    """The authors' weights do not fit; the message lists what is unknown, missing or of another shape."""


def adapts(*blocks: str) -> Callable[[Adapter], Adapter]:
    """Declare a function that turns (authors' kwargs, authors' state) into (our module, our state)."""

    def decorate(function: Adapter) -> Adapter:
        for block in blocks:
            if block in _adapters:
                raise AssertionError(f"two adapters for {block}")
            _adapters[block] = function
        return function

    return decorate


def blocks() -> list[str]:
    """The names `load` understands."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_adapters)


def load(block: str, kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Our module with the authors' weights.

    Args:
        block: Reference name of the authors' class, such as "smt_sam"; `blocks()` lists them.
        kwargs: The constructor arguments of the authors' class, under their names.
        state: The authors' state dict.

    Returns:
        The module in eval mode; BCHW -> BCHW (two inputs for two-input blocks, a list of maps for backbones).

    Raises:
        OfficialWeightsError: Unknown block or argument; unknown, missing or misshapen keys, all listed.
    """
    from ...registry import suggest

    known = blocks()
    if block not in known:
        raise OfficialWeightsError(
            f"no authors' block is named {block!r}.{suggest(block, known)} Known: {', '.join(known)}."
        )
    try:
        module, ours = _adapters[block](dict(kwargs), state)
    except TypeError as e:
        raise OfficialWeightsError(
            f"{block}: arguments {dict(kwargs)} do not fit the authors' constructor ({e})."
        ) from e
    unfit = problems(module, ours)
    if unfit:
        raise OfficialWeightsError(f"{block}: the state dict does not fit {type(module).__name__}: " + "; ".join(unfit))
    module.load_state_dict(dict(ours))
    return module.eval()


def problems(module: nn.Module, ours: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unknown or misshapen in a state dict that is to fill a module.

    Args:
        module: The module.
        ours: The authors' state under our names, as far as these are known.

    Returns:
        One entry a tensor; names are ours where they differ from the authors', the shapes tell which layer is meant.
    """
    expected = module.state_dict()
    found = [f"missing {k} {tuple(expected[k].shape)}" for k in expected if k not in ours]
    found += [f"unknown {k} {tuple(ours[k].shape)}" for k in ours if k not in expected]
    found += [
        f"shape of {k}: {tuple(ours[k].shape)} given, {tuple(expected[k].shape)} needed"
        for k in expected
        if k in ours and expected[k].shape != ours[k].shape
    ]
    return found


def rename(state: Mapping[str, Tensor], *pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> dict[str, Tensor]:
    """A copy of `state` in which each key has every (regular expression, replacement) applied, in order."""
    out = {}
    for key, value in state.items():
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        out[key] = value
    return out
