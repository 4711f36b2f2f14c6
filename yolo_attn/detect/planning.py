"""`yolo-attn bench plan`: how many seeds a table needs, before it is trained.

Where its folder has no results yet, it runs a pilot: the first seeds of the same table, whose runs count afterwards.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .arguments import Request, read_request
from .power import AUTO, PAIRS, advice, pilot, unlearned
from .run import conduct
from .sentences import listed
from .statistics import NEAR_ZERO
from .store import Store


def plan_seeds(values: Mapping[str, Any], command: str) -> int:
    """Run a pilot where one is needed, and print what more seeds would detect in which time.

    Args:
        values: Name -> value of the arguments; `pilot` is the number of its seeds, 0 for what the folder has.
        command: As typed.

    Returns:
        The exit code, as that of `bench detect`.

    Raises:
        UsageError: An argument is invalid; nothing has been written.
    """
    fixed = {"seeds": None, "dry": not values["pilot"], "keep": False, "costs": False, "run": True}
    request = read_request({**values, **fixed}, command)
    store = Store(request.folder)
    found = pilot(request.plan, store)
    if values["pilot"] and (found is None or len(found.spreads) < len(request.plan.datasets)):
        plan = replace(request.plan, seeds=tuple(range(values["pilot"]))).with_cells()
        return conduct(replace(request, plan=plan), answer)
    print(answer(request, store))
    return 0


def answer(request: Request, store: Store) -> str:
    """What the results so far say of more seeds, and the command that runs as many."""
    values = request.values
    lines = advice(request.plan, store, values)
    if nothing := unlearned(request.plan, store):
        lines.append(
            f"{listed(nothing)}: no model reaches {request.plan.metric} {NEAR_ZERO}. Too little was learned for the "
            "spread to mean anything: train for longer, or start from pretrained weights."
        )
        return "\n".join(lines)
    if not lines:
        return (
            f"{store.folder} has no comparison of {PAIRS} seeds yet, to take the spread from: pilot={PAIRS} runs them."
        )
    arguments = [a for a in shlex.split(request.plan.command)[3:] if not a.startswith("pilot=")]
    asked = values["effect"] or values["budget"]
    command = ["yolo-attn", "bench", "detect", *arguments, f"seeds={AUTO}", *([] if asked else ["effect=0.01"])]
    return "\n".join(
        [*lines, f"{'this runs as many' if asked else 'for an effect of 0.01'}:", f"  {shlex.join(command)}"]
    )
