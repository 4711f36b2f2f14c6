"""What the plots show, for the page and for the PNGs alike: looks of models, points, bands, differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..plan import CANDIDATE, STOCK

#: Of candidates; told apart by people with any kind of colour vision, at least 3:1 on white and on near-black.
PALETTE = ("#0960cc", "#de7810", "#a34094", "#0e9cd6", "#c91c30", "#00a556", "#763bfe")
GREY = "#7d7d7d"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")
#: Models from which on curves are drawn without their bands, which would hide one another.
CROWD = 12
#: Columns of a training's table that are no curve.
NO_CURVES = ("epoch", "time")


@dataclass(frozen=True)
class Look:
    """How a model is drawn everywhere.

    Attributes:
        colour: As #rrggbb.
        symbol: A name of `SYMBOLS`.
        hollow: For controls.
    """

    colour: str
    symbol: str
    hollow: bool = False


def looks(models: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Model -> look: stock grey, candidates coloured, a control hollow in the colour of the candidate that it is for.

    Args:
        models: Of results; a control that serves several candidates is grey.
    """
    found: dict[str, Look] = {}
    number = 0
    for m in models:
        if m["role"] == CANDIDATE:
            symbol = SYMBOLS[(number % len(PALETTE) + number // len(PALETTE)) % len(SYMBOLS)]
            found[m["name"]] = Look(PALETTE[number % len(PALETTE)], symbol)
            number += 1
    for m in models:
        if m["name"] not in found:
            served = [c["name"] for c in models if c["role"] == CANDIDATE and c["control"] == m["name"]]
            whose = found[served[0]] if len(served) == 1 else Look(GREY, "circle")
            found[m["name"]] = Look(GREY, "circle") if m["role"] == STOCK else Look(whose.colour, whose.symbol, True)
    return {m["name"]: found[m["name"]] for m in models}


def rows_of(results: Mapping[str, Any], data: str) -> list[Mapping[str, Any]]:
    """The rows of a dataset."""
    return [r for r in results["rows"] if r["data"] == data]


def score(row: Mapping[str, Any], metric: str) -> tuple[float | None, Sequence[float] | None]:
    """Mean and interval of a metric; None for what is unknown."""
    found = row["metrics"].get(metric) or {}
    return found.get("mean"), found.get("interval")


@dataclass(frozen=True)
class Point:
    """A model's score against what it costs.

    Attributes:
        model: Its name.
        x: The cost.
        x_range: p10 and p90 of a time.
        y: Mean of the metric.
        y_range: Its 95 % interval; None with fewer than two seeds.
        seeds: That it is from.
    """

    model: str
    x: float
    x_range: tuple[float, float] | None
    y: float
    y_range: tuple[float, float] | None
    seeds: tuple[str, ...]


def cost_points(results: Mapping[str, Any], data: str, cost: str) -> list[Point]:
    """The models of a dataset that have a score and this cost.

    Args:
        results: Of `gather`.
        data: Name of the dataset.
        cost: A key of a row's costs: gflops, latency_ms, onnx_ms, parameters.
    """
    found = []
    for row in rows_of(results, data):
        mean, interval = score(row, results["metric"])
        x = row["cost"].get(cost)
        if mean is None or x is None:
            continue
        stem = cost.removesuffix("_ms")
        ends = [row["cost"].get(f"{stem}_p{q}") for q in (10, 90)]
        seeds = tuple(map(str, row["metrics"][results["metric"]].get("values") or ()))
        x_range = (ends[0], ends[1]) if None not in ends else None
        found.append(Point(row["model"], x, x_range, mean, (interval[0], interval[1]) if interval else None, seeds))
    return found


def latency_key(results: Mapping[str, Any]) -> str:
    """The latency that was measured: PyTorch's, else ONNX Runtime's, else nothing."""
    for key in ("latency_ms", "onnx_ms"):
        if any(r["cost"].get(key) is not None for r in results["rows"]):
            return key
    return ""


def compared(results: Mapping[str, Any], data: str, against: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Rows with their paired difference, where at least one seed is done in both.

    Args:
        results: Of `gather`.
        data: Name of the dataset.
        against: vs_stock or vs_control.
    """
    rows = rows_of(results, data)
    return [(r, r[against]) for r in rows if r.get(against) and r[against].get("mean") is not None]


def frame(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """A range for an axis.

    With two seeds an interval may be ten times as wide as all that was measured; drawn whole it would squeeze that into
    one spot, so it leaves the plot on both sides instead.

    Args:
        values: Shown for certain, with a margin.
        ends: Of intervals; shown as far as they are within one and a half times the width of the values.
    """
    low, high = min(values), max(values)
    room = 1.5 * (high - low) or math.inf
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def span(pairs: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """A range for differences, with zero in it."""
    values = [0.0, *(d for p in pairs for d in p["differences"].values())]
    return frame(values, [end for p in pairs for end in (*(p["t"] or ()), *(p["bootstrap"] or ()))])


def score_span(results: Mapping[str, Any], data: str) -> tuple[float, float]:
    """A range for the metric on a dataset where at least one model has a score."""
    found = [r["metrics"][results["metric"]] for r in rows_of(results, data) if results["metric"] in r["metrics"]]
    values = [v for f in found for v in (f["mean"], *f["values"].values())]
    return frame(values, [end for f in found for end in f["interval"] or ()])


def leaves(bounds: tuple[float, float], ends: Sequence[float]) -> bool:
    """Whether an interval is wider than the axis."""
    return any(not bounds[0] <= end <= bounds[1] for end in ends)


@dataclass(frozen=True)
class Band:
    """A training curve over seeds.

    Attributes:
        x: Epochs.
        mean: Over the seeds that came so far.
        low: Least of them.
        high: Most of them.
        seeds: How many there are at the first epoch.
    """

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: int


def curve_columns(results: Mapping[str, Any], data: str) -> list[str]:
    """Columns that a training of this dataset has, that of the metric first."""
    cells = [c for c in results["cells"] if c["data"] == data and c["curves"]]
    columns = [k for k in dict.fromkeys(k for c in cells for k in c["curves"]) if k not in NO_CURVES]
    metric = results["metric"]
    plain = metric.removeprefix("box ")
    wanted = {"top1": "accuracy_top1", "top5": "accuracy_top5"}.get(metric, plain)
    endings = ("(B)",) if metric.startswith("box ") else ("(M)", "(P)", "(B)", "")
    names = [f"metrics/{wanted}{ending}" for ending in endings]
    first = next((n for n in names if n in columns), None) or next((c for c in columns if c.startswith("metr")), None)
    return sorted(columns, key=lambda c: (c != first, not c.startswith("metr")))


def curve_band(results: Mapping[str, Any], data: str, model: str, column: str) -> Band | None:
    """Mean, least and most of a column over the seeds of a model; None where nothing is known."""
    runs = []
    for cell in results["cells"]:
        if cell["data"] == data and cell["model"] == model and column in cell["curves"]:
            values = cell["curves"][column]
            epochs = cell["curves"].get("epoch") or list(range(1, len(values) + 1))
            run = [(e, v) for e, v in zip(epochs, values, strict=False) if v is not None and math.isfinite(v)]
            if run:
                runs.append(run)
    x = sorted({e for run in runs for e, _ in run})
    columns = [[v for run in runs if (v := _at(run, e)) is not None] for e in x]
    x, columns = [e for e, c in zip(x, columns, strict=True) if c], [c for c in columns if c]
    if not x:
        return None
    means = [math.fsum(c) / len(c) for c in columns]
    return Band(x, means, [min(c) for c in columns], [max(c) for c in columns], len(runs))


def _at(run: Sequence[tuple[float, float]], x: float) -> float | None:
    """A curve's value between its points; None outside, for a training that stopped early has nothing there."""
    if not run[0][0] <= x <= run[-1][0]:
        return None
    import bisect

    i = bisect.bisect_left(run, (x, -math.inf))
    if run[i][0] == x or i == 0:
        return run[i][1]
    (x0, y0), (x1, y1) = run[i - 1], run[i]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
