"""`bench detect`: cells on a full disk, overtaken owners, and what an attempt leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from yolo_attn.detect import store, work
from yolo_attn.detect.store import DONE, FAILED, LOST, OPEN, Store


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_claim_that_a_full_disk_cuts_short_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = Store(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(store, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            s.claim("cell")
    assert s.state("cell").name == OPEN
    assert s.claim("cell") is not None


def test_a_cell_is_given_back_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Store(tmp_path)
    attempt = s.claim("cell")
    assert attempt
    with monkeypatch.context() as m:
        m.setattr(Path, "touch", full)
        s.release(attempt)
    assert s.state("cell").name == OPEN


def test_an_owner_that_was_overtaken_does_not_hide_how_the_next_attempt_ended(tmp_path: Path) -> None:
    s = Store(tmp_path)
    first = s.claim("cell")
    assert first
    store.write_json(first.path / "owner.json", {"host": "elsewhere", "pid": 1, "start": "0"})
    os.utime(first.path, (0, 0))
    second = s.claim("cell")
    assert second and second.number == 2
    s.fail(second, "out of memory")
    s.fail(first, "its disk went away")
    state = s.state("cell")
    assert (state.name, state.attempt, state.reason) == (FAILED, 2, "out of memory")


def test_an_owner_of_whom_no_start_is_known_does_not_live_for_ever(tmp_path: Path) -> None:
    s = Store(tmp_path)
    attempt = s.claim("cell")
    assert attempt
    owner = {**store.here(), "start": ""}
    owner["pid"] = 2**22 + 1  # over the largest number of a process
    store.write_json(attempt.path / "owner.json", owner)
    assert s.state("cell").name == LOST


def test_a_failure_is_told_where_there_are_no_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.txt").write_text("something\nthe last line\n")
    monkeypatch.delattr(signal, "SIGKILL")
    assert work._reason(tmp_path, 1) == "exit code 1 without a result (last line: the last line)"


def _cell(code: str) -> Any:
    """What stands for a cell's process: code that runs in the attempt's folder, beside weights of an epoch."""
    real = subprocess.Popen

    def start(_: Any, **words: Any) -> Any:
        weights = "import os, pathlib; os.makedirs('train/weights'); pathlib.Path('train/weights/last.pt').touch(); "
        return real([sys.executable, "-c", weights + code], **words)

    return start


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "input()"])
def test_an_attempt_that_comes_to_nothing_leaves_no_weights(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", _cell(code))
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    found = work.work(str(tmp_path), "cell", {}, stop=stop)
    assert found["state"] in (FAILED, work.STOPPED)
    assert (tmp_path / "cells/cell/attempt-1/train/weights").is_dir()
    assert not list(tmp_path.rglob("*.pt"))


def test_a_done_cell_removes_the_weights_of_lost_attempts_and_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = Store(tmp_path)
    lost = s.claim("cell")
    assert lost
    (lost.path / "last.pt").touch()
    s.release(lost)
    monkeypatch.setattr(subprocess, "Popen", _cell("open('outcome.json', 'w').write('{}')"))
    assert work.work(str(tmp_path), "cell", {})["state"] == DONE
    assert [f.parent.parent.parent.name for f in tmp_path.rglob("*.pt")] == ["attempt-2"]
