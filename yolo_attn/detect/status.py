"""`yolo-attn bench status`: how far a benchmark is, seen from any terminal. It changes no result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from ..measure.table import show
from .estimate import duration
from .plan import Plan
from .store import DONE, FAILED, OPEN, RUNNING, State, Store

STATES = (DONE, RUNNING, FAILED, OPEN)
#: Most running and failed cells that are listed one by one.
MOST = 20


def print_status(store: Store, plan: Plan) -> None:
    """Print counts, the running and the failed cells, and the remaining time."""
    states = {c.id: store.state(c.id) for c in plan.cells}
    counts = Counter(s.name for s in states.values())
    parts = [f"{counts[DONE]} of {len(plan.cells)} runs done", *(f"{counts[s]} {s}" for s in STATES[1:] if counts[s])]
    print(f"{store.folder}: {', '.join(parts)}")
    rows = []
    for data in plan.datasets:
        for model in plan.models:
            own = [states[c.id].name for c in plan.cells if (c.data, c.model) == (data.name, model.name)]
            rows.append((data.name, model.name, *(str(own.count(s)) for s in STATES), model.role))
    show(("dataset", "model", *STATES, "role"), rows)
    running = [c for c in plan.cells if states[c.id].name == RUNNING]
    failed = [(c, states[c.id]) for c in plan.cells if states[c.id].name == FAILED]
    _list("running", [f"{c}: {_who(store.progress(c.id))}" for c in running])
    failures = [f"{c}: {s.reason} ({s.attempt / 'log.txt'})" for c, s in failed if s.attempt]
    _list("failed; the same command tries them again", failures)
    left = time_left(store, plan, states)
    if running:
        text = f"about {duration(left)}" if left is not None else "unknown until a run has trained an epoch"
        print(f"\ntime left: {text}")
    elif counts[DONE] < len(plan.cells):
        text = f", about {duration(left)} with one run at a time" if left else ""
        print(f"\nnothing is running{text}; this resumes:\n  {plan.command}")
    pages = [p for p in (store.folder / "report.html", store.folder / "report.md") if p.exists()]
    if pages:
        print(f"report: {pages[0]}, written {duration(max(time.time() - pages[0].stat().st_mtime, 0))} ago")
    else:
        print(f"no report yet; this writes one of what is done: yolo-attn bench report {store.folder}")


def _list(title: str, lines: Sequence[str]) -> None:
    if lines:
        more = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
        print(f"\n{title}:", *(f"  {line}" for line in [*lines[:MOST], *more]), sep="\n")


def _who(progress: Mapping[str, object]) -> str:
    """Where a run takes place, since when, and how far it is."""
    if not progress:
        return "waiting to start"
    since = duration(max(time.time() - float(str(progress["began"])), 0.0))
    return f"{progress['share']:.0%} trained, on {progress['host']}, process {progress['pid']}, for {since}"


def time_left(store: Store, plan: Plan, states: Mapping[str, State]) -> float | None:
    """Seconds until no cell is to do, with as many runs at a time as now; None where no duration is known yet.

    Failed cells do not count, because only another command runs them again.

    Args:
        store: The folder.
        plan: Its plan.
        states: Cell -> state.
    """
    spent = [float(r["seconds"]) for c in plan.cells if states[c.id].name == DONE and (r := store.result(c.id))]
    running = [p for c in plan.cells if states[c.id].name == RUNNING and (p := store.progress(c.id))]
    if not spent:
        spent = [(time.time() - p["began"]) / p["share"] for p in running if p.get("share")]
    if not spent:
        return None
    undone = sum(s.name in (OPEN, RUNNING) for s in states.values())
    runs = undone - sum(p.get("share", 0.0) for p in running)
    return runs * sum(spent) / len(spent) / max(len(running), 1)
