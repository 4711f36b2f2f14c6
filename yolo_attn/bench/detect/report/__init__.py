"""The report: tables, pictures and a page, from whatever a results folder has."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ....cli import UsageError
from .. import costs
from ..plan import Plan
from ..results import gather
from ..store import RUNNING, Store


def write_report(store: Store, measure_costs: bool = True) -> str:
    """Write report.html, report.md, results.csv, cells.csv and the pictures.

    Args:
        store: A results folder with a plan; unfinished and failed cells are told.
        measure_costs: Measure latency where that was not done yet. It waits until no cell is running.

    Returns:
        Text for the terminal: the summary, the warnings, and what was written.

    Raises:
        FileNotFoundError: There is no plan.
        ValueError: The plan is damaged or of another version.
        UsageError: The folder cannot be written.
    """
    from .. import tables

    plan = store.read_plan()
    try:
        if measure_costs:
            _measure(store, plan)
        results = gather(store)
        pictures = _draw(results, store.folder)
        written = [*_page(results, store.folder), *tables.write(results, store.folder, pictures), *pictures]
    except OSError as e:
        raise UsageError(f"{e.filename or store.folder}: {e.strerror or e}; the report is not complete.") from e
    lines = ["", *results["summary"]]
    if results["warnings"]:
        lines += ["", *(f"note: {w}" for w in results["warnings"])]
    return "\n".join([*lines, "", *(str(path) for path in written)])


def _measure(store: Store, plan: Plan) -> None:
    """Measure costs, unless that is done or cells are running, which would slow them and be slowed."""
    if not plan.cells or costs.read(store, plan) or any(store.state(c.id).name == RUNNING for c in plan.cells):
        return
    print(f"measuring latency of {len(plan.models)} models; Ctrl+C or costs=0 leaves it out", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        costs.costs(store, plan)


def _draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """The pictures; none where there is nothing to draw with."""
    if importlib.util.find_spec(f"{__name__}.pictures") is None:
        return []
    drawn = importlib.import_module(f"{__name__}.pictures").draw_all(results, folder)
    return [Path(p) for p in drawn or ()]


def _page(results: dict[str, Any], folder: Path) -> list[Path]:
    if importlib.util.find_spec(f"{__name__}.page") is None:
        return []
    written = importlib.import_module(f"{__name__}.page").write(results, folder)
    return [Path(written)] if written else []
