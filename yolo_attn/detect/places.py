"""The table of `yolo-attn bench places`: one model for each place in which a block can be inserted.

Every level of backbone, neck and both, and all levels of each; as a residual row and inside the stock rows (C2f, C3k2).
The report ranks them by paired effect per millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from .arguments import Request, read_request
from .models import read_yaml
from .plan import PLACES

FORMS = ("row", "csp")


def read_places(values: Mapping[str, Any], command: str) -> Request:
    """Check the arguments of `bench places` and work out its table.

    Args:
        values: Name -> value of the declared arguments; `rest` has those for Ultralytics.
        command: As typed.

    Raises:
        UsageError: Something is wrong; nothing has been written.
    """
    read_yaml(values["base"])
    names = places_of(values["block"], values["base"], values["levels"], values["forms"])
    return read_request(values, command, PLACES, names)


def places_of(block: str, base: str, levels: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Generator expressions for all places of a block; the same model under two names appears once.

    Raises:
        UsageError: The block is unknown, or has no place.
    """
    from ..yamls import ModelError, build_yaml
    from ..yamls.request import find_block

    find_block(block)
    found: dict[str, str] = {}
    reasons = []

    def fits(place: str, form: str) -> bool:
        """Whether the block can go there; records the model."""
        try:
            made = build_yaml(base, block, place, None, form)
        except ModelError as e:
            reasons.append(str(e))
            return False
        found.setdefault(repr((made.d["backbone"], made.d["head"])), f"{block}@{place.replace(',', '+')}@{form}")
        return True

    for form in forms:
        whole: list[str] = []
        for part in ("backbone", "neck"):
            parts = [place for level in levels if fits(place := f"{part}.{level}", form)]
            whole += parts
            if len(parts) > 1:
                fits(",".join(parts), form)
        for level in levels:
            if f"backbone.{level}" in whole and f"neck.{level}" in whole:
                fits(level, form)
        if len(whole) > 1:
            fits(",".join(whole), form)
    if not found:
        raise UsageError(f"block={block} has no place in {base} as {' or '.join(forms)}: {reasons[0]}")
    return list(found.values())
