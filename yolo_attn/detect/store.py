"""The results folder: who does which cell, and what came out. Survives whatever ends a process.

    bench.json                        the plan
    cells/<id>/result.json            what came out; written once, complete or not at all
    cells/<id>/failed.json            why the last attempt failed
    cells/<id>/lost.json              which attempt's machine is gone, as far as its executor knows, and why
    cells/<id>/attempt-<n>/           owner.json, log.txt, and what the training writes

A runner owns a cell by making the folder of its next attempt: of several that try, in one process or on several
machines, the file system lets one succeed. While it works it touches that folder. An attempt whose owner has ended
without a result, or whose folder has not been touched for `STALE` seconds, is lost, and the next attempt may be made;
`QUIET` seconds are enough where an executor has given the attempt up. Being given up is not enough by itself: a machine
that a cluster no longer hears of may still compute. Nothing is ever deleted to take a cell over, so no two can take it
over at once, and an owner that comes back to find a later attempt than its own ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import Plan, digest

#: Seconds between two signs of life, and after how many without one an attempt on another machine is lost.
BEAT, STALE = 10.0, 180.0
#: The same for an attempt that its executor has given up.
QUIET = 45.0
DONE, FAILED, RUNNING, LOST, OPEN = "done", "failed", "running", "lost", "to do"
MANIFEST = "bench.json"


def write_json(path: Path, value: Any) -> None:
    """Write a value as a file that is complete or not there, whatever happens in between."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is complete or not there, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def set_aside(path: Path) -> Path:
    """Rename a file or folder to a free name beside it; returns that name."""
    n = 1
    while True:
        free = path.with_name(f"{path.name}.aside-{n}")
        if not free.exists():
            os.rename(path, free)
            return free
        n += 1


def process_start(pid: int) -> str:
    """When a process of this machine started, as text; empty where there is none. A reused number has another time."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        with contextlib.suppress(OSError, IndexError):  # ticks since boot: a time of day moves when the clock is set
            return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


def here() -> dict[str, Any]:
    """Which process of which machine this is."""
    return {"host": _host(), "pid": os.getpid(), "start": process_start(os.getpid())}


def _host() -> str:
    """This machine until its next start; where containers share its name, the one whose process numbers these are."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {platform.node()}"


