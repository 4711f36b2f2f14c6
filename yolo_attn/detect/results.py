"""The contents of a results folder as JSON values, from which tables, plots and the page are made.

A folder that is unfinished, or in which runs failed, gives what it has; `warnings` say what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from . import costs, ranking, sentences
from .plan import CANDIDATE, PLACES, STOCK, Cell, Dataset, Model, Plan
from .statistics import Paired, mean_interval, paired
from .store import DONE, FAILED, Store

#: Metrics that are known for classes and for sizes of objects.
PARTS = ("mAP50-95", "mAP50")
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
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["data"], cell["model"]), []).append(cell)
    rows = []
    for data in plan.datasets:
        values = {m.name: _values(groups.get((data.name, m.name), ())) for m in plan.models}
        for model in plan.models:
            own = groups.get((data.name, model.name), [])
            rows.append(_row(plan, data, model, own, values, measured.get("rows", {}).get(data.name, {})))
    machines: list[dict[str, Any]] = []
    for cell in cells:
        if cell["machine"] and cell["machine"] not in machines:
            machines.append(cell["machine"])
    states = [c["state"] for c in cells]
    results: dict[str, Any] = {
        "command": plan.command,
        "metric": plan.metric,
        "arguments": dict(plan.arguments),
        "start": dict(plan.start),
        "seeds": list(plan.seeds),
        "versions": dict(plan.versions),
        "machines": machines,
        "datasets": [_dataset(d) for d in plan.datasets],
        "models": [_model(m) for m in plan.models],
        "rows": rows,
        "cells": cells,
        "counts": {state: states.count(state) for state in dict.fromkeys(states)},
        "costs": measured.get("setup", {}),
    }
    results = finite(results)
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


def _dataset(data: Dataset) -> dict[str, Any]:
    d = asdict(data)
    return {k: d[k] for k in ("name", "task", "names", "images", "objects", "samples")}


def _model(model: Model) -> dict[str, Any]:
    names = ("name", "role", "parameters", "gflops", "control", "recipe", "grown", "word")
    return {k: getattr(model, k) for k in names}


def _cell(store: Store, cell: Cell) -> dict[str, Any]:
    """One cell and what came out of it."""
    state = store.state(cell.id)
    outcome = (store.result(cell.id) if state.name == DONE else None) or {}
    peak = outcome.get("peak_bytes") or {}
    return {
        "id": cell.id,
        "data": cell.data,
        "model": cell.model,
        "seed": cell.seed,
        "state": state.name,
        "reason": state.reason,
        "values": outcome.get("values", {}),
        "classes": outcome.get("classes", {}),
        "sizes": outcome.get("sizes", {}),
        "curves": outcome.get("curves", {}),
        "samples": outcome.get("samples", {}),
        "machine": outcome.get("machine", {}),
        "seconds": outcome.get("seconds"),
        "peak_bytes": peak.get("cuda", peak.get("resident")),
        "order": outcome.get("order", ""),
    }


def _values(cells: Iterable[Mapping[str, Any]]) -> Values:
    """Metric -> seed -> value, of the cells that are done; "mAP50-95 small" and its like are among the metrics."""
    found: Values = {}
    for cell in cells:
        values = dict(cell["values"])
        for size, of_size in cell["sizes"].items():
            values |= {f"{part} {size}": of_size[part] for part in PARTS if part in of_size}
        for metric, value in values.items():
            if math.isfinite(value):
                found.setdefault(metric, {})[cell["seed"]] = value
    return found


def _row(
    plan: Plan,
    data: Dataset,
    model: Model,
    cells: list[dict[str, Any]],
    values: Mapping[str, Values],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """A model on a dataset."""
    done = [c for c in cells if c["state"] == DONE]
    own = values[model.name]
    against = {m.name: values[m.name].get(plan.metric, {}) for m in plan.models}
    stock = next((m.name for m in plan.models if m.role == STOCK), "")

    parameters, gflops = model.costs.get(data.name, (model.parameters, model.gflops))
    latency = measured.get(model.name) or {}

    def versus(other: str) -> dict[str, Any] | None:
        if not other or other not in against or other == model.name:
            return None
        return _paired(paired(against[model.name], against[other]))

    return {
        "data": data.name,
        "model": model.name,
        "role": model.role,
        "n": len(done),
        "failed": sum(c["state"] == FAILED for c in cells),
        "metrics": {metric: _spread(by_seed) for metric, by_seed in own.items()},
        "classes": _classes(done, data.names),
        "sizes": _sizes(done),
        "seconds": mean(c["seconds"] for c in done),
        "peak_bytes": max((c["peak_bytes"] for c in done if c["peak_bytes"]), default=None),
        "cost": {"parameters": parameters, "gflops": gflops, **{k: latency.get(k) for k in costs.MEASURED}},
        "vs_stock": versus(stock),
        "vs_control": versus(model.control) if model.role == CANDIDATE else None,
        "control": model.control,
    }


def _paired(found: Paired) -> dict[str, Any]:
    return {**asdict(found), "differences": {str(s): d for s, d in (found.differences or {}).items()}}


def _spread(by_seed: Mapping[int, float]) -> dict[str, Any]:
    middle, interval = mean_interval(list(by_seed.values()))
    return {"mean": middle, "interval": interval, "values": {str(s): v for s, v in sorted(by_seed.items())}}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is a finite number; None where nothing is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(known) / len(known) if known else None


def _classes(done: list[dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Means of each class that the validation images have."""
    known = [n for n in names if any(n in c["classes"] for c in done)]
    return {name: {part: mean(c["classes"].get(name, {}).get(part) for c in done) for part in PARTS} for name in known}


def _sizes(done: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Number of small, medium and large objects, and means of metrics."""
    known = dict.fromkeys(size for c in done for size in c["sizes"])
    found: dict[str, dict[str, Any]] = {}
    for size in known:
        of_size = [c["sizes"][size] for c in done if size in c["sizes"]]
        found[size] = {"objects": of_size[0].get("objects")}
        found[size] |= {part: mean(s.get(part) for s in of_size) for part in PARTS}
    return found
