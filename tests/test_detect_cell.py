"""`bench detect`: the process of a run, and the one that watches it, without training anything."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolo_attn.detect import cell, work
from yolo_attn.detect.plan import versions
from yolo_attn.detect.store import DONE, FAILED


@pytest.fixture
def threads() -> Iterator[None]:
    from ultralytics.utils import torch_utils

    before = torch.get_num_threads(), torch_utils.NUM_THREADS
    yield
    torch.set_num_threads(before[0])
    torch_utils.NUM_THREADS = before[1]


@pytest.mark.usefixtures("threads")
def test_a_cell_keeps_its_threads_when_ultralytics_picks_the_cpu() -> None:
    from ultralytics.utils.torch_utils import select_device

    for number in (3, 2):
        cell.set_threads(number)
        select_device("cpu", verbose=False)
        assert torch.get_num_threads() == number


def test_another_environment_than_the_planned_one_is_refused(tmp_path: Path) -> None:
    job = {**JOB, "versions": {**versions(), "torch": "1.0"}}
    end = work.train(job, tmp_path, "cpu", 1, lambda _: None)
    assert end.state == FAILED
    assert "the benchmark was planned with" in end.reason and "'torch': '1.0'" in end.reason


def test_images_of_a_classification_do_not_depend_on_what_the_model_draws() -> None:
    seen = []
    for drawn in (0, 7):
        dataset = SimpleNamespace(torch_transforms=lambda image: image + torch.rand(()))
        loader = SimpleNamespace(dataset=dataset, num_workers=0)
        trainer = SimpleNamespace(train_loader=loader, preprocess_batch=lambda batch: batch)
        torch.manual_seed(3)
        cell._seed_order(trainer, 3, hashlib.sha256())
        seen.append([])
        for _ in range(3):
            torch.rand(drawn)  # a model's dropout
            seen[-1].append(dataset.torch_transforms(0.0).item())
        left = torch.get_rng_state()
        torch.manual_seed(3)
        torch.rand(3 * drawn)
        assert torch.equal(left, torch.get_rng_state())  # nor the other way round
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3


def test_the_final_validation_takes_the_arguments_that_those_of_the_epochs_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Model:
        def add_callback(self, *_: Any) -> None:
            pass

        def val(self, **arguments: Any) -> Any:
            seen.update(arguments)
            return SimpleNamespace(top1=0.5, top5=1.0)

    monkeypatch.setattr(cell, "_model", lambda *_: Model())
    given = {"imgsz": 64, "epochs": 2, "iou": 0.5, "max_det": 7, "conf": 0.01, "agnostic_nms": True, "lr0": 0.1}
    job = {"model": {}, "data": "d", "task": "classify", "device": "cpu", "names": ["a"], "arguments": given}
    cell.validate(job, tmp_path, tmp_path / "best.pt")
    assert {k: seen.get(k) for k in given} == {**given, "epochs": None, "lr0": None}


# ---- from outside ----


def standing_for_a_run(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python code, which is executed in the folder of the attempt, take the place of a run's process."""
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **given: real([sys.executable, "-c", code], **given))


JOB = {"arguments": {"epochs": 4}}


def train(folder: Path, report: Any = lambda _: None, stop: threading.Event | None = None) -> work.End:
    return work.train(JOB, folder, "cpu", 1, report, stop)


OUTCOME = "open('outcome.json', 'w').write('{\"values\": {}}')"
FAILURES = {
    "raise SystemExit('no luck')": (FAILED, "exit code 1 without a result (last line: no luck)"),
    "open('error.json', 'w').write('{\"reason\": \"out of memory\"}'); raise SystemExit(1)": (FAILED, "out of memory"),
    "import os; os.kill(os.getpid(), 9)": (FAILED, "killed by the system, most likely because memory ran out"),
    "import os; os.kill(os.getpid(), 15)": (FAILED, "ended by signal 15"),
    "raise OSError(28, 'No space left on device')": (work.FULL, "No space left on device"),
    "pass": (FAILED, "exit code 0 without a result (last line: nothing in its log)"),
}


@pytest.mark.parametrize(("code", "state", "reason"), [(c, *end) for c, end in FAILURES.items()])
def test_a_run_that_ends_without_an_outcome_has_a_reason(
    code: str, state: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_for_a_run(code, monkeypatch)
    end = train(tmp_path)
    assert end.state == state and end.reason.startswith(reason)


def test_the_progress_of_a_run_is_reported_and_its_outcome_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, time\nos.makedirs('train')\nopen('train/results.csv', 'w').write('epoch\\n1\\n')\n"
    code += "while not os.path.exists('go'): time.sleep(0.01)\n"
    standing_for_a_run(code + OUTCOME, monkeypatch)
    seen: list[dict[str, Any]] = []

    def report(progress: dict[str, Any]) -> None:
        seen.append(progress)
        if progress["share"] == 0.25:
            (tmp_path / "go").touch()

    assert train(tmp_path, report) == work.End(DONE, outcome={"values": {}})
    assert seen[-1]["share"] == 0.25 and len({p["pid"] for p in seen}) == 1


def test_a_stopped_run_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process ignores the end of its standard input."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(_: Any, **given: Any) -> Any:
        started.append(real([sys.executable, "-c", "import time; time.sleep(600)"], **given))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    stop = threading.Event()
    stop.set()
    assert train(tmp_path, stop=stop).state == work.STOPPED
    assert started[0].poll() == -signal.SIGKILL


def test_too_little_free_space_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(work.shutil, "disk_usage", lambda _: SimpleNamespace(free=work.ROOM - 1))
    end = train(tmp_path)
    assert end.state == work.FULL and end.reason == f"less than 100 MiB are free in {tmp_path}"


def test_a_signal_is_named_where_there_are_no_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.txt").write_text("something\nthe last line\n")
    monkeypatch.delattr(signal, "SIGKILL")
    assert work._reason(tmp_path, 1) == "exit code 1 without a result (last line: the last line)"
