"""How many seeds a benchmark needs, from the spread of paired differences and the times that its folder already has."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import variance
from typing import Any, NamedTuple

from ..errors import UsageError
from .plan import Plan
from .statistics import ENOUGH, detectable
from .status import duration
from .store import Store

AUTO = "auto"
#: Pairs from which the spread of a comparison counts; seeds that are looked for in a folder; the most that are tried.
PAIRS, SEEDS, MOST = 3, 100, 1000
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def read_budget(text: str) -> float:
    """Seconds of 90min, 2h or 1.5d; ValueError for something else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", text)
    if not found or not float(found[1]):
        raise ValueError("must be a time such as 90min, 2h or 1.5d")
    return float(found[1]) * UNITS[found[2]]


class Pilot(NamedTuple):
    """What the results in a folder say of a table."""

    deviation: float  # of paired differences with the stock model, pooled over models and datasets
    pairs: int  # all that it comes from
    seconds: float  # of a run
    done: int  # runs

    def seeds_for(self, effect: float) -> int:
        """Fewest seeds, at least `ENOUGH`, with which four of five tables find a true difference of this size."""
        return next((n for n in range(ENOUGH, MOST) if detectable(self.deviation, n) <= effect), MOST)

    def seeds_within(self, budget: float, cells: int, jobs: int) -> int:
        """Seeds that are done after so many seconds, with `cells` runs a seed and `jobs` at a time."""
        return min(int((budget * jobs / self.seconds + self.done) // cells), MOST)


def pilot(plan: Plan, store: Store) -> Pilot | None:
    """What the results in a folder say of this table, whatever their seeds; None where too little is done."""
    cells = replace(plan, seeds=tuple({*range(SEEDS), *plan.seeds})).with_cells().cells
    done = {(c.data, c.model, c.seed): r for c in cells if (r := store.result(c.id))}
    pairs, squares, degrees = 0, 0.0, 0
    for data in plan.datasets:
        scores: dict[str, dict[int, float]] = {m.name: {} for m in plan.models}
        for (name, model, seed), outcome in done.items():
            value = outcome["values"].get(plan.metric, math.nan)
            if name == data.name and math.isfinite(value):
                scores[model][seed] = value
        stock = scores.pop(plan.stock.name)
        for own in scores.values():
            differences = [own[s] - stock[s] for s in own.keys() & stock.keys()]
            if len(differences) >= PAIRS:
                pairs, degrees = pairs + len(differences), degrees + len(differences) - 1
                squares += variance(differences) * (len(differences) - 1)
    if not squares:
        return None
    seconds = sum(float(r["seconds"]) for r in done.values()) / len(done)
    return Pilot(math.sqrt(squares / degrees), pairs, seconds, len(done))


def with_seeds(plan: Plan, store: Store, values: Mapping[str, Any]) -> Plan:
    """The plan with the seeds that `seeds=auto` means: those that `effect=` needs, as far as `budget=` allows.

    The number is fixed before the first run: the same command, given again, does not estimate it again.

    Raises:
        UsageError: Neither is given, too little is done to tell, or the budget does not allow `ENOUGH` seeds.
    """
    effect, budget = values["effect"], values["budget"]
    if not effect and not budget:
        raise UsageError("seeds=auto needs the difference to be found, effect=0.01, or a time, budget=2h, or both.")
    with contextlib.suppress(FileNotFoundError, ValueError):
        if (fixed := store.read_plan()).command == plan.command:
            return replace(plan, seeds=fixed.seeds).with_cells()
    found = pilot(plan, store)
    if found is None:
        raise UsageError(
            f"seeds=auto: {store.folder} has no comparison of {PAIRS} seeds with this metric yet, to take the "
            f"spread from. Run the same command with seeds={PAIRS} first; its runs count."
        )
    cells = len(plan.models) * len(plan.datasets)
    allowed = found.seeds_within(budget, cells, values["jobs"] or 1) if budget else MOST
    if allowed < ENOUGH:
        raise UsageError(
            f"seeds=auto: the budget is enough for {allowed} seeds of {cells} runs, {duration(found.seconds)} each; a "
            f"verdict needs {ENOUGH}. Give more time or fewer models."
        )
    n = min(found.seeds_for(effect) if effect else allowed, allowed)
    return replace(plan, seeds=tuple(range(n))).with_cells()


def advice(plan: Plan, store: Store, values: Mapping[str, Any]) -> list[str]:
    """What these seeds, `effect=` and `budget=` mean, by what is done; nothing where too little is done."""
    found = pilot(plan, store)
    if found is None:
        return []
    cells, jobs = len(plan.models) * len(plan.datasets), values["jobs"] or 1
    lines = [f"paired differences so far have a standard deviation of {found.deviation:.4f} ({found.pairs} pairs)"]

    def shown(n: int) -> str:
        left = max(n * cells - found.done, 0) * found.seconds / jobs
        return f"{n} seeds, about {duration(left)} more, detect {detectable(found.deviation, n):.4f}"

    if len(plan.seeds) > 1:
        lines.append(shown(len(plan.seeds)))
    if values["effect"]:
        lines.append(f"for effect={values['effect']:g}: {shown(found.seeds_for(values['effect']))}")
    if values["budget"] and (n := found.seeds_within(values["budget"], cells, jobs)) > 1:
        lines.append(f"within the budget: {shown(n)}")
    return lines


def added_seeds(plan: Plan, store: Store) -> list[int]:
    """Seeds that were added to this table after a report had verdicts on it, by this command or an earlier one."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        earlier = store.read_plan()
        if {c.id for c in earlier.cells} & {c.id for c in plan.cells}:  # the same table
            seen = (store.folder / "report.html").exists() and len(earlier.seeds) >= ENOUGH
            new = {*plan.seeds} - {*earlier.seeds} if seen else set()
            return sorted((new | {*earlier.local.get("added", ())}) & {*plan.seeds})
    return []
