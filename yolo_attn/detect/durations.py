"""How long runs take: one estimate for all that prints a remaining time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .plan import Cell


def duration(seconds: float) -> str:
    """Seconds as a short text."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Durations:
    """Expected seconds of runs: the mean of a model's runs on a dataset, or of the dataset's, or of all runs."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], list[float]] = {}

    def add(self, cell: Cell, seconds: float) -> None:
        """Learn how long a run took."""
        for key in ((cell.data, cell.model), (cell.data,), ()):
            self._known.setdefault(key, []).append(seconds)

    def of(self, cell: Cell) -> float | None:
        """Seconds of a run; None where no run is known."""
        keys = ((cell.data, cell.model), (cell.data,), ())
        found = next((self._known[key] for key in keys if key in self._known), None)
        return math.fsum(found) / len(found) if found else None

    def left(self, undone: Iterable[tuple[Cell, Mapping[str, Any]]], jobs: int) -> float | None:
        """Seconds until these runs are done, `jobs` at a time; None where nothing is known.

        Args:
            undone: Each run with its progress as `work.train` reports it, empty where it has not started.
            jobs: Runs at a time.
        """
        cells = list(undone)
        guess = Durations()
        for cell, progress in cells:
            if total := projected(progress):
                guess.add(cell, total)
        total = 0.0
        for cell, progress in cells:
            whole = self.of(cell) or projected(progress) or guess.of(cell)
            if whole is None:
                return None
            total += whole * (1 - float(progress.get("share", 0)))
        return total / max(jobs, 1)


def projected(progress: Mapping[str, Any]) -> float | None:
    """Seconds of a running training as a whole; None before its first epoch has ended.

    The first epoch contains the start of the process and is slower: once there are more, the others count.
    """
    share = float(progress.get("share", 0))
    if share <= 0 or "began" not in progress:
        return None
    began, now = float(progress["began"]), float(progress.get("at") or time.time())
    since, first = progress.get("first") or (began, 0.0)
    if share <= first:
        since, first = began, 0.0
    return now - began + (1 - share) * (now - since) / (share - first)


def known(cells: Iterable[Cell], result: Callable[[str], Mapping[str, Any] | None]) -> Durations:
    """The durations of the cells that are done; `result`: id -> outcome."""
    found = Durations()
    for cell in cells:
        if (outcome := result(cell.id)) and "seconds" in outcome:
            found.add(cell, float(outcome["seconds"]))
    return found
