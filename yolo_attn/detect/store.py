"""The results folder. Any interruption, a power failure included, leaves it in a state from which a run resumes.

    driver.lock                  held by the one process that hands out runs
    bench.json                   the plan
    cells/<id>/lock              held while somebody runs this cell
    cells/<id>/result.json       the outcome with a checksum
    cells/<id>/failed.json       why the last attempt failed
    cells/<id>/attempt-<n>/      job.json, log.txt, progress.json, and what the training writes

JSON files are complete or absent. The operating system releases a lock when its process ends, however that happens, so
no lock is ever taken over. Each attempt has a new folder: not even two processes that ran the same cell on a file
system without locks could mix their files, and the results of both would be the same.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import BaseFileLock, FileLock, Timeout

from ..atomic import write_text
from ..errors import UsageError
from .plan import Plan, digest

DONE, FAILED, RUNNING, OPEN = "done", "failed", "running", "to do"
MANIFEST = "bench.json"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is complete or absent, whatever happens."""
    write_text(path, json.dumps(value, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class State(NamedTuple):
    """The state of a cell: done, failed (with the reason), running or to do; the folder of its last attempt, if any."""

    name: str
    attempt: Path | None = None
    reason: str = ""


class Attempt(NamedTuple):
    """An attempt of this process at a cell: its folder, the cell's id, and the cell's lock, which it holds."""

    path: Path
    id: str
    lock: BaseFileLock


class Store:
    """A results folder, which need not exist yet."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    @contextlib.contextmanager
    def driver(self) -> Iterator[None]:
        """Make the folder, and be the one process that hands out its runs; UsageError where that cannot be."""
        try:
            (self.folder / "cells").mkdir(parents=True, exist_ok=True)
            lock = _lock(self.folder / "driver.lock")
        except OSError as e:
            raise UsageError(f"out={self.folder}: {e.strerror}.") from e
        if lock is None:
            raise UsageError(
                f"out={self.folder}: another process runs a benchmark in this folder. Wait for it (`yolo-attn bench "
                f"status {self.folder}` shows how far it is), stop it, or use another out=."
            )
        try:
            yield
        finally:
            lock.release()

    def read_plan(self) -> Plan:
        """The plan in the folder.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged or of another version; the message says which.
        """
        path = self.folder / MANIFEST
        try:
            return Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as e:
            raise ValueError(f"{path} is damaged or of another version ({e})") from e

    def write_plan(self, plan: Plan) -> str:
        """Make this the folder's plan; results of earlier plans remain. Returns a remark for the user, or nothing."""
        path, remark = self.folder / MANIFEST, ""
        try:
            if self.read_plan() == plan:
                return ""
        except FileNotFoundError:
            pass
        except ValueError as e:
            remark = f"{e}; it was moved to {_back_up(path)}. Results count where the cell is the same."
        write_json(path, plan.to_json())
        return remark

    def cell(self, id: str) -> Path:
        """The folder of a cell."""
        return self.folder / "cells" / id

    def result(self, id: str) -> dict[str, Any] | None:
        """The outcome of a cell; None where it is not done. A damaged file becomes *.backup: the cell is not done."""
        path = self.cell(id) / "result.json"
        if not path.exists():
            return None
        found = read_json(path)
        if found.get("id") == id and found.get("checksum") == digest(found.get("outcome")):
            return found["outcome"]
        with contextlib.suppress(OSError):  # another process moved it, or the folder is read-only
            _back_up(path)
        return None

    def publish(self, id: str, outcome: Mapping[str, Any]) -> None:
        """Write the outcome of a cell."""
        found = {"id": id, "checksum": digest(outcome), "outcome": outcome}
        write_json(self.cell(id) / "result.json", found)
        (self.cell(id) / "failed.json").unlink(missing_ok=True)

    def claim(self, id: str) -> Attempt | None:
        """Lock a cell and make the folder of a new attempt; weights of earlier attempts are removed.

        Returns:
            The attempt, to be given to `release`; None where the cell is done, or another process runs it.
        """
        self.cell(id).mkdir(parents=True, exist_ok=True)
        lock = _lock(self.cell(id) / "lock")
        if lock is None:
            return None
        with contextlib.ExitStack() as stack:
            stack.callback(lock.release)
            if self.result(id) is not None:
                return None
            self._remove_weights(id)
            last = self._last(id)
            path = self.cell(id) / f"attempt-{_number(last) + 1 if last else 1}"
            path.mkdir()
            stack.pop_all()
        return Attempt(path, id, lock)

    def fail(self, attempt: Attempt, reason: str) -> None:
        """Record why an attempt failed."""
        write_json(self.cell(attempt.id) / "failed.json", {"attempt": attempt.path.name, "reason": reason})

    def release(self, attempt: Attempt) -> None:
        """End an attempt: done, failed, or neither, in which case its cell is to do again."""
        if self.result(attempt.id) is None:
            self._remove_weights(attempt.id)
        attempt.lock.release()

    def state(self, id: str) -> State:
        """The state of a cell."""
        last = self._last(id)
        if self.result(id) is not None:
            return State(DONE, last)
        failed = read_json(self.cell(id) / "failed.json")
        if last and failed.get("attempt") == last.name:
            return State(FAILED, last, str(failed.get("reason", "")))
        with contextlib.suppress(OSError):  # a read-only folder
            if last and (lock := _lock(self.cell(id) / "lock")):
                lock.release()
            elif last:
                return State(RUNNING, last)
        return State(OPEN, last)

    def progress(self, id: str) -> dict[str, Any]:
        """Of the last attempt at a cell: host, pid, began (time), share (of its epochs); empty if unknown."""
        last = self._last(id)
        return read_json(last / "progress.json") if last else {}

    def _last(self, id: str) -> Path | None:
        """The folder of the last attempt."""
        return max(self.cell(id).glob("attempt-*"), key=_number, default=None)

    def _remove_weights(self, id: str) -> None:
        """Those of many interrupted runs would fill the disk."""
        for file in [*self.cell(id).rglob("*.pt")]:
            file.unlink(missing_ok=True)


def _number(attempt: Path) -> int:
    return int(attempt.name.partition("-")[2])


def _back_up(path: Path) -> Path:
    """Rename a file to *.backup, which replaces an earlier one; returns the new path."""
    return path.replace(path.with_name(f"{path.name}.backup"))


def _lock(path: Path) -> BaseFileLock | None:
    """Acquire a lock, which any thread may release; None where another process has it."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def open_store(folder: str | Path) -> tuple[Store, Plan]:
    """A results folder and its plan.

    Raises:
        UsageError: It is no results folder, or its plan cannot be read.
    """
    store = Store(folder)
    try:
        return store, store.read_plan()
    except ValueError as e:
        raise UsageError(f"{e}. The command that made it moves it to *.backup and continues.") from e
    except OSError as e:
        why = f"has no {MANIFEST}, so it is no results folder" if store.folder.is_dir() else "is no folder"
        why = why if isinstance(e, FileNotFoundError | NotADirectoryError) else f"cannot be read: {e.strerror}"
        raise UsageError(f"{folder} {why}.") from e
