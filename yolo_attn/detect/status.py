"""How far a benchmark is: before it runs, while it runs, and seen from any terminal. Nothing here changes a result."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..measure.table import show
from .durations import duration, known
from .plan import Cell, Plan
from .sentences import plural
from .store import DONE, FAILED, OPEN, RUNNING, State, Store

if TYPE_CHECKING:
    from .run import Tally

STATES = (DONE, RUNNING, FAILED, OPEN)
#: Most running and failed cells that are listed one by one.
MOST = 20


def describe(plan: Plan, store: Store, jobs: int = 1) -> str:
    """The table before it runs: models, datasets, cells, and the time by the runs that are done.

    Args:
        plan: The table.
        store: Its results, where there are some already.
        jobs: Runs at a time.
    """
    open_cells = [c for c in plan.cells if not store.result(c.id)]
    width = max(len(m.name) for m in plan.models)
    lines = []
    for m in plan.models:
        against = f", cost control {m.control}" if m.control else f", {m.recipe}" if m.recipe else ""
        over = f" ({m.gflops / plan.stock.gflops - 1:+.1%})" if m is not plan.stock else ""
        lines.append(f"  {m.name:<{width}}  {m.role}, {m.parameters / 1e6:.2f} M, {m.gflops:.2f} GFLOPs{over}{against}")
    for d in plan.datasets:
        lines.append(f"  {d.name}: {d.task}, {d.images['train']} + {d.images['val']} images, {len(d.names)} classes")
    seeds, done = plural(len(plan.seeds), "seed"), len(plan.cells) - len(open_cells)
    lines.append(
        f"{plural(len(plan.models), 'model')} x {plural(len(plan.datasets), 'dataset')} x {seeds} = "
        f"{plural(len(plan.cells), 'run')}, {done} done, in {store.folder}"
    )
    if len(plan.seeds) < 2:
        lines.append(f"With {seeds} the report has no intervals and no verdicts: an effect may be chance.")
    left = known(plan.cells, store.result).left([(c, {}) for c in open_cells], jobs) if done else None
    if left:
        mean = duration(left * jobs / len(open_cells))
        lines.append(f"about {duration(left)} with {jobs} at a time ({mean} a run, by those that are done)")
    return "\n".join(lines)


class Progress:
    """Shows how far a benchmark is: a live line on a terminal, elsewhere a line whenever a run has ended."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.store, self.plan, self.total, self.ended = store, plan, len(plan.cells), -1
        self.live, self.known = sys.stderr.isatty(), known((), store.result)

    def __call__(self, tally: Tally, running: list[Cell]) -> None:
        """Show the present state."""
        before, self.ended = self.ended, tally.done + len(tally.failed)
        if not self.live and self.ended == before:
            return
        if self.ended != before:
            self.known = known(self.plan.cells, self.store.result)
        progress = {c.id: self.store.progress(c.id) for c in running}
        shares = [float(p.get("share", 0)) for p in progress.values()]
        parts = [f"{tally.done}/{self.total} runs done"]
        if tally.failed:
            parts.append(f"{len(tally.failed)} failed")
        undone = [(c, progress.get(c.id, {})) for c in self.plan.cells if c.id in progress or c.id in tally.waiting]
        if left := self.known.left(undone, len(running)):
            parts.append(f"{duration(left)} left")
        parts += [f"{cell} {share:.0%}" for cell, share in zip(running[:2], shares, strict=False)]
        if len(running) > 2:
            parts.append(f"and {len(running) - 2} more")
        text = ", ".join(filter(None, [*parts, tally.last]))
        if self.live:
            end = "\n" if tally.full or self.ended == self.total else ""
            text = f"\r\x1b[K{text[: (shutil.get_terminal_size().columns or 80) - 1]}"
        print(text, end=end if self.live else "\n", file=sys.stderr, flush=True)


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
    of = {name: [c for c in plan.cells if states[c.id].name == name] for name in STATES}
    _list("running", [f"{c}: {_who(store.progress(c.id))}" for c in of[RUNNING]])
    failures = [f"{c}: {s.reason} ({s.attempt / 'log.txt'})" for c in of[FAILED] if (s := states[c.id]).attempt]
    _list("failed; the same command tries them again", failures)
    left = time_left(store, plan, states)
    if of[RUNNING]:
        text = f"about {duration(left)}" if left is not None else "unknown until a run has trained an epoch"
        print(f"\ntime left: {text}")
    elif counts[DONE] < len(plan.cells):
        text = f", about {duration(left)} with one run at a time" if left else ""
        print(f"\nnothing is running{text}; this resumes:\n  {plan.command}")
    page = store.folder / "report.html"
    if page.exists():
        print(f"report: {page}, written {duration(max(time.time() - page.stat().st_mtime, 0))} ago")
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

    Failed cells do not count, because only another command runs them again. `states`: cell -> state.
    """
    undone = [(c, store.progress(c.id)) for c in plan.cells if states[c.id].name == RUNNING]
    jobs = len(undone)
    undone += [(c, {}) for c in plan.cells if states[c.id].name == OPEN]
    return known(plan.cells, store.result).left(undone, jobs) if undone else None
