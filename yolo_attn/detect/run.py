"""The loop: hand out cells until all are done or have failed, whoever does them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .executors import Executor, Task
from .plan import Cell, Plan
from .store import DONE, FAILED, LOST, OPEN, RUNNING, Store
from .work import FULL, STOPPED, TAKEN

#: How often a cell is tried again after its machine was lost, and seconds between two looks at others' cells.
TRIES, LOOK = 3, 5.0


@dataclass
class Tally:
    """What became of a run.

    Attributes:
        done: Cells with a result, those of earlier runs among them.
        failed: Cell -> reason.
        ran: Cells that this run did.
        full: Why the run ended early: a full disk; empty otherwise.
        interrupted: The user stopped it.
        seconds: Durations of the cells that this run did.
    """

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    ran: int = 0
    full: str = ""
    interrupted: bool = False
    seconds: list[float] = field(default_factory=list)


def job_of(plan: Plan, cell: Cell, start: str, keep: bool) -> dict[str, Any]:
    """What `cell.train` needs.

    Args:
        plan: The matrix.
        cell: One of its cells.
        start: Path of the starting weights; empty for none.
        keep: Keep the trained weights.
    """
    model, data = plan.model(cell.model), plan.dataset(cell.data)
    return {
        "label": f"{cell.model} {cell.data} seed {cell.seed}",
        "model": model.d,
        "grown": model.grown,
        "data": data.path,
        "task": data.task,
        "names": list(data.names),
        "samples": [s["image"] for s in data.samples],
        "start": start,
        "seed": cell.seed,
        "arguments": plan.arguments,
        "keep": keep,
        "device": "cpu",
        "threads": 0,
    }


def run(plan: Plan, store: Store, executor: Executor, start: str = "", keep: bool = False, bar: bool = True) -> Tally:
    """Do what is to do.

    Args:
        plan: The matrix.
        store: Where its results go.
        executor: Where its cells run.
        start: Path of the starting weights on the machines that train.
        keep: Keep the trained weights.
        bar: Show progress.

    Returns:
        What became of it.
    """
    tally = Tally()
    cells = {c.id: c for c in plan.cells}
    before = {id: store.state(id) for id in cells}
    waiting = [id for id in cells if before[id].name != DONE]
    tally.done = len(cells) - len(waiting)
    others: dict[str, float] = {}  # cells that somebody else does -> when to look again
    mine: dict[str, float] = {}
    tries: dict[str, int] = {}
    show = Progress(plan, store, len(cells)) if bar else None
    try:
        while waiting or mine or others:
            if tally.full and not mine:
                break
            while waiting and len(mine) < executor.slots and not tally.full:
                id = waiting.pop(0)
                if not _free(store, id, before, others):
                    others[id] = time.monotonic() + LOOK
                    continue
                executor.submit(Task(str(store.folder), id, job_of(plan, cells[id], start, keep)))
                mine[id] = time.monotonic()
            for id, found in executor.poll().items():
                took = time.monotonic() - mine.pop(id)
                _note(id, found, took, tally, waiting, others, tries)
            for id in [i for i, at in others.items() if at < time.monotonic()]:
                state = store.state(id)
                del others[id]
                if state.name == DONE:
                    tally.done += 1
                elif state.name == FAILED and state.attempt > before[id].attempt:
                    tally.failed[id] = state.reason
                elif state.name == RUNNING:
                    others[id] = time.monotonic() + LOOK
                else:
                    waiting.append(id)
            if not mine and others:
                time.sleep(0.5)
            if show:
                show.update(tally, mine, others)
    except KeyboardInterrupt:
        tally.interrupted = True
    finally:
        executor.close()
        if show:
            show.close(tally)
    return tally


def _free(store: Store, id: str, before: Mapping[str, Any], others: Mapping[str, float]) -> bool:
    """Whether a cell is nobody's. One that failed since this run began is done with."""
    state = store.state(id)
    if state.name == FAILED:
        return state.attempt == before[id].attempt
    return state.name in (OPEN, LOST)


def _note(
    id: str,
    found: Mapping[str, Any],
    took: float,
    tally: Tally,
    waiting: list[str],
    others: dict[str, float],
    tries: dict[str, int],
) -> None:
    """Book what an executor says of a cell."""
    state = found["state"]
    if state == DONE:
        tally.done += 1
        tally.ran += 1
        tally.seconds.append(took)
    elif state == FAILED:
        tally.failed[id] = found["reason"]
    elif state == TAKEN:
        others[id] = 0.0
    elif state == FULL:
        tally.full = found["reason"]
        waiting.append(id)
    elif state == STOPPED:
        waiting.append(id)
    else:  # the machine that did it is gone
        tries[id] = tries.get(id, 0) + 1
        if tries[id] < TRIES:
            waiting.append(id)
        else:
            tally.failed[id] = f"its machine was lost {TRIES} times: {found.get('reason', '')}"


class Progress:
    """Says how far the run is: a live line on a terminal, elsewhere a line whenever a cell has ended.

    Args:
        plan: The matrix.
        store: Its results.
        total: Number of cells.
    """

    def __init__(self, plan: Plan, store: Store, total: int) -> None:
        from tqdm import tqdm

        self.store, self.began, self.said = store, time.monotonic(), -1
        self.live = sys.stderr.isatty()
        shape = "{desc} {percentage:3.0f}%|{bar:24}|{postfix}"
        self.bar = tqdm(total=total, bar_format=shape, file=sys.stderr, dynamic_ncols=True, disable=not self.live)
        self.total = total

    def update(self, tally: Tally, mine: Mapping[str, float], others: Mapping[str, float]) -> None:
        """Show the present state."""
        ended = tally.done + len(tally.failed)
        if not self.live and ended == self.said:
            return
        self.said = ended
        share = sum(self.store.progress(id) for id in mine)
        words = [f"{len(mine) + len(others)} running"]
        if tally.failed:
            words.append(f"{len(tally.failed)} failed")
        fresh = tally.ran + share
        if fresh > 0.05 and ended < self.total:
            left = (self.total - ended - share) * (time.monotonic() - self.began) / fresh
            words.append(f"{duration(left)} left")
        text = f"{tally.done}/{self.total} cells done"
        if not self.live:
            print(f"{text}, {', '.join(words)}", file=sys.stderr, flush=True)
            return
        self.bar.n = min(ended + share, self.total)
        self.bar.set_description_str(text, refresh=False)
        self.bar.set_postfix_str(", ".join(words), refresh=False)
        self.bar.refresh()

    def close(self, tally: Tally) -> None:
        """Show the end."""
        self.update(tally, {}, {})
        self.bar.close()


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
