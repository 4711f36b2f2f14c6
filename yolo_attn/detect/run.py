"""The driver: one process that hands out the runs of a table, writes their outcomes, and reports at the end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import UsageError
from . import executors
from .arguments import Request, check_device
from .data import with_samples
from .estimate import describe, duration
from .executors import Executor, Task
from .executors.local import Local
from .plan import Cell, Plan
from .store import DONE, FAILED, Attempt, Store, open_store
from .work import FULL, End, failure


@dataclass
class Tally:
    """What became of a benchmark."""

    done: int = 0  # cells with a result, those of earlier commands included
    ran: int = 0  # runs of this command that are done
    failed: dict[str, str] = field(default_factory=dict)  # cell -> reason
    full: str = ""  # why the command ended early: a full disk
    interrupted: bool = False  # the user stopped it
    last: str = ""  # the run that ended last, with its score


def conduct(request: Request) -> int:
    """Do what was asked for.

    Returns:
        0; 1 where a run failed or the disk was full; 130 where the user stopped it.
    """
    store, values = Store(request.folder), request.values
    print(describe(request, store))
    if values["dry"]:
        return 0
    with store.driver():
        datasets = zip(request.plan.datasets, request.splits, strict=True)
        plan = replace(request.plan, datasets=tuple(with_samples(d, val, store.folder) for d, val in datasets))
        remark = store.write_plan(plan)
        if remark:
            print(remark, file=sys.stderr)
        if not values["run"]:
            print(f"The plan is written. Each run is one command:\n  yolo-attn bench cell {store.folder} N")
            print(f"with N from 0 to {len(plan.cells) - 1}, and then: yolo-attn bench report {store.folder}")
            return 0
        tally = execute(plan, store, executors.make(values["executor"], **request.resources), Progress(plan, store))
        return _finish(plan, store, tally, values["costs"])


def _finish(plan: Plan, store: Store, tally: Tally, costs: bool) -> int:
    """Print what became of a benchmark and write its report; returns the exit code."""
    for cell in [c for c in plan.cells if c.id in tally.failed][:10]:
        print(f"failed: {cell}: {tally.failed[cell.id]}\n        {store.cell(cell.id)}", file=sys.stderr)
    if tally.full:
        print(f"stopped: {tally.full}. Free some space; the same command resumes.", file=sys.stderr)
        return 1
    if tally.interrupted:
        print(f"stopped with {tally.done} of {len(plan.cells)} runs done; the same command resumes.", file=sys.stderr)
        return 130
    from .report import write_report

    print(write_report(store, measure_costs=costs))
    return 1 if tally.failed else 0


def execute(
    plan: Plan, store: Store, executor: Executor, show: Callable[[Tally, list[Cell]], object] = lambda *_: None
) -> Tally:
    """Run all cells that are not done; cells that another process runs are waited for.

    Args:
        plan: The table.
        store: Where its results go.
        executor: Where its runs take place; closed at the end.
        show: Called with the tally and the running cells, twice a second.
    """
    cells = {c.id: c for c in plan.cells}
    waiting = [id for id in cells if store.result(id) is None]
    tally = Tally(done=len(cells) - len(waiting))
    attempts: dict[str, Attempt] = {}
    try:
        while (waiting or attempts) and not tally.full:
            for id in list(waiting):
                if len(attempts) >= executor.slots:
                    break
                attempt = store.claim(id)
                if attempt:
                    attempts[id] = attempt
                    executor.submit(Task(id, plan.job(cells[id]), attempt.path))
                if attempt or store.result(id) is not None:  # the latter by `bench cell`
                    waiting.remove(id)
                    tally.done += not attempt
            for id, end in executor.poll().items():
                end = settle(store, attempts.pop(id), end)
                _count(plan, cells[id], end, tally)
            show(tally, [cells[id] for id in attempts])
    except OSError as e:
        if failure(e).state != FULL:
            raise
        tally.full = failure(e).reason
    except KeyboardInterrupt:
        tally.interrupted = True
    finally:
        executor.close()
        for attempt in attempts.values():
            store.release(attempt)
    return tally


def settle(store: Store, attempt: Attempt, end: End) -> End:
    """Write the outcome of an attempt, or why it failed, and release its cell.

    Returns:
        How it ended after all: writing may have failed.
    """
    try:
        if end.state == DONE:
            store.publish(attempt.id, end.outcome)
        elif end.state == FAILED:
            store.fail(attempt, end.reason)
    except OSError as e:
        end = failure(e)
    finally:
        store.release(attempt)
    return end


def _count(plan: Plan, cell: Cell, end: End, tally: Tally) -> None:
    """Add the end of a run to the tally."""
    if end.state == DONE:
        tally.done += 1
        tally.ran += 1
        tally.last = f"last: {cell}: {plan.metric} {end.outcome['values'].get(plan.metric, float('nan')):.3f}"
    elif end.state == FAILED:
        tally.failed[cell.id] = end.reason
        tally.last = f"last: {cell}: failed"
    elif end.state == FULL:
        tally.full = end.reason


def run_cell(folder: str | Path, number: int, device: str | None = None, threads: int | None = None) -> int:
    """Run one cell of the plan in a folder, unless it is done; waits where another process runs it.

    Args:
        folder: Results folder.
        number: Of the cell, from 0.
        device: cpu or the number of a GPU; None for the first visible GPU, or the CPU where there is none.
        threads: CPU threads; None for those of plain `yolo train`.

    Returns:
        0 where the cell is done, 1 where its run failed, 130 where the user stopped it.

    Raises:
        UsageError: There is no such cell or device, or the folder has no plan.
    """
    check_device(device)
    store, plan = open_store(folder)
    if number >= len(plan.cells):
        raise UsageError(f"cell={number}: the plan in {folder} has cells 0 to {len(plan.cells) - 1}.")
    start = plan.local.get("start")
    if start and not Path(start).is_file():
        raise UsageError(f"{start}: the starting weights are not there on this machine.")
    cell = plan.cells[number]
    tally = execute(replace(plan, cells=(cell,)), store, Local(1, device, threads))
    why = tally.full or tally.failed.get(cell.id) or ("interrupted" if tally.interrupted else "")
    print(f"{cell}: {why or 'done'}", file=sys.stderr if why else sys.stdout)
    return 130 if tally.interrupted else int(bool(why))


class Progress:
    """Shows how far a benchmark is: a live line on a terminal, elsewhere a line whenever a run has ended."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.store, self.total, self.began, self.ended = store, len(plan.cells), time.monotonic(), -1
        self.live = sys.stderr.isatty()

    def __call__(self, tally: Tally, running: list[Cell]) -> None:
        """Show the present state."""
        before, self.ended = self.ended, tally.done + len(tally.failed)
        if not self.live and self.ended == before:
            return
        shares = [float(self.store.progress(c.id).get("share", 0)) for c in running]
        parts = [f"{tally.done}/{self.total} runs done"]
        if tally.failed:
            parts.append(f"{len(tally.failed)} failed")
        fresh = tally.ran + sum(shares)
        if fresh > 0.05 and self.ended < self.total:
            left = (self.total - self.ended - sum(shares)) * (time.monotonic() - self.began) / fresh
            parts.append(f"{duration(left)} left")
        parts += [f"{cell} {share:.0%}" for cell, share in zip(running[:2], shares, strict=False)]
        if len(running) > 2:
            parts.append(f"and {len(running) - 2} more")
        text = ", ".join(filter(None, [*parts, tally.last]))
        if self.live:
            end = "\n" if tally.full or self.ended == self.total else ""
            text = f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}"
        print(text, end=end if self.live else "\n", file=sys.stderr, flush=True)
