"""Doing one cell: own it, run its process, note what came out. Every executor calls `work`, wherever it does so."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .store import BEAT, DONE, FAILED, Attempt, Store, write_json

#: What a cell needs on disk, at the least; less than this and no further cell starts.
ROOM = 100 * 2**20
TAKEN, STOPPED, FULL = "taken", "stopped", "disk full"
#: End of a log that goes into the reason of a failure.
TAIL = 2000


def work(
    folder: str,
    id: str,
    job: Mapping[str, Any],
    more: Mapping[str, str] | None = None,
    stop: Any = None,
    task: str = "",
) -> dict[str, Any]:
    """Do a cell, unless somebody else does.

    Args:
        folder: Results folder.
        id: The cell's.
        job: What `cell.train` needs.
        more: Additions to the process's environment.
        stop: An event that ends the cell early. An exception, such as a signal handler's, does so as well.
        task: By what name the executor knows this attempt.

    Returns:
        state: done, failed, taken (by somebody else, or done before), stopped or disk full; reason for the last ones.
    """
    store = Store(folder)
    attempt: Attempt | None = None
    try:
        if store.free_bytes() < ROOM:
            return {"state": FULL, "reason": f"less than {ROOM >> 20} MiB are free in {folder}"}
        attempt = store.claim(id, task)
        if attempt is None:
            return {"state": TAKEN}
        write_json(attempt.path / "job.json", dict(job))
        code = _run(store, attempt, more or {}, stop)
        if code != 0:
            store.clear(attempt)
        if code is None:
            store.release(attempt)
            return {"state": TAKEN if store.overtaken(attempt) else STOPPED}
        outcome = _read(attempt.path / "outcome.json")
        if code == 0 and outcome is not None:
            store.publish(id, outcome)
            store.clear_before(attempt)
            return {"state": DONE}
        reason = _reason(attempt.path, code)
        if "No space left" in reason or "Disk quota" in reason:
            store.release(attempt)
            return {"state": FULL, "reason": reason}
        store.fail(attempt, reason)
        return {"state": FAILED, "reason": reason}
    except OSError as e:
        if attempt is not None:
            store.release(attempt)
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"state": FULL, "reason": f"{folder}: {e.strerror}"}
        return {"state": FAILED, "reason": f"{type(e).__name__}: {e}"}
    except BaseException:  # told to end; this process may live on, and the cell is not to be taken for running then
        if attempt is not None:
            store.release(attempt)
            store.clear(attempt)
        raise


def environment() -> dict[str, str]:
    """The environment of a cell's process, which imports this package from where it is."""
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    env.pop("YOLO_VERBOSE", None)  # a silent log explains no failure
    return env


def _run(store: Store, attempt: Attempt, more: Mapping[str, str], stop: Any) -> int | None:
    """The exit code of the cell's process; None where it was stopped or overtaken."""
    stop = stop or threading.Event()
    env = {**environment(), **more}
    with open(attempt.path / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "yolo_attn.detect.cell"],
            cwd=attempt.path,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            # Ctrl+C is for the runner, which ends its cells in order; the second is Windows' word for it.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            last = time.monotonic()
            while not stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=0.5)
                if time.monotonic() - last > BEAT:
                    last = time.monotonic()
                    if store.overtaken(attempt):  # this machine slept, or its disk did
                        return None
                    attempt.beat()
            return None
        finally:
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            if process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()


def _reason(path: Path, code: int) -> str:
    """Why a cell's process ended without an outcome."""
    told = _read(path / "error.json")
    if told:
        return str(told["reason"])
    tail = ""
    with contextlib.suppress(OSError):
        tail = (path / "log.txt").read_bytes()[-TAIL:].decode("utf-8", "replace").strip()
    last = tail.splitlines()[-1].strip() if tail else "nothing in its log"
    if code == -getattr(signal, "SIGKILL", 9):  # Windows has no signals
        return f"killed by the system, most likely for want of memory (last line: {last[:200]})"
    if code < 0:
        return f"ended by signal {-code} (last line: {last[:200]})"
    if "No space left on device" in tail:
        return f"No space left on device ({last[:200]})"
    return f"exit code {code} without a result (last line: {last[:200]})"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
