"""One run, seen from outside: start its process, follow its progress, find out how it ended. All executors use it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..yamls.learning_rate import VARIABLE
from .store import DONE, FAILED, read_json, write_json

STOPPED, FULL = "stopped", "disk full"
#: Least free disk space with which a run starts, and the end of a log that may explain a failure, in bytes.
ROOM, TAIL = 100 * 2**20, 2000


@dataclass(frozen=True)
class End:
    """How a run ended."""

    state: str  # done, failed, stopped or disk full
    reason: str = ""  # for all but done
    outcome: Mapping[str, Any] = field(default_factory=dict)  # for done
    files: Mapping[str, bytes] = field(default_factory=dict)  # file -> content, from a run on another machine


class Executor(Protocol):
    """Where runs take place. `slots` is the number of runs that may be under way at once."""

    slots: int

    def submit(self, id: str, job: dict[str, Any], folder: Path) -> None:
        """Start the run of a cell: what `Plan.job` returned, in the folder of the attempt on this machine.

        Its progress goes to progress.json in that folder.
        """

    def poll(self) -> dict[str, End]:
        """Cell -> end of its run, for all runs that ended since the last call; waits half a second at most."""

    def close(self) -> None:
        """End all runs and the executor."""


def train(
    job: Mapping[str, Any],
    folder: Path,
    device: str,
    threads: int,
    report: Callable[[dict[str, Any]], object],
    stop: threading.Event | None = None,
) -> End:
    """Train and validate in a process of its own, which ends with an exception, such as Ctrl+C's.

    Args:
        job: From `Plan.job`.
        folder: Where everything is written.
        device: cpu, or what CUDA_VISIBLE_DEVICES calls a GPU; empty for the first visible one.
        threads: CPU threads.
        report: Called with host, pid, began (time), share (of the epochs), at (the time of the last epoch) and first
            (time and share after the first one) whenever the share changes.
        stop: Ends the run when it is set.
    """
    # Threads are set by the process itself: OMP_NUM_THREADS stays what it is for plain `yolo train`.
    more = {"CUDA_VISIBLE_DEVICES": device} if device not in ("cpu", "") else {}
    try:
        if shutil.disk_usage(folder).free < ROOM:
            return End(FULL, f"less than {ROOM >> 20} MiB are free in {folder}")
        write_json(folder / "job.json", {**job, "device": "cpu" if device == "cpu" else "0", "threads": threads})
        code = _run(folder, job["arguments"]["epochs"], more, report, stop or threading.Event())
    except OSError as e:
        return failure(e)
    if code is None:
        return End(STOPPED)
    outcome = read_json(folder / "outcome.json")
    if code == 0 and outcome:
        return End(DONE, outcome=outcome)
    reason = _reason(folder, code)
    return End(FULL if "No space left" in reason or "Disk quota" in reason else FAILED, reason)


def failure(e: Exception) -> End:
    """The end of a run that an error prevented."""
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        return End(FULL, f"{e.filename}: {e.strerror}")
    return End(FAILED, f"{type(e).__name__}: {e}")


def environment() -> dict[str, str]:
    """The environment of a run's process, which imports this very package."""
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    env.pop("YOLO_VERBOSE", None)  # a silent log explains no failure
    env.pop(VARIABLE, None)  # the plan records the model's own factor
    return env


def _run(folder: Path, epochs: int, more: Mapping[str, str], report: Any, stop: threading.Event) -> int | None:
    """The exit code of a run's process; None where it was stopped."""
    csv = folder / "train" / "results.csv"  # of Ultralytics: a header and a line for each epoch
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "yolo_attn.detect.cell"],
            cwd=folder,
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment(), **more},
            # Ctrl+C is for the driver, which ends its runs in order. The second line does the same on Windows.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        progress: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": process.pid,
            "began": time.time(),
            "share": -1.0,
        }
        try:
            while not stop.is_set():
                lines = csv.read_bytes().count(b"\n") if csv.exists() else 0
                share = min(max(lines - 1, 0) / epochs, 1.0)
                if share != progress["share"]:
                    progress |= {"share": share, "at": time.time()}
                    if share and "first" not in progress:
                        progress["first"] = [progress["at"], share]
                    report(dict(progress))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=0.5)
            return None
        finally:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                process.communicate(timeout=5)  # closes its standard input
            process.kill()
            process.wait()


def _reason(folder: Path, code: int) -> str:
    """Why a run's process ended without an outcome."""
    if known := read_json(folder / "error.json").get("reason"):
        return str(known)
    tail = (folder / "log.txt").read_bytes()[-TAIL:].decode("utf-8", "replace").strip()
    last = tail.splitlines()[-1].strip()[:200] if tail else "nothing in its log"
    if code == -getattr(signal, "SIGKILL", 9):  # Windows has no signals
        return f"killed by the system, most likely because memory ran out (last line: {last})"
    if code < 0:
        return f"ended by signal {-code} (last line: {last})"
    if "No space left on device" in tail:
        return f"No space left on device ({last})"
    return f"exit code {code} without a result (last line: {last})"
