"""How many seeds a benchmark needs, from the spread of paired differences and the times that its folder already has.

`bench plan` prints it, and `seeds=auto` applies it. A spread from few pairs is uncertain itself: the true one may be
larger, and then more seeds are needed; both numbers are printed.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, variance
from typing import Any, NamedTuple

from ..errors import UsageError
from .durations import duration, known
from .plan import Cell, Dataset, Plan
from .sentences import listed, plural
from .statistics import ENOUGH, NEAR_ZERO, POWER, detectable
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


class Spread(NamedTuple):
    """The spread of the paired differences to stock on a dataset, pooled over models."""

    data: str
    deviation: float
    pairs: int  # all that it comes from
    degrees: int  # of freedom: each comparison loses one to its mean
    overlap: float  # as for `statistics.paired`

    @property
    def upper(self) -> float:
        """Upper limit that the true deviation exceeds in one of five pilots (Browne, Statistics in Medicine 1995)."""
        from scipy import stats

        return self.deviation * math.sqrt(self.degrees / float(stats.chi2.ppf(1 - POWER, self.degrees)))

    def detects(self, n: int) -> float:
        """Smallest difference that four of five tables with so many seeds find."""
        return detectable(self.deviation, n, self.overlap)

    def seeds_for(self, effect: float) -> int | None:
        """Fewest seeds, at least `ENOUGH`, that detect a difference; None where `MOST` do not."""
        return next((n for n in range(ENOUGH, MOST) if self.detects(n) <= effect), None)


class Pilot(NamedTuple):
    """What the results in a folder say of a table."""

    spreads: tuple[Spread, ...]  # of the datasets on which enough is done
    left: tuple[float, ...]  # seconds of the runs of seeds 0, 1, ... that are not done
    seed: float  # seconds of all runs of a seed

    def detects(self, n: int) -> float:
        """Smallest difference that so many seeds detect on every dataset."""
        return max(s.detects(n) for s in self.spreads)

    def seeds_for(self, effect: float) -> int | None:
        """Fewest seeds that detect a difference on every dataset; None where `MOST` do not."""
        needed = [s.seeds_for(effect) for s in self.spreads]
        return None if None in needed else max(n for n in needed if n)

    def seconds_left(self, n: int, jobs: int) -> float:
        """Time for seeds 0 to n - 1, `jobs` runs at a time, as far as they are not done."""
        return (math.fsum(self.left[:n]) + self.seed * max(n - len(self.left), 0)) / jobs

    def seeds_within(self, budget: float, jobs: int) -> int:
        """Seeds that are done after so many seconds."""
        return next(n for n in range(MOST, -1, -1) if self.seconds_left(n, jobs) <= budget)


def pilot(plan: Plan, store: Store) -> Pilot | None:
    """What the results in a folder say of this table, whatever their seeds; None where too little is known."""
    cells = _cells(plan)
    found = []
    for data in plan.datasets:
        stock, *others = _scores(plan, store, data)
        compared = [[own[s] - stock[s] for s in own.keys() & stock.keys()] for own in others]
        compared = [d for d in compared if len(d) >= PAIRS]
        pairs = sum(map(len, compared))
        degrees = pairs - len(compared)
        squares = sum(variance(d) * (len(d) - 1) for d in compared)
        if squares and _learned(stock, *others):
            found.append(Spread(data.name, math.sqrt(squares / degrees), pairs, degrees, plan.overlap(data)))
    if not found:
        return None
    durations, left = known(cells, store.result), dict.fromkeys(range(SEEDS), 0.0)
    for cell in cells:
        if cell.seed in left and store.result(cell.id) is None:
            left[cell.seed] += durations.of(cell) or 0.0
    whole = math.fsum(durations.of(c) or 0.0 for c in cells if c.seed == 0)
    return Pilot(tuple(found), tuple(left.values()), whole)


def unlearned(plan: Plan, store: Store) -> list[str]:
    """Datasets with results in which no model has learned enough to compare anything."""
    scores = {d.name: _scores(plan, store, d) for d in plan.datasets}
    return [name for name, found in scores.items() if any(found) and not _learned(*found)]


def _cells(plan: Plan) -> tuple[Cell, ...]:
    """The cells that a folder may have results of."""
    return replace(plan, seeds=tuple({*range(SEEDS), *plan.seeds})).with_cells().cells


def _scores(plan: Plan, store: Store, data: Dataset) -> list[dict[int, float]]:
    """Seed -> score of each model on a dataset, the stock model first."""
    scores: dict[str, dict[int, float]] = {m.name: {} for m in (plan.stock, *plan.models)}
    for cell in _cells(replace(plan, datasets=(data,))):
        value = (store.result(cell.id) or {"values": {}})["values"].get(plan.metric, math.nan)
        if math.isfinite(value):
            scores[cell.model][cell.seed] = value
    return [*scores.values()]


def _learned(*scores: dict[int, float]) -> bool:
    return any(own and fmean(own.values()) >= NEAR_ZERO for own in scores)


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
    missing = [d.name for d in plan.datasets if not found or d.name not in [s.data for s in found.spreads]]
    if found is None or missing:
        raise UsageError(
            f"seeds=auto: {store.folder} has no comparison of {PAIRS} seeds with this metric on {listed(missing)} yet, "
            "of models that learned something, to take the spread from. Run `yolo-attn bench plan` with the same "
            "arguments first; its runs count."
        )
    jobs = values["jobs"] or 1
    allowed = found.seeds_within(budget, jobs) if budget else MOST
    if allowed < ENOUGH:
        raise UsageError(
            f"seeds=auto: the budget is enough for {plural(allowed, 'seed')}; a verdict needs {ENOUGH}, which take "
            f"about {duration(found.seconds_left(ENOUGH, jobs))}. Give more time or fewer models."
        )
    n = min((found.seeds_for(effect) or MOST) if effect else allowed, allowed)
    if n == MOST:
        raise UsageError(
            f"seeds=auto: {MOST} seeds do not detect {effect:g}; they detect {found.detects(MOST):.4f}. Give a larger "
            "effect=, or a budget=."
        )
    return replace(plan, seeds=tuple(range(n))).with_cells()


def advice(plan: Plan, store: Store, values: Mapping[str, Any]) -> list[str]:
    """What these seeds, `effect=` and `budget=` mean, by what is done; nothing where too little is done."""
    found, jobs = pilot(plan, store), values["jobs"] or 1
    if found is None:
        return []
    lines = [
        f"{s.data}: paired differences so far have a standard deviation of {s.deviation:.4f} ({s.pairs} pairs; up to "
        f"{s.upper:.4f} with 80% confidence)"
        for s in found.spreads
    ]

    def shown(n: int) -> str:
        time = duration(found.seconds_left(n, jobs))
        return f"{plural(n, 'seed')}, about {time} more, detect {found.detects(n):.4f}"

    if len(plan.seeds) > 1:
        lines.append(shown(len(plan.seeds)))
    if effect := values["effect"]:
        n, cautious = found.seeds_for(effect), _cautious(found).seeds_for(effect)
        more = f"; {cautious} seeds if the spread is at its upper limit" if cautious and cautious != n else ""
        known = shown(n) + more if n else f"{MOST} seeds do not detect it; they detect {found.detects(MOST):.4f}"
        lines.append(f"for effect={effect:g}: {known}")
    if values["budget"]:
        n = found.seeds_within(values["budget"], jobs)
        few = "" if n >= ENOUGH else f"; a verdict needs {ENOUGH}, about {duration(found.seconds_left(ENOUGH, jobs))}"
        lines.append(f"within the budget: {shown(n) if n > 1 else plural(n, 'seed')}{few}")
    return lines


def _cautious(found: Pilot) -> Pilot:
    """The same with the upper limits of the deviations."""
    return found._replace(spreads=tuple(s._replace(deviation=s.upper) for s in found.spreads))


def added_seeds(plan: Plan, store: Store) -> list[int]:
    """Seeds that were added to this table after a report had verdicts on it, by this command or an earlier one."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        earlier = store.read_plan()
        if {c.id for c in earlier.cells} & {c.id for c in plan.cells}:  # the same table
            seen = (store.folder / "report.html").exists() and len(earlier.seeds) >= ENOUGH
            new = {*plan.seeds} - {*earlier.seeds} if seen else set()
            return sorted((new | {*earlier.local.get("added", ())}) & {*plan.seeds})
    return []
