"""The report: tables, pictures and a page, from whatever a results folder has."""

from __future__ import annotations

import contextlib
import importlib.util
import sys

from ...commands.cli import UsageError
from .. import costs
from ..plan import Plan
from ..results import gather
from ..store import RUNNING, Store

#: Packages of the extra `bench` without which there is no report.
NEEDED = ("scipy", "plotly", "tqdm")


def write_report(store: Store, measure_costs: bool = True, samples: bool = True) -> str:
    """Write report.html, report.md, results.csv, cells.csv and the pictures.

    Args:
        store: A results folder with a plan; unfinished and failed cells are told.
        measure_costs: Measure latency where that was not done yet. It waits until no cell is running.
        samples: Show pictures of the datasets with predictions; without them a report holds none of the data.

    Returns:
        Text for the terminal: the summary, the warnings, and what was written.

    Raises:
        FileNotFoundError: There is no plan.
        ValueError: The plan is damaged or of another version.
        UsageError: The folder cannot be written, or a package is missing.
    """
    check_installed()
    from .. import tables
    from . import page, pictures

    plan = store.read_plan()
    try:
        if measure_costs:
            _measure(store, plan)
        results = gather(store)
        if not samples:
            for part in (*results["datasets"], *results["cells"]):
                part["samples"] = type(part["samples"])()
        drawn = pictures.draw_all(results, store.folder)
        written = [page.write(results, store.folder), *tables.write(results, store.folder, drawn), *drawn]
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


def check_installed() -> None:
    """See that there is what statistics, page and progress need, before anything is trained.

    Raises:
        UsageError: A package is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"bench detect needs {' and '.join(missing)}: pip install 'yolo-attn[bench]'.")
