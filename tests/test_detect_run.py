"""`bench detect`: the driver, with an executor that trains nothing, and `bench cell`."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from plans import FakeExecutor, tiny_store

from yolo_attn import commands
from yolo_attn.detect import run, status
from yolo_attn.detect.executors import local
from yolo_attn.detect.run import Tally, execute
from yolo_attn.detect.store import DONE, FAILED, OPEN, RUNNING, Store, write_json
from yolo_attn.detect.work import FULL, STOPPED, End


def test_a_failing_run_affects_no_other_and_the_next_command_tries_it_again(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    bad = plan.cells[1].id
    tally = execute(plan, s, FakeExecutor({bad: [End(FAILED, "out of memory")]}))
    assert tally.done == 3 and tally.failed == {bad: "out of memory"}
    assert s.state(bad).reason == "out of memory"
    again = FakeExecutor()
    tally = execute(plan, s, again)
    assert again.log == [bad] and tally.done == 4 and not tally.failed


def test_a_full_disk_stops_the_command_and_the_next_one_resumes(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    executor = FakeExecutor({plan.cells[1].id: [End(FULL, "no room")]}, slots=1)
    tally = execute(plan, s, executor)
    assert tally.full == "no room" and tally.done == 1 and len(executor.log) == 2 and executor.closed
    assert execute(plan, s, FakeExecutor()).done == 4


def test_a_result_that_a_full_disk_cannot_hold_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, s = tiny_store(tmp_path)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "result.json")

    with monkeypatch.context() as m:
        m.setattr(s, "publish", refuse)
        tally = execute(plan, s, FakeExecutor(slots=1))
    assert "No space left" in tally.full and tally.done == 0
    assert {s.state(c.id).name for c in plan.cells} == {OPEN}


def test_an_interrupt_keeps_what_is_done_and_frees_the_rest(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    executor = FakeExecutor({plan.cells[2].id: [KeyboardInterrupt()]})
    tally = execute(plan, s, executor)
    assert tally.interrupted and tally.done == 2 and executor.closed
    assert [s.state(c.id).name for c in plan.cells] == [DONE, DONE, OPEN, OPEN]


def test_a_stopped_run_is_neither_done_nor_failed(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    tally = execute(plan, s, FakeExecutor({plan.cells[0].id: [End(STOPPED)]}))
    assert tally.done == 3 and not tally.failed
    assert s.state(plan.cells[0].id).name == OPEN


def test_a_cell_that_another_process_runs_is_waited_for_and_not_run(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    theirs = s.claim(plan.cells[0].id)
    assert theirs
    executor = FakeExecutor()

    def later() -> None:
        while len(executor.log) < 3:
            time.sleep(0.01)
        s.publish(theirs.id, {"values": {}})
        s.release(theirs)

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    tally = execute(plan, s, executor)
    thread.join()
    assert tally.done == 4 and tally.ran == 3
    assert theirs.id not in executor.log


def test_a_cell_that_another_process_gives_up_is_run(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    theirs = s.claim(plan.cells[0].id)
    assert theirs
    executor = FakeExecutor()

    def later() -> None:
        while len(executor.log) < 3:
            time.sleep(0.01)
        s.release(theirs)

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    tally = execute(plan, s, executor)
    thread.join()
    assert tally.ran == 4 and executor.log[-1] == theirs.id


@pytest.mark.parametrize("columns", ["0", "200"], ids=["unknown width", "wide"])
def test_progress_shows_runs_failures_and_the_last_score(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, s = tiny_store(tmp_path)
    attempt = s.claim(plan.cells[3].id)
    assert attempt
    write_json(attempt.path / "progress.json", {"share": 0.25})
    monkeypatch.setattr(status.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", columns)
    tally = Tally(done=2, failed={"x": "why"}, last="last: a on d, seed 0: mAP50 0.500")
    status.Progress(plan, s)(tally, [plan.cells[3]])
    shown = capsys.readouterr().err
    assert shown.startswith("\r\x1b[K2/4 runs done, 1 failed, ")
    if columns == "200":
        assert "b on d, seed 1 25%, last: a on d, seed 0: mAP50 0.500" in shown


def test_without_a_terminal_progress_is_one_line_for_each_run(tmp_path: Path, capsys: Any) -> None:
    plan, s = tiny_store(tmp_path)
    execute(plan, s, FakeExecutor({plan.cells[1].id: [End(FAILED, "why")]}, slots=1), status.Progress(plan, s))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["1/4", "1/4", "2/4", "3/4"]
    assert lines[0].endswith("last: a on d, seed 0: mAP50 0.500") and lines[1].endswith("last: b on d, seed 0: failed")


# ---- the whole command, without training ----


def test_a_second_driver_of_a_folder_gets_a_clear_message(tiny_data: str, tmp_path: Path, capsys: Any) -> None:
    argv = ["bench", "detect", "models=yolov8n", f"data={tiny_data}", "imgsz=64", "control=0", f"out={tmp_path}"]
    with Store(tmp_path).driver():
        assert commands.main(argv) == 2
    assert f"out={tmp_path}: another process runs a benchmark in this folder." in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_a_plan_can_be_written_without_running_it(
    tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be run")

    monkeypatch.setitem(run.EXECUTORS, "local", refuse)
    argv = ["models=yolov8n,mlca@neck", f"data={tiny_data}", "imgsz=64", "control=0", "seeds=3", f"out={tmp_path}"]
    assert commands.main(["bench", "detect", *argv, "run=0"]) == 0
    text = capsys.readouterr().out
    assert f"yolo-attn bench cell {tmp_path} N" in text and "N from 0 to 5" in text
    assert len(Store(tmp_path).read_plan().cells) == 6


# ---- bench cell ----


@pytest.mark.parametrize(
    ("end", "code", "state"),
    [
        (End(DONE, outcome={"values": {"mAP50": 0.5}}), 0, DONE),
        (End(FAILED, "no luck"), 1, FAILED),
        (End(FULL, "x"), 1, OPEN),
    ],
)
def test_bench_cell_runs_one_cell_and_its_exit_code_tells_how_it_ended(
    end: End, code: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, s = tiny_store(tmp_path)
    seen: list[Any] = []

    def train(job: Any, folder: Path, device: str, threads: int, report: Any, stop: Any) -> End:
        assert s.state(plan.cells[2].id).name == RUNNING
        seen.append((job["seed"], device, threads))
        return end

    monkeypatch.setattr(local, "train", train)
    argv = ["bench", "cell", str(tmp_path), "2", "device=cpu", "threads=3"]
    assert commands.main(argv) == code
    assert seen == [(1, "cpu", 3)]
    assert [s.state(c.id).name for c in plan.cells] == [OPEN, OPEN, state, OPEN]


def test_bench_cell_of_a_done_cell_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, s = tiny_store(tmp_path)
    s.cell(plan.cells[0].id).mkdir(parents=True)
    s.publish(plan.cells[0].id, {"values": {}})
    monkeypatch.setattr(local, "train", None)
    assert commands.main(["bench", "cell", str(tmp_path), "0"]) == 0


def test_bench_cell_waits_for_another_process_that_runs_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, s = tiny_store(tmp_path)
    theirs = s.claim(plan.cells[0].id)
    assert theirs
    monkeypatch.setattr(local, "train", None)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run.run_cell(tmp_path, 0)), daemon=True)
    thread.start()
    thread.join(0.5)
    assert not codes
    s.publish(theirs.id, {"values": {}})
    s.release(theirs)
    thread.join(600)
    assert codes == [0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["{folder}", "4"], "cell=4: the plan in {folder} has cells 0 to 3"),
        (["{folder}", "-1"], "'-1' is not name=value"),
        (["{folder}"], "cell=… is missing"),
        (["{folder}/none", "0"], "none is no folder"),
        (["{folder}", "0", "device=gpu"], "device=gpu must be cpu or the number of a GPU"),
        (["{folder}", "0", "device=64"], "device=64: PyTorch finds"),
    ],
)
def test_invalid_arguments_of_bench_cell_are_refused(argv: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    tiny_store(tmp_path)
    assert commands.main(["bench", "cell", *(w.format(folder=tmp_path) for w in argv)]) == 2
    assert said.format(folder=tmp_path) in capsys.readouterr().err


def test_bench_cell_needs_the_starting_weights(tmp_path: Path, capsys: Any) -> None:
    tiny_store(tmp_path, local={"start": "/nowhere/w.pt"})
    assert commands.main(["bench", "cell", str(tmp_path), "0", "device=cpu"]) == 2
    assert "/nowhere/w.pt: the starting weights are not there" in capsys.readouterr().err
