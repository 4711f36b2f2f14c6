"""`yolo-attn bench status DIR` and `yolo-attn bench report DIR`: a results folder, looked at from any terminal.

Both work while cells are running, here or on other machines, and change no result.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..commands.cli import UsageError
from ..measure.table import show
from .plan import Cell, Plan
from .run import duration
from .store import DONE, FAILED, LOST, MANIFEST, OPEN, RUNNING, State, Store
from .words import switch

USAGE = """usage: yolo-attn bench status DIR                         how far a run is, who runs what, what failed
       yolo-attn bench report DIR [costs=0] [samples=0]   write its report again

  DIR      results folder of `yolo-attn bench detect`, which it names at its start (out=DIR)
  costs    0 measures no latency
  samples  0 shows no pictures of the dataset, for a report that goes where the data may not"""
STATES = (DONE, RUNNING, FAILED, LOST, OPEN)
#: Most running, failed and lost cells that are named one by one.
MOST = 20


def main(words: list[str]) -> int:
    """Say how far a run is.

    Args:
        words: Words after `yolo-attn bench status`.

    Returns:
        0.

    Raises:
        UsageError: There is no results folder.
    """
    if words and words[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    store, plan, _ = read_words(words, ())
    tell(store, plan)
    return 0


def main_report(words: list[str]) -> int:
    """Write a report again, of whatever is done.

    Args:
        words: Words after `yolo-attn bench report`.

    Returns:
        0.

    Raises:
        UsageError: There is no results folder, or it cannot be written.
    """
    if words and words[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    store, _, given = read_words(words, ("costs", "samples"))
    from .report import write_report

    samples = switch(given, "samples", True)
    print(write_report(store, measure_costs=switch(given, "costs", True), samples=samples))
    return 0


def read_words(words: Sequence[str], allowed: Sequence[str]) -> tuple[Store, Plan, dict[str, str]]:
    """The results folder, its plan, and the words with values.

    Raises:
        UsageError: There is not exactly one folder, it has no readable plan, or a word is unknown.
    """
    folders, given = [], {}
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key == "out":
            folders.append(value)
        elif sign and key in allowed:
            given[key] = value
        elif sign and not Path(word).exists():
            raise UsageError(f"no argument {key!r}.\n{USAGE}")
        else:
            folders.append(word)
    if len(folders) != 1:
        raise UsageError(
            f"{'which results folder?' if not folders else 'one results folder at a time.'}{_known()}\n{USAGE}"
        )
    folder = Path(folders[0])
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: {'this is no folder' if folder.exists() else 'there is no such folder'}.{_known()}"
        )
    store = Store(folder)
    try:
        return store, store.read_plan(), given
    except FileNotFoundError as e:
        raise UsageError(f"{folder} has no {MANIFEST}, so it is no results folder.{_known()}") from e
    except ValueError as e:
        raise UsageError(f"{e}. The `bench detect` command that made it sets it aside and goes on.") from e
    except OSError as e:
        raise UsageError(f"{folder / MANIFEST}: {e.strerror}.") from e


def _known() -> str:
    """Results folders at the usual place."""
    found = sorted(str(p.parent) for p in Path("runs/bench").glob(f"*/{MANIFEST}"))
    return f" There are: {', '.join(found)}." if found else ""


def tell(store: Store, plan: Plan) -> None:
    """Print how far a run is."""
    cells = [(c, store.state(c.id)) for c in plan.cells]
    counts = Counter(state.name for _, state in cells)
    words = [f"{counts[DONE]} of {len(cells)} cells done", *(f"{counts[s]} {s}" for s in STATES[1:] if counts[s])]
    print(f"{store.folder}: {', '.join(words)}")
    rows = []
    for data in plan.datasets:
        for model in plan.models:
            own = Counter(s.name for c, s in cells if (c.data, c.model) == (data.name, model.name))
            rows.append((data.name, model.name, *(str(own[s]) for s in STATES), model.role))
    show(("dataset", "model", *STATES, "role"), rows)
    by_state = {name: [(c, s) for c, s in cells if s.name == name] for name in STATES}
    _list("running", [_running(store, c, s) for c, s in by_state[RUNNING]])
    failed = [f"{_name(c)}: {s.reason or 'no reason is known'} ({_log(store, c, s)})" for c, s in by_state[FAILED]]
    _list("failed; the same command tries them again", failed)
    lost = [f"{_name(c)}: {s.reason or 'its process has ended without a result'}" for c, s in by_state[LOST]]
    _list("lost; the same command does them again", lost)
    print()
    left = time_left(store, plan, {c.id: s for c, s in cells})
    if counts[RUNNING]:
        text = f"about {duration(left)}" if left is not None else "unknown until a cell has trained an epoch"
        print(f"time left: {text}")
    elif counts[DONE] < len(cells):
        text = f", about {duration(left)} for one cell after the other" if left else ""
        print(f"nothing is running{text}; this goes on:\n  {plan.command}")
    page = next((store.folder / n for n in ("report.html", "report.md") if (store.folder / n).exists()), None)
    if page is None:
        print(f"no report yet; this writes one of what is done: yolo-attn bench report {store.folder}")
    else:
        print(f"report: {page}, written {_ago(page)} ago")


def _list(title: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"\n{title}:")
        print("\n".join(f"  {line}" for line in lines[:MOST]))
        if len(lines) > MOST:
            print(f"  and {len(lines) - MOST} more")


def _name(cell: Cell) -> str:
    return f"{cell.model} on {cell.data}, seed {cell.seed}"


def _log(store: Store, cell: Cell, state: State) -> Path:
    return store.cell(cell.id) / f"attempt-{state.attempt}" / "log.txt"


def _running(store: Store, cell: Cell, state: State) -> str:
    """Who runs a cell, since when, and how far it is."""
    owner: Mapping[str, Any] = state.owner or {}
    host = (str(owner.get("host") or "").split() or ["an unknown machine"])[0]
    process = f", process {owner['pid']}" if "pid" in owner else ""
    began = _ago(_log(store, cell, state).parent / "owner.json")
    return f"{_name(cell)}: {store.progress(cell.id):.0%} trained, on {host}{process}, for {began}"


def _ago(path: Path) -> str:
    """Time since a file was written."""
    with contextlib.suppress(OSError):
        return duration(max(time.time() - path.stat().st_mtime, 0.0))
    return "an unknown time"


def time_left(store: Store, plan: Plan, states: Mapping[str, State]) -> float | None:
    """Seconds until no cell is to do, if as many as now go on at a time; None where no cell tells how long one takes.

    Failed cells do not count, since nothing does them again by itself.

    Args:
        store: The folder.
        plan: Its plan.
        states: Cell -> where it stands.
    """
    spent = [float(r["seconds"]) for c in plan.cells if states[c.id].name == DONE and (r := store.result(c.id))]
    shares = {c.id: store.progress(c.id) for c in plan.cells if states[c.id].name == RUNNING}
    if not spent:
        for id, share in shares.items():
            owner = store.cell(id) / f"attempt-{states[id].attempt}" / "owner.json"
            with contextlib.suppress(OSError):
                if share:
                    spent.append((time.time() - owner.stat().st_mtime) / share)
    if not spent:
        return None
    waiting = sum(states[c.id].name in (LOST, OPEN) for c in plan.cells)
    cells = waiting + sum(1 - share for share in shares.values())
    return cells * sum(spent) / len(spent) / max(len(shares), 1)
