"""The contents of a results folder as JSON values, from which tables, plots and the page are made.

A folder that is unfinished, or in which runs failed, gives what it has; `warnings` say what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from . import costs, ranking, sentences
from .plan import CANDIDATE, PLACES, Cell, Dataset, Model, Plan
from .statistics import mean_interval, paired
from .store import DONE, FAILED, Store

#: Metrics that are known for classes and for sizes of objects.
PARTS = ("mAP50-95", "mAP50")
DATASET = ("name", "task", "names", "images", "objects", "samples")
MODEL = ("name", "role", "parameters", "gflops", "control", "recipe", "grown", "word")
Values = dict[str, dict[int, float]]


def gather(store: Store) -> dict[str, Any]:
    """Read a results folder.

    Args:
        store: The folder, with its plan.

    Returns:
        command, metric, arguments, start, seeds, versions, machines, datasets, models: what was run; rows: a dataset
        and a model each, with means, intervals, differences and costs; cells: one training each; counts: state ->
        number of cells; costs: where latency was measured; places: of `bench places`, ranked; warnings and summary:
        sentences.

    Raises:
        FileNotFoundError: There is no plan.
        ValueError: The plan is damaged or of another version.
    """
    plan = store.read_plan()
    cells = [_cell(store, c) for c in plan.cells]
    measured = costs.read(store, plan) or {}
    rows = []
    for data in plan.datasets:
        own = {m.name: [c for c in cells if (c["data"], c["model"]) == (data.name, m.name)] for m in plan.models}
        latency = measured.get("rows", {}).get(data.name, {})
        values = {name: _values(of_model) for name, of_model in own.items()}
        rows += [_row(plan, data, m, own[m.name], values, latency.get(m.name) or {}) for m in plan.models]
    machines = [c["machine"] for c in cells if c["machine"]]
    states = [c["state"] for c in cells]
    results: dict[str, Any] = finite(
        {
            **{k: getattr(plan, k) for k in ("command", "metric", "arguments", "start", "seeds", "versions")},
            "machines": [m for i, m in enumerate(machines) if m not in machines[:i]],
            "datasets": [{k: getattr(d, k) for k in DATASET} for d in plan.datasets],
            "models": [{k: getattr(m, k) for k in MODEL} for m in plan.models],
            "rows": rows,
            "cells": cells,
            "counts": {state: states.count(state) for state in dict.fromkeys(states)},
            "costs": measured.get("setup", {}),
        }
    )
    if plan.kind == PLACES:
        results["places"] = ranking.ranking(results)
    results["warnings"] = [*sentences.warnings(results), *measured.get("remarks", [])]
    results["summary"] = (ranking if "places" in results else sentences).summary(results)
    return results


def finite(value: Any) -> Any:
    """The same value with None for what JSON has no number for; tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def _cell(store: Store, cell: Cell) -> dict[str, Any]:
    """One cell and its outcome."""
    state = store.state(cell.id)
    outcome = (store.result(cell.id) if state.name == DONE else None) or {}
    peak = outcome.get("peak_bytes") or {}
    return {
        **vars(cell),
        "state": state.name,
        "reason": state.reason,
        **{k: outcome.get(k, {}) for k in ("values", "classes", "sizes", "curves", "shares", "samples", "machine")},
        "seconds": outcome.get("seconds"),
        "peak_bytes": peak.get("cuda", peak.get("resident")),
        "order": outcome.get("order", ""),
    }


def _values(cells: Iterable[Mapping[str, Any]]) -> Values:
    """Metric -> seed -> value, of the cells that are done; "mAP50-95 small" and its like are among the metrics."""
    found: Values = {}
    for cell in cells:
        of_sizes = {f"{part} {size}": v[part] for size, v in cell["sizes"].items() for part in PARTS if part in v}
        for metric, value in {**cell["values"], **of_sizes}.items():
            if math.isfinite(value):
                found.setdefault(metric, {})[cell["seed"]] = value
    return found


def _row(
    plan: Plan,
    data: Dataset,
    model: Model,
    cells: list[dict[str, Any]],
    values: Mapping[str, Values],
    latency: Mapping[str, Any],
) -> dict[str, Any]:
    """A model on a dataset."""
    done = [c for c in cells if c["state"] == DONE]
    parameters, gflops = model.costs.get(data.name, (model.parameters, model.gflops))

    def versus(other: str) -> dict[str, Any] | None:
        if other not in values or other == model.name:
            return None
        found = paired(*(values[name].get(plan.metric, {}) for name in (model.name, other)))
        return {**asdict(found), "differences": {str(s): d for s, d in (found.differences or {}).items()}}

    return {
        "data": data.name,
        "model": model.name,
        "role": model.role,
        "n": len(done),
        "failed": sum(c["state"] == FAILED for c in cells),
        "metrics": {metric: _spread(by_seed) for metric, by_seed in values[model.name].items()},
        "classes": {n: _means(c["classes"].get(n, {}) for c in done) for n in data.names if _has(done, "classes", n)},
        "sizes": {s: _objects(done, s) for s in ("small", "medium", "large") if _has(done, "sizes", s)},
        "share": mean(mean(c["shares"].values()) for c in done),
        "seconds": mean(c["seconds"] for c in done),
        "peak_bytes": max((c["peak_bytes"] for c in done if c["peak_bytes"]), default=None),
        "cost": {"parameters": parameters, "gflops": gflops, **{k: latency.get(k) for k in costs.MEASURED}},
        "vs_stock": versus(plan.stock.name),
        "vs_control": versus(model.control) if model.role == CANDIDATE else None,
        "control": model.control,
    }


def _spread(by_seed: Mapping[int, float]) -> dict[str, Any]:
    middle, interval = mean_interval(list(by_seed.values()))
    return {"mean": middle, "interval": interval, "values": {str(s): v for s, v in sorted(by_seed.items())}}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is a finite number; None where nothing is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(known) / len(known) if known else None


def _means(parts: Iterable[Mapping[str, float]]) -> dict[str, float | None]:
    """Means of the metrics in `PARTS`."""
    found = list(parts)
    return {part: mean(p.get(part) for p in found) for part in PARTS}


def _has(done: Iterable[Mapping[str, Any]], kind: str, name: str) -> bool:
    return any(name in c[kind] for c in done)


def _objects(done: Iterable[Mapping[str, Any]], size: str) -> dict[str, Any]:
    """Number of objects of a size, and means of metrics."""
    found = [c["sizes"][size] for c in done if size in c["sizes"]]
    return {"objects": found[0].get("objects"), **_means(found)}
