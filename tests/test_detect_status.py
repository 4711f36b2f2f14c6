"""`yolo-attn bench status` and `bench report`: a results folder, seen from any terminal."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated import fabricate

from yolo_attn import commands
from yolo_attn.detect import durations, status
from yolo_attn.detect.plan import CANDIDATE, STOCK, Cell, Plan
from yolo_attn.detect.run import Tally
from yolo_attn.detect.store import DONE, FAILED, OPEN, RUNNING, Attempt, Store, write_json

MODELS = tuple((name, role, 3_000_000, 8.0, "", 0.0) for name, role in (("stock", STOCK), ("ours", CANDIDATE)))


def folder(path: Path, todo: Callable[[str, str, int], Any], fail: Callable[..., str] | None = None) -> Store:
    """Two models, three seeds; `todo` says which cells nobody has run."""
    return fabricate(path, 3, MODELS, todo=todo, epochs=4, samples=0, **({"fail": fail} if fail else {}))


@pytest.fixture
def running(tmp_path: Path) -> tuple[Store, Plan, Attempt]:
    """Two cells are done, one failed, one runs, one was interrupted, one is untouched."""
    store = folder(
        tmp_path, lambda m, d, s: s == 2 or (m, s) == ("ours", 1), lambda m, d, s: "out of memory" if s == 1 else ""
    )
    plan = store.read_plan()
    of: dict[tuple[str, int], Cell] = {(c.model, c.seed): c for c in plan.cells}
    interrupted = store.claim(of["stock", 2].id)
    assert interrupted
    store.release(interrupted)
    attempt = store.claim(of["ours", 1].id)
    assert attempt
    progress = {"host": "far-away", "pid": os.getpid(), "began": time.time() - 300, "share": 0.25}
    write_json(attempt.path / "progress.json", progress)
    return store, plan, attempt


def test_the_status_counts_cells_and_names_what_runs_and_failed(
    running: tuple[Store, Plan, Attempt], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["bench", "status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "2 of 6 runs done, 1 running, 1 failed, 2 to do" in text
    assert re.search(r"^bccd +stock +1 +0 +1 +1 +stock$", text, re.MULTILINE)
    assert f"ours on bccd, seed 1: 25% trained, on far-away, process {os.getpid()}, for 5 min" in text
    assert re.search(r"stock on bccd, seed 1: out of memory \(.*/attempt-1/log.txt\)", text)
    assert "no report yet" in text
    (tmp_path / "report.html").touch()
    commands.main(["bench", "status", str(tmp_path)])
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_the_remaining_time_counts_shares_of_running_cells(
    running: tuple[Store, Plan, Attempt], tmp_path: Path
) -> None:
    store, plan, _ = running
    states = {c.id: store.state(c.id) for c in plan.cells}
    assert sorted(s.name for s in states.values()) == sorted([DONE] * 2 + [FAILED, RUNNING] + [OPEN] * 2)
    seconds = {c.model: r["seconds"] for c in plan.cells if (r := store.result(c.id))}
    assert status.time_left(store, plan, states) == pytest.approx(seconds["stock"] + 1.75 * seconds["ours"])
    unstarted = Store(tmp_path / "new")
    assert status.time_left(unstarted, plan, {c.id: unstarted.state(c.id) for c in plan.cells}) is None


def test_a_running_cell_is_enough_to_estimate_the_remaining_time(tmp_path: Path) -> None:
    store = folder(tmp_path, lambda *_: True)
    plan = store.read_plan()
    attempt = store.claim(plan.cells[0].id)
    assert attempt
    write_json(attempt.path / "progress.json", {"began": time.time() - 100, "share": 0.5})
    left = status.time_left(store, plan, {c.id: store.state(c.id) for c in plan.cells})
    assert left == pytest.approx(5.5 * 200, rel=0.05)


def test_the_first_epoch_which_contains_the_start_is_not_taken_for_the_others() -> None:
    """Forty seconds until the first of ten epochs, then ten seconds each: 130 in all, and not 400."""
    progress = {"began": 1000.0, "at": 1040.0, "share": 0.1, "first": [1040.0, 0.1]}
    assert durations.projected(progress) == pytest.approx(400), "nothing else is known yet"
    progress |= {"at": 1060.0, "share": 0.3}
    assert durations.projected(progress) == pytest.approx(130)
    cell = Cell("id", "ours", "bccd", 0)
    assert durations.Durations().left([(cell, progress)], 1) == pytest.approx(0.7 * 130)
    assert durations.projected({"began": 1000.0, "at": 1001.0, "share": 0.0}) is None


def test_every_command_prints_the_same_remaining_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of one model take 100 seconds, those of the other 500: the mean of both fits neither."""
    store = folder(tmp_path, lambda m, d, s: s == 2 or (m, s) == ("stock", 1))
    plan = store.read_plan()
    for cell in plan.cells:
        if outcome := store.result(cell.id):
            store.publish(cell.id, outcome | {"seconds": 500.0 if cell.model == "ours" else 100.0})
    states = {c.id: store.state(c.id) for c in plan.cells}
    assert status.time_left(store, plan, states) == pytest.approx(700)
    assert "about 12 min with 1 at a time" in status.describe(plan, store)
    waiting = [c.id for c in plan.cells if states[c.id].name == OPEN]
    running = next(c for c in plan.cells if c.id == waiting[0])
    status.Progress(plan, store)(Tally(done=3, waiting=waiting[1:]), [running])
    assert "12 min left" in capsys.readouterr().err


def test_the_status_of_a_stopped_benchmark_says_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder(tmp_path, lambda m, d, s: s == 2)
    assert commands.main(["bench", "status", f"out={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "nothing is running, about " in text
    assert store.read_plan().command in text


def test_the_report_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path, lambda *_: False)
    assert commands.main(["bench", "report", str(tmp_path), "costs=0"]) == 0
    assert str(tmp_path / "report.md") in capsys.readouterr().out
    assert (tmp_path / "report.md").exists()


@pytest.mark.parametrize("command", ("status", "report"))
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no bench.json"),
        ("{", "is damaged or of another version"),
        ("[]", "is damaged or of another version"),
        ('{"format": 99}', "format 99 instead of 1"),
        ('{"format": 1}', "is damaged or of another version"),
    ],
    ids=("none", "cut", "list", "version", "empty"),
)
def test_a_folder_without_a_readable_plan_is_refused_and_not_changed(
    command: str, content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "bench.json").write_text(content)
    assert commands.main(["bench", command, str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert content is None or (tmp_path / "bench.json").read_text() == content


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "out=… is missing: results folder"),
        (["a", "b"], "'b' is not name=value"),
        (["/no/such/folder"], "/no/such/folder is no folder"),
        (["/etc/hostname"], "/etc/hostname is no folder"),
        (["folder", "kosts=0"], "no argument 'kosts'. Did you mean costs"),
    ],
)
def test_invalid_arguments_of_bench_report_are_refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["bench", "report", *argv]) == 2
    assert said in capsys.readouterr().err
