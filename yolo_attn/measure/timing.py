"""Interleaved timing of several functions, and the statistics of their ratios."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

LEAST, MOST = 5, 50


@dataclass(frozen=True)
class Spread:
    """Measured values.

    Attributes:
        values: In the order of measurement.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def p10(self) -> float:
        """The 10th percentile."""
        return self._deciles()[0]

    @property
    def p90(self) -> float:
        """The 90th percentile."""
        return self._deciles()[-1]

    @property
    def n(self) -> int:
        """Number of values."""
        return len(self.values)

    def overlaps(self, other: Spread) -> bool:
        """Whether the intervals from p10 to p90 overlap; then no difference is claimed."""
        return self.p10 <= other.p90 and other.p10 <= self.p90

    def ratio_to(self, other: Spread) -> Spread:
        """These values over those of `other` that were measured in the same round."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def _deciles(self) -> list[float]:
        return statistics.quantiles(self.values, n=10, method="inclusive") if self.n > 1 else list(self.values)


def interleave(
    calls: Mapping[str, Callable[[], object]],
    repeats: int | None = None,
    seconds: float = 3.0,
    before: Callable[[], object] = lambda: None,
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Spread]:
    """Time functions in turn, A B A B, so that disturbances of the machine affect all of them.

    Args:
        calls: Name -> function.
        repeats: Rounds; by default as many as fit into `seconds`, 5 to 50.
        seconds: Time to fill.
        before: Called before every measurement, not timed.
        wait: Waits for the device, timed.
        clock: Seconds; `time.process_time` counts those of the processor, which other processes disturb less.

    Returns:
        Name -> seconds of each round. The first round is a warm-up and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    with collection_paused():
        rounds = 1 + (repeats or LEAST)
        done = 0
        while done < rounds:
            start = time.perf_counter()
            for name, call in calls.items():
                before()
                wait()
                begin = clock()
                call()
                wait()
                times[name].append(clock() - begin)
            done += 1
            # The first round also loads and tunes kernels; the second gives the duration of a round.
            if repeats is None and done == 2:
                fitting = int(seconds / (time.perf_counter() - start))
                rounds = 1 + min(max(fitting, LEAST), MOST)
    return {name: Spread(tuple(values[1:])) for name, values in times.items()}


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Collect garbage now and disable collection until the end."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))
