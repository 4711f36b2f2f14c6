"""The driver: one process that hands out the runs of a table, writes their outcomes, and reports at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import UsageError
from .arguments import Request, check_device
from .data import with_samples
from .executors import EXECUTORS
from .executors.local import Local
from .plan import Cell, Plan
from .power import AUTO, added_seeds, advice
from .status import Progress, describe
from .store import DONE, FAILED, Attempt, Store, open_store
from .work import FULL, End, Executor, failure


@dataclass
class Tally:
    """What became of a benchmark."""

    done: int = 0  # cells with a result, those of earlier commands included
    ran: int = 0  # runs of this command that are done
    failed: dict[str, str] = field(default_factory=dict)  # cell -> reason
    full: str = ""  # why the command ended early: a full disk
    interrupted: bool = False  # the user stopped it
    waiting: list[str] = field(default_factory=list)  # ids of the cells that have not begun
    last: str = ""  # the run that ended last, with its score


def report(request: Request, store: Store) -> str:
    """Write the report; returns text for the terminal."""
    from .report import write_report

    return write_report(store, measure_costs=request.values["costs"])


def conduct(request: Request, finish: Callable[[Request, Store], str] = report) -> int:
    """Do what was asked for.

    Args:
        request: What the user asked for.
        finish: What follows the runs; returns text for the terminal.

    Returns:
        0; 1 where a run failed or the disk was full; 130 where the user stopped it.
    """
    store, values = Store(request.folder), request.values
    print(describe(request.plan, store, values["jobs"] or 1), *advice(request.plan, store, values), sep="\n")
    if values["dry"]:
        return 0
    with store.driver():
        plan = request.plan
        if not plan.resplit:
            datasets = zip(plan.datasets, request.splits, strict=True)
            plan = replace(plan, datasets=tuple(with_samples(d, val, store.folder) for d, val in datasets))
        if values["seeds"] != AUTO:  # which looks at the spread only, not at the differences
            plan = replace(plan, local={**plan.local, "added": added_seeds(plan, store)})
        if remark := store.write_plan(plan):
            print(remark, file=sys.stderr)
        if not values["run"]:
            print(f"The plan is written. Each run is one command:\n  yolo-attn bench cell {store.folder} N")
            print(f"with N from 0 to {len(plan.cells) - 1}, and then: yolo-attn bench report {store.folder}")
            return 0
        names = ("jobs", "device", "threads", *["ray_address"] * (values["executor"] == "ray"))
        executor = EXECUTORS[values["executor"]](**{name: values[name] for name in names})
        tally = execute(plan, store, executor, Progress(plan, store))
        for cell in [c for c in plan.cells if c.id in tally.failed][:10]:
            print(f"failed: {cell}: {tally.failed[cell.id]}\n        {store.cell(cell.id)}", file=sys.stderr)
        if tally.full:
            print(f"stopped: {tally.full}. Free some space; the same command resumes.", file=sys.stderr)
            return 1
        if tally.interrupted:
            done = f"{tally.done} of {len(plan.cells)} runs done"
            print(f"stopped with {done}; the same command resumes.", file=sys.stderr)
            return 130
        print(finish(request, store))
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
    tally = Tally(done=len(cells) - len(waiting), waiting=waiting)
    attempts: dict[str, Attempt] = {}
    try:
        while (waiting or attempts) and not tally.full:
            for id in list(waiting):
                if len(attempts) >= executor.slots:
                    break
                attempt = store.claim(id)
                if attempt:
                    attempts[id] = attempt
                    executor.submit(id, plan.job(cells[id]), attempt.path)
                if attempt or store.result(id) is not None:  # the latter by `bench cell`
                    waiting.remove(id)
                    tally.done += not attempt
            for id, end in executor.poll().items():
                _settle(plan, store, attempts.pop(id), cells[id], end, tally)
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


def _settle(plan: Plan, store: Store, attempt: Attempt, cell: Cell, end: End, tally: Tally) -> None:
    """Write the outcome of an attempt, or why it failed, release its cell, and add it to the tally."""
    try:
        if end.state == DONE:
            store.publish(attempt.id, end.outcome)
        elif end.state == FAILED:
            store.fail(attempt, end.reason)
    except OSError as e:
        end = failure(e)
    finally:
        store.release(attempt)
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
