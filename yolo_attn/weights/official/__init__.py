"""The authors' weights in our modules.

`load(block, kwargs, state)` takes a block's reference name, the constructor arguments of the authors' class and their
state dict, and returns our module with those weights, in eval mode, BCHW in and BCHW out. One module per paper beside
this file holds its adapters as data; `adapter` is the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...registry import suggest
from . import (
    acmix,
    aff,
    cascaded_group,
    cbam,
    cloformer,
    dilated,
    focused_linear,
    irmb,
    litv2,
    mlca,
    senetv2,
    sknet,
    smt,
)
from .adapter import Adapter, OfficialWeightsError, Problem

__all__ = ["OfficialWeightsError", "Problem", "blocks", "load"]

ADAPTERS: dict[str, Adapter] = {
    **acmix.ADAPTERS,
    **aff.ADAPTERS,
    **cascaded_group.ADAPTERS,
    **cbam.ADAPTERS,
    **cloformer.ADAPTERS,
    **dilated.ADAPTERS,
    **focused_linear.ADAPTERS,
    **irmb.ADAPTERS,
    **litv2.ADAPTERS,
    **mlca.ADAPTERS,
    **senetv2.ADAPTERS,
    **sknet.ADAPTERS,
    **smt.ADAPTERS,
}


def blocks() -> list[str]:
    """The names that `load` accepts."""
    return sorted(ADAPTERS)


def load(block: str, kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Our module with the authors' weights.

    Args:
        block: Reference name of the authors' class, such as "smt_sam"; `blocks()` lists them.
        kwargs: The constructor arguments of the authors' class, under their names.
        state: The authors' state dict.

    Returns:
        The module in eval mode; BCHW -> BCHW (two inputs for two-input blocks, a list of maps for backbones).

    Raises:
        OfficialWeightsError: Unknown block or argument; missing, unknown and misshapen tensors and those of another
            type, all listed under the authors' names. `problems` holds them as data.
    """
    adapter = ADAPTERS.get(block)
    if adapter is None:
        known = blocks()
        raise OfficialWeightsError(
            f"no authors' block is named {block!r}.{suggest(block, known)} Known: {', '.join(known)}.", block
        )
    try:
        module = adapter.module(kwargs, state)
    except TypeError as e:
        raise OfficialWeightsError(
            f"{block}: arguments {dict(kwargs)} do not fit the authors' constructor ({e}).", block
        ) from e
    ours, problems = adapter.keys.translate(module, state)
    if problems:
        listed = "; ".join(map(str, problems))
        raise OfficialWeightsError(
            f"{block}: the state dict does not fit {type(module).__name__}: {listed}", block, problems
        )
    module.load_state_dict(ours)
    return module.eval()
