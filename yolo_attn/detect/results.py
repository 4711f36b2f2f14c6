"""The contents of a results folder as JSON values, from which tables, plots and the page are made.

A folder that is unfinished, or in which runs failed, gives what it has; `warnings` say what is missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from . import costs, overall, ranking, sentences
from .models import blocks_of
from .plan import CANDIDATE, PLACES, Cell, Dataset, Model, Plan
from .statistics import NEAR_ZERO, paired, reported, spread
from .store import DONE, FAILED, Store

#: Metrics that are known for classes and for sizes of objects.
PARTS = ("mAP50-95", "mAP50")


def gather(store: Store) -> dict[str, Any]:
    """Read a results folder.

    Returns:
        command, metric, arguments, start, seeds, added (after a report), resplit, overlap, versions, machines,
        datasets, models: what was run; rows: a dataset and a model each, with means, intervals, differences and costs;
        pooled: differences over datasets and candidates with one block; cells: one training each; counts: state ->
        number of cells; costs: where latency was measured; places: of `bench places`, ranked; warnings and summary:
        sentences.

    Raises:
        FileNotFoundError: There is no plan.
        ValueError: The plan is damaged or of another version.
    """
    plan = store.read_plan()
    cells = [_cell(store, c) for c in plan.cells]
    measured = costs.read(store, plan)
    machines = [c["machine"] for c in cells if c["machine"]]
    results: dict[str, Any] = finite(
        {
            **{
                k: getattr(plan, k) for k in ("command", "metric", "arguments", "start", "seeds", "versions", "resplit")
            },
            "overlap": {d.name: plan.overlap(d) for d in plan.datasets},
            "added": plan.local.get("added", []),
            "machines": [m for i, m in enumerate(machines) if m not in machines[:i]],
            "datasets": [vars(d) for d in plan.datasets],
            "models": [{**vars(m), "block": _block(m)} for m in plan.models],
            "rows": [row for d in plan.datasets for row in _rows(plan, d, cells, measured.get("rows", {}))],
            "cells": cells,
            "counts": Counter(c["state"] for c in cells),
            "costs": measured.get("setup", {}),
        }
    )
    results["pooled"] = finite(overall.pooled(results))
    if plan.kind == PLACES:
        results["places"] = ranking.ranking(results)
    results["warnings"] = [*sentences.warnings(results), *measured.get("remarks", [])]
    results["summary"] = (ranking if "places" in results else sentences).summary(results)
    return results


def _block(model: Model) -> str:
    """The classes of the operators of a model's blocks."""
    return ", ".join(dict.fromkeys((b.operator or b.cls).__name__ for b in blocks_of(model.d) if not b.helper))


def finite(value: Any) -> Any:
    """The same value with None for what JSON has no number for; tuples become lists, and keys text."""
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
        "without": outcome.get("without", []),
        "order": outcome.get("order", ""),
    }


def _rows(
    plan: Plan, data: Dataset, cells: Iterable[Mapping[str, Any]], latency: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The models on a dataset; verdicts are those that a report prints."""
    own: dict[str, list[Mapping[str, Any]]] = {m.name: [] for m in plan.models}
    for cell in cells:
        if cell["data"] == data.name:
            own[cell["model"]].append(cell)
    values = {name: _values(of_model) for name, of_model in own.items()}
    stock_gflops = plan.stock.costs.get(data.name, (0, plan.stock.gflops))[1]
    learned = any((mean(v.get(plan.metric, {}).values()) or 0) >= NEAR_ZERO for v in values.values())

    def versus(model: Model, other: str) -> dict[str, Any] | None:
        if other not in values or other == model.name:
            return None
        ours, theirs = (values[name].get(plan.metric, {}) for name in (model.name, other))
        found = paired(ours, theirs, plan.overlap(data))
        return {**found, "verdict": reported(found, learned)}

    rows = []
    for model in plan.models:
        done = [c for c in own[model.name] if c["state"] == DONE]
        parameters, gflops = model.costs.get(data.name, (model.parameters, model.gflops))
        sizes = {s: c["sizes"][s].get("objects") for c in done for s in c["sizes"]}
        classes = [n for n in data.names if any(n in c["classes"] for c in done)]
        measured = latency.get(model.name) or {}
        rows.append(
            {
                **{"data": data.name, "task": data.task, "model": model.name, "role": model.role},
                "seeds": len(done),
                "failed": sum(c["state"] == FAILED for c in own[model.name]),
                "metrics": {metric: spread(by_seed) for metric, by_seed in values[model.name].items()},
                "classes": {n: _means(c["classes"].get(n, {}) for c in done) for n in classes},
                "sizes": {s: {"objects": n, **_means(c["sizes"].get(s, {}) for c in done)} for s, n in sizes.items()},
                "share": mean(mean(c["shares"].values()) for c in done),
                "seconds": mean(c["seconds"] for c in done),
                "peak_bytes": max((c["peak_bytes"] for c in done if c["peak_bytes"]), default=None),
                "cost": {"parameters": parameters, "gflops": gflops, **{k: measured.get(k) for k in costs.MEASURED}},
                "extra_gflops": gflops / stock_gflops - 1,
                "learned": learned,
                "vs_stock": versus(model, plan.stock.name),
                "vs_control": versus(model, model.control) if model.role == CANDIDATE else None,
                "control": model.control,
                "image_error": _image_error(own[model.name], own[plan.stock.name]),
            }
        )
    return rows


def _values(cells: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Metric -> seed -> value, of the cells that are done; "mAP50-95 small" and its like are among the metrics."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        of_sizes = {f"{part} {size}": v[part] for size, v in cell["sizes"].items() for part in PARTS if part in v}
        for metric, value in {**cell["values"], **of_sizes}.items():
            if math.isfinite(value):
                found.setdefault(metric, {})[cell["seed"]] = value
    return found


def _image_error(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]]) -> float | None:
    """Standard error of the mean difference in mAP50-95 that the choice of validation images gives.

    By the jackknife over groups of images (Efron and Stein, Annals of Statistics 1981); None where it is unknown.
    """
    stock = {c["seed"]: c["without"] for c in theirs}
    pairs = [(c["without"], stock[c["seed"]]) for c in ours if c["without"] and stock.get(c["seed"])]
    if not pairs:
        return None
    of_seeds = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
    groups = [math.fsum(of_group) / len(pairs) for of_group in zip(*of_seeds, strict=True)]
    centre = math.fsum(groups) / len(groups)
    return math.sqrt((len(groups) - 1) / len(groups) * math.fsum((g - centre) ** 2 for g in groups))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is a finite number; None where nothing is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(known) / len(known) if known else None


def _means(parts: Iterable[Mapping[str, float]]) -> dict[str, float | None]:
    """Means of the metrics in `PARTS`."""
    found = list(parts)
    return {part: mean(p.get(part) for p in found) for part in PARTS}
