"""The key `block_lr` of a model YAML: the factor on the learning rate of new blocks (docs/fine-tuning.md)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from .base import Base, ModelError

KEY = "block_lr"
VARIABLE = "YOLO_ATTN_BLOCK_LR"  # environment variable that overrides the key


def with_block_lr(base: Base, factor: float | None) -> Base:
    """The base model with the key; unchanged for None.

    Raises:
        ModelError: The factor is not a positive number.
    """
    if factor is None:
        return base
    number = checked(factor, KEY)
    return replace(base, d={**base.d, KEY: int(number) if number.is_integer() else number})


def checked(value: Any, where: str) -> float:
    """A factor as a number.

    Raises:
        ModelError: It is not a positive finite number; the message names `where` it stands.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ModelError(
            f"{where}={value!r} is not a positive number. It multiplies the learning rate of new blocks; "
            "1 trains them like all other layers."
        )
    return number
