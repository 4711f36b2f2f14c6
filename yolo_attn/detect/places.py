"""The table of `yolo-attn bench places`: one model for each place in which a block can be inserted.

Every level of backbone, neck and both, and all levels of each; as a residual row and inside the stock rows (C2f, C3k2).
The report ranks them by paired effect per millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from .arguments import Request, read_request
from .models import read_yaml
from .plan import PLACES

FORMS = ("row", "csp")


def read_places(values: Mapping[str, Any], command: str) -> Request:
    """Check the arguments of `bench places` and work out its table, as `read_request` does."""
    read_yaml(values["base"])
    names = places_of(values["block"], values["base"], values["levels"], values["forms"])
    return read_request(values, command, PLACES, names)


def places_of(block: str, base: str, levels: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Generator expressions for all places of a block; the same model under two names appears once.

    Raises:
        UsageError: The block is unknown, or has no place.
    """
    from ..yamls import ModelError, expression
    from ..yamls.request import find_block

    find_block(expression.parse(f"{block}@P4")[0].block)
    found: dict[str, str] = {}
    reasons = []
    single = {part: [f"{part}.{level}" for level in levels] for part in ("backbone", "neck")}
    for form in forms:

        def fit(places: Iterable[str], form: str = form) -> list[str]:
            """Those places at which the block can go; records the models."""
            fitting = []
            for place in places:
                entry = f"{block}@{place.replace(',', '+')}@{form}"
                try:
                    made = expression.build(base, entry)
                except ModelError as e:
                    reasons.append(str(e))
                    continue
                key = repr((made.d["backbone"], made.d["head"]))
                found.setdefault(key, entry)
                fitting.append(place)
            return fitting

        parts = [fit(places) for places in single.values()]
        fit(level for level in levels if all(any(p.endswith(f".{level}") for p in part) for part in parts))
        fit(",".join(part) for part in [*parts, parts[0] + parts[1]] if len(part) > 1)
    if not found:
        raise UsageError(f"block={block} has no place in {base} as {' or '.join(forms)}: {reasons[0]}")
    return list(found.values())
