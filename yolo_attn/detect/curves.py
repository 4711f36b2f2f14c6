"""Training curves: means over seeds, and whether they still rise at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from .statistics import TEST

#: The most epochs that a curve shows. A curve still rises if the last tenth of its epochs adds over this share.
EPOCHS, RISING = 150, 0.02
Results = Mapping[str, Any]


def curve_columns(results: Results, data: str) -> list[str]:
    """Columns that the trainings of a dataset have, that of the metric first."""
    columns = [k for c in results["cells"] if c["data"] == data for k in c["curves"] if k not in ("epoch", "time")]
    metric = results["metric"].removeprefix(TEST)  # trainings are validated on the validation split
    wanted = {"top1": "accuracy_top1", "top5": "accuracy_top5"}.get(metric, metric.removeprefix("box "))
    endings = ("(B)",) if metric.startswith("box ") else ("(M)", "(P)", "(B)", "")
    first = next((n for e in endings if (n := f"metrics/{wanted}{e}") in columns), "")
    return sorted(dict.fromkeys(columns), key=lambda c: (c != first, not c.startswith("metr")))


def curve(results: Results, data: str, model: str, column: str) -> dict[str, Any] | None:
    """Mean, minimum and maximum of a column by epoch, over the seeds of a model that have that epoch."""
    values: dict[float, list[float]] = {}
    for cell in results["cells"]:
        if cell["data"] == data and cell["model"] == model and column in cell["curves"]:
            run = cell["curves"][column]
            for epoch, value in zip(cell["curves"].get("epoch") or range(1, len(run) + 1), run, strict=False):
                if value is not None:
                    values.setdefault(epoch, []).append(value)
    if not values:
        return None
    epochs = sorted(values)[:: math.ceil(len(values) / EPOCHS)]
    shown: dict[str, Callable[[list[float]], float]] = {
        "mean": lambda v: math.fsum(v) / len(v),
        "low": min,
        "high": max,
    }
    of_epochs = {name: [float(f"{of(values[e]):.5g}") for e in epochs] for name, of in shown.items()}
    return {"model": model, "epoch": epochs, **of_epochs}


def rises(results: Results, data: str, model: str) -> bool:
    """Whether the metric, averaged over seeds, grew by more than `RISING` from one tenth of the epochs to the last."""
    columns = curve_columns(results, data)
    found = curve(results, data, model, columns[0]) if columns and columns[0].startswith("metr") else None
    tenth = max(len(found["mean"]) // 10, 1) if found else 0
    if not found or len(found["mean"]) < 2:
        return False
    before, last = (fmean(part) for part in (found["mean"][-2 * tenth : -tenth], found["mean"][-tenth:]))
    return last > before * (1 + RISING)