@dataclass(frozen=True)
class State:
    """Where a cell stands.

    Attributes:
        name: done, failed, running, lost or to do.
        attempt: Number of the last attempt; 0 for none.
        owner: Whose it is or was.
        reason: Why it failed or was lost.
    """

    name: str
    attempt: int = 0
    owner: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Attempt:
    """An attempt that this process owns.

    Attributes:
        path: Its folder.
        id: The cell's.
        number: From 1.
    """

    path: Path
    id: str
    number: int

    def beat(self) -> None:
        """Give a sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self.path)


class Store:
    """A results folder.

    Args:
        folder: Made where it is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

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
        """Make this the folder's plan; cells of earlier plans stay and are used where they are the same.

        Returns:
            A remark for the user, or nothing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "cells").mkdir(exist_ok=True)
        path, remark = self.folder / MANIFEST, ""
        try:
            before = self.read_plan()
            if before == plan:
                return ""
        except FileNotFoundError:
            pass
        except ValueError as e:
            remark = f"{e}; it is now {set_aside(path).name}, and finished cells count where they are the same."
        write_json(path, plan.to_json())
        return remark

    def cell(self, id: str) -> Path:
        """The folder of a cell."""
        return self.folder / "cells" / id

    def result(self, id: str) -> dict[str, Any] | None:
        """What came out of a cell; None where it is not done. A damaged file is set aside, and the cell is not done."""
        path = self.cell(id) / "result.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["id"] != id or found["checksum"] != digest(found["outcome"]):
                raise ValueError
            return found["outcome"]
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError):
            with contextlib.suppress(OSError):  # somebody else did, or the folder is only for reading
                set_aside(path)
            return None

    def publish(self, id: str, outcome: Mapping[str, Any]) -> bool:
        """Write what came out of a cell, unless somebody did before; returns whether this is it now."""
        path = self.cell(id) / "result.json"
        temporary = path.with_name(f".result.{uuid.uuid4().hex}")
        write_json(temporary, {"id": id, "checksum": digest(outcome), "outcome": outcome})
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        with contextlib.suppress(OSError):
            (self.cell(id) / "failed.json").unlink()
        return True

    def state(self, id: str) -> State:
        """Where a cell stands."""
        number = self._last(id)
        if self.result(id) is not None:
            return State(DONE, number)
        if not number:
            return State(OPEN)
        attempt = self.cell(id) / f"attempt-{number}"
        owner = _read(attempt / "owner.json")
        failed = _read(self.cell(id) / "failed.json")
        if failed and failed.get("attempt") == number:
            return State(FAILED, number, owner, str(failed.get("reason", "")))
        if (attempt / "released").exists():
            return State(OPEN, number, owner)
        given_up = _read(self.cell(id) / "lost.json") or {}
        reason = str(given_up.get("reason", "")) if given_up.get("attempt") == number else ""
        lives = self._lives(attempt, owner, QUIET if reason else STALE)
        return State(RUNNING if lives else LOST, number, owner, "" if lives else reason)

    def claim(self, id: str, task: str = "") -> Attempt | None:
        """Own a cell that is to do, lost or failed; None where somebody else does or it is done.

        Args:
            id: The cell's.
            task: By what name the executor knows this attempt, for `attempt_of`.
        """
        state = self.state(id)
        if state.name in (DONE, RUNNING):
            return None
        path = self.cell(id) / f"attempt-{state.attempt + 1}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            return None
        try:
            write_json(path / "owner.json", {**here(), "task": task})
        except BaseException:  # a full disk: nobody owns it, so nobody is to wait for it
            with contextlib.suppress(OSError):
                path.rmdir()
            raise
        if self.result(id) is not None:  # finished between the two looks
            (path / "released").touch()
            return None
        return Attempt(path, id, state.attempt + 1)

    def fail(self, attempt: Attempt, reason: str) -> None:
        """Note why an attempt failed, unless it was taken for lost meanwhile: the next one's fate is the cell's."""
        if self.overtaken(attempt):
            return
        write_json(self.cell(attempt.id) / "failed.json", {"attempt": attempt.number, "reason": reason})

    def attempt_of(self, id: str, task: str) -> Attempt | None:
        """The last attempt at a cell, where it is an executor's task of that name."""
        number = self._last(id)
        path = self.cell(id) / f"attempt-{number}"
        owner = _read(path / "owner.json")
        return Attempt(path, id, number) if task and owner and owner.get("task") == task else None

    def give_up(self, attempt: Attempt, reason: str) -> None:
        """Note that an attempt's machine is gone as far as its executor knows: its silence is believed sooner."""
        with contextlib.suppress(OSError):
            write_json(self.cell(attempt.id) / "lost.json", {"attempt": attempt.number, "reason": reason})

    def overtaken(self, attempt: Attempt) -> bool:
        """Whether somebody took an attempt for lost and makes the next one."""
        return (self.cell(attempt.id) / f"attempt-{attempt.number + 1}").exists()

    def release(self, attempt: Attempt) -> None:
        """Give a cell back undone."""
        try:
            (attempt.path / "released").touch()
        except OSError:  # a full disk has no room for a new name, but an old one can be changed
            with contextlib.suppress(OSError):
                os.rename(attempt.path / "owner.json", attempt.path / "released")

    def clear(self, attempt: Attempt) -> None:
        """Remove the weights of an attempt that came to nothing: a run of many cells would fill the disk with them."""
        for file in [*attempt.path.rglob("*.pt")]:
            with contextlib.suppress(OSError):
                file.unlink()

    def clear_before(self, attempt: Attempt) -> None:
        """Remove the weights of the attempts before one that is done, whose owners were lost and removed nothing."""
        for number in range(1, attempt.number):
            self.clear(Attempt(attempt.path.with_name(f"attempt-{number}"), attempt.id, number))

    def progress(self, id: str) -> float:
        """Share of a running cell's epochs that its last attempt has done, from 0 to 1."""
        attempt = self._last(id)
        with contextlib.suppress(OSError, KeyError, ZeroDivisionError):
            job = _read(self.cell(id) / f"attempt-{attempt}" / "job.json") or {}
            lines = (self.cell(id) / f"attempt-{attempt}" / "train" / "results.csv").read_text(encoding="utf-8")
            return min(max(lines.count("\n") - 1, 0) / job["arguments"]["epochs"], 1.0)
        return 0.0

    def free_bytes(self) -> int:
        """Room left on the file system."""
        return shutil.disk_usage(self.folder).free

    def _last(self, id: str) -> int:
        with contextlib.suppress(OSError):
            names = os.listdir(self.cell(id))
            return max((int(m[1]) for name in names if (m := re.fullmatch(r"attempt-(\d+)", name))), default=0)
        return 0

    def _lives(self, attempt: Path, owner: Mapping[str, Any] | None, silence: float) -> bool:
        if owner and owner.get("host") == _host():
            started = process_start(int(owner["pid"]))
            return bool(started) and started == owner["start"]
        try:
            return self._now() - _touched(attempt) < silence
        except OSError:
            return False

    def _now(self) -> float:
        """The time by the clock of the file system, for clocks of machines differ."""
        probe = self.folder / f".clock.{uuid.uuid4().hex}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def _touched(path: Path) -> float:
    """When a folder was last touched. Opening it makes a network file system ask its server, which `stat` does not."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return path.stat().st_mtime
    try:
        return os.fstat(opened).st_mtime
    finally:
        os.close(opened)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None
