"""What shares of the signal mean: numbers and verdicts, without PyTorch.

A share is defined in `gates.py`; a training writes those of its blocks to gates.csv.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: A model whose rows contribute less than this on average is called closed.
CLOSED = 0.05


def is_closed(shares: Sequence[float]) -> bool:
    """Whether blocks with these shares contribute less than `CLOSED` on average."""
    return bool(shares) and sum(shares) / len(shares) < CLOSED


def verdict(shares: Sequence[float]) -> str:
    """What a comparison of a trained model with the stock model is worth.

    Args:
        shares: Those of its gated blocks, such as the last row of a training's gates.csv.
    """
    if not shares:
        return "no gate"
    return "closed: this compares stock with stock" if is_closed(shares) else "open"


def contribution(shares: Sequence[float]) -> str:
    """A clause such as "blocks contribute 9.1 % to 20 % of the signal"."""
    if not shares:
        return "no block of this model has a gate"
    low, high = percent(min(shares)), percent(max(shares))
    return f"blocks contribute {low if low == high else f'{low} to {high}'} of the signal"


def percent(share: float) -> str:
    """A share in percent, to two digits."""
    return "not measured" if math.isnan(share) else f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
