"""`bench detect` as a user runs it: real trainings in an empty folder, killed, resumed, out of disk, for every task."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jobs import clean_environment, run, tiny_dataset

from yolo_attn.detect.results import gather
from yolo_attn.detect.store import Store

pytestmark = pytest.mark.slow
TINY = ("epochs=1", "imgsz=64", "batch=4", "device=cpu", "threads=1")
PROGRAM = Path(sys.executable).parent / "yolo-attn"


def yolo_attn(*arguments: str, cwd: Path, ok: bool = True, **env: str) -> str:
    return run(PROGRAM, *arguments, cwd=cwd, ok=ok, **env)


def outcomes(folder: Path) -> dict[str, Any]:
    """What decides a report, of every cell: not how long it took."""
    found = {}
    for file in folder.glob("cells/*/result.json"):
        outcome = json.loads(file.read_text())["outcome"]
        curves = {k: v for k, v in outcome["curves"].items() if k != "time"}
        found[file.parent.name] = [outcome[k] for k in ("values", "classes", "sizes", "samples", "order")] + [curves]
    return found


def run_processes(folder: Path) -> list[psutil.Process]:
    """Trainings that work in a results folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder / "cells") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(what: Callable[[], Any], seconds: float = 600) -> Any:
    """What `what` returns as soon as that is true; the bound is for a machine that is busy with other things."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing in {seconds} s")


def start(arguments: list[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, *arguments],
        cwd=cwd,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_new_user_gets_a_report_and_the_same_command_trains_nothing_again(tiny_data: str, tmp_path: Path) -> None:
    arguments = ("bench", "detect", "models=yolov8n,sk@neck", f"data={tiny_data}", "seeds=2", *TINY, "out=res")
    text = yolo_attn(*arguments, cwd=tmp_path)
    folder = tmp_path / "res"
    for name in ("report.html", "report.md", "results.csv", "cells.csv", "bench.json", "costs.json"):
        assert (folder / name).stat().st_size > 0, name
    assert list(folder.glob("*.png"))
    with open(folder / "cells.csv", newline="") as f:
        cells = list(csv.DictReader(f))
    plan = json.loads((folder / "bench.json").read_text())
    models = [m["name"] for m in plan["models"]]
    assert models[:2] == ["yolov8n", "yolov8n-sk@neck"] and len(models) == 3
    assert len(cells) == 2 * len(models) and {c["state"] for c in cells} == {"done"}
    for seed in "01":  # paired: the same images, in the same order, with the same augmentation
        assert len({c["order"] for c in cells if c["seed"] == seed}) == 1
    assert len({c["order"] for c in cells}) == 2
    assert "yolov8n-sk@neck" in text and str(folder / "report.html") in text

    # The report has the size of the model that was trained, of as many classes as the dataset has.
    results = gather(Store(folder))
    for cell in results["cells"]:
        log = (folder / "cells" / cell["id"] / "attempt-1" / "log.txt").read_text()
        trained = int(re.findall(r"([\d,]+) parameters", log)[0].replace(",", ""))
        row = next(r for r in results["rows"] if r["model"] == cell["model"])
        model = next(m for m in results["models"] if m["name"] == cell["model"])
        assert row["cost"]["parameters"] == model["parameters"] == trained

    before = {f: f.stat().st_mtime_ns for f in folder.glob("cells/*/*") if f.name != "lock"}
    yolo_attn(*arguments, cwd=tmp_path)
    assert {f: f.stat().st_mtime_ns for f in folder.glob("cells/*/*") if f.name != "lock"} == before

    status = yolo_attn("bench", "status", "res", cwd=tmp_path)
    assert f"{len(cells)} of {len(cells)} runs done" in status
    assert [p.name for p in tmp_path.iterdir()] == ["res"]


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tiny_data: str, tmp_path: Path) -> None:
    arguments = [
        "bench",
        "detect",
        "models=yolov8n,yolov8n-sam",
        f"data={tiny_data}",
        "seeds=2",
        "control=0",
        "costs=0",
        *TINY,
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    yolo_attn(*arguments, f"out={whole}", cwd=tmp_path)

    driver = start([*arguments, f"out={broken}", "jobs=2"], tmp_path)
    try:
        wait_for(lambda: list(broken.glob("cells/*/result.json")) and run_processes(broken))
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    wait_for(lambda: not run_processes(broken))  # no training outlives its driver
    done = {f: f.read_bytes() for f in broken.glob("cells/*/result.json")}
    assert 0 < len(done) < 4
    assert "nothing is running" in yolo_attn("bench", "status", str(broken), cwd=tmp_path)

    yolo_attn(*arguments, f"out={broken}", cwd=tmp_path)
    assert all(f.read_bytes() == content for f, content in done.items())
    assert len(outcomes(whole)) == 4
    assert outcomes(broken) == outcomes(whole)


def test_the_outcome_does_not_depend_on_who_ran_a_cell(tiny_data: str, tmp_path: Path) -> None:
    """A plan, and several `bench cell` at once for each of its cells, as an array of jobs may do it."""
    arguments = ["bench", "detect", "models=yolov8n,mlca@neck", f"data={tiny_data}", "seeds=1", "control=0", *TINY]
    whole, cells = tmp_path / "whole", tmp_path / "cells"
    yolo_attn(*arguments, f"out={whole}", "costs=0", cwd=tmp_path)
    assert f"yolo-attn bench cell {cells} N" in yolo_attn(*arguments, f"out={cells}", "run=0", cwd=tmp_path)

    jobs = [start(["bench", "cell", str(cells), str(n), "device=cpu", "threads=1"], tmp_path) for n in (0, 1, 0)]
    errors = [job.communicate(timeout=1800)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], errors
    assert {f.name for f in cells.glob("cells/*/attempt-*")} == {"attempt-1"}, "a cell was run twice"
    assert outcomes(cells) == outcomes(whole) and len(outcomes(cells)) == 2
    yolo_attn("bench", "report", str(cells), "costs=0", cwd=tmp_path)
    assert (cells / "report.md").exists()


def test_a_failed_bench_cell_exits_with_1_and_can_be_repeated(tiny_data: str, tmp_path: Path) -> None:
    arguments = ["bench", "detect", "models=yolov8n", f"data={tiny_data}", "seeds=1", *TINY, "out=res", "run=0"]
    yolo_attn(*arguments, cwd=tmp_path)
    job = start(["bench", "cell", "res", "0"], tmp_path)
    wait_for(lambda: run_processes(tmp_path / "res"))[0].kill()  # as the kernel does where memory is short
    assert "memory ran out" in job.communicate(timeout=600)[1]
    assert job.returncode == 1
    yolo_attn("bench", "cell", "res", "0", cwd=tmp_path)
    assert len(outcomes(tmp_path / "res")) == 1


def test_ctrl_c_ends_in_order_and_says_how_to_resume(tiny_data: str, tmp_path: Path) -> None:
    folder = tmp_path / "res"
    arguments = ["bench", "detect", "models=yolov8n", f"data={tiny_data}", "seeds=3", "control=0", "costs=0", *TINY]
    driver = start([*arguments, f"out={folder}"], tmp_path)
    wait_for(lambda: run_processes(folder))
    driver.send_signal(signal.SIGINT)
    _, error = driver.communicate(timeout=600)
    assert driver.returncode == 130
    assert "of 3 runs done; the same command resumes" in error and "Traceback" not in error
    assert not run_processes(folder)


def test_a_run_that_the_system_kills_affects_no_other(tiny_data: str, tmp_path: Path) -> None:
    folder = tmp_path / "res"
    arguments = ["bench", "detect", "models=yolov8n", f"data={tiny_data}", "seeds=2", "control=0", "costs=0", *TINY]
    driver = start([*arguments, f"out={folder}"], tmp_path)
    wait_for(lambda: run_processes(folder))[0].kill()  # as the kernel does where memory is short
    driver.communicate(timeout=1800)
    assert driver.returncode == 1
    failed = [json.loads(f.read_text()) for f in folder.glob("cells/*/failed.json")]
    assert len(failed) == 1 and "memory ran out" in failed[0]["reason"]
    assert len(outcomes(folder)) == 1
    assert "memory ran out" in (folder / "report.md").read_text()
    yolo_attn(*arguments, f"out={folder}", cwd=tmp_path)
    assert len(outcomes(folder)) == 2 and not list(folder.glob("cells/*/failed.json"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 150 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    root = hasattr(os, "geteuid") and not os.geteuid()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", disk]
    if not root or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    tiny_data: str, tmp_path: Path, small_disk: Path
) -> None:
    folder = small_disk / "res"
    arguments = ["bench", "detect", "models=yolov8n", f"data={tiny_data}", "seeds=1", "control=0", "costs=0", *TINY]
    filler = small_disk / "filler"
    filler.write_bytes(b"\1" * (100 << 20))
    text = yolo_attn(*arguments, f"out={folder}", cwd=tmp_path, ok=False)
    assert "less than 100 MiB are free" in text and "the same command resumes" in text and "Traceback" not in text
    assert not outcomes(folder)

    # The same, where room runs out while a cell writes its weights.
    code = (
        "import sys; from yolo_attn.detect import work; work.ROOM = 0; "
        "from yolo_attn.commands import main; sys.exit(main(sys.argv[1:]))"
    )
    filler.write_bytes(b"\1" * (145 << 20))
    text = run(sys.executable, "-c", code, *arguments, f"out={folder}", cwd=tmp_path, ok=False)
    assert "stopped: " in text and "No space left" in text and "the same command resumes" in text
    assert not outcomes(folder)

    filler.unlink()
    yolo_attn(*arguments, f"out={folder}", cwd=tmp_path)
    assert len(outcomes(folder)) == 1


@pytest.mark.parametrize(
    ("task", "model", "metric"),
    [
        ("segment", "yolov8n-sk-seg", "mAP50-95"),
        ("pose", "yolov8n-sk-pose", "mAP50-95"),
        ("obb", "yolov8n-sk-obb", "mAP50-95"),
        ("classify", "yolov8n-sk-cls", "top1"),
    ],
)
def test_every_task(task: str, model: str, metric: str, tmp_path: Path) -> None:
    source = tiny_dataset(tmp_path, task)
    arguments = ("bench", "detect", f"models={model}", f"data={source}", "seeds=1", "control=0", *TINY, "out=res")
    text = yolo_attn(*arguments, cwd=tmp_path)
    found = outcomes(tmp_path / "res")
    assert len(found) == 2 and all(metric in values for values, *_ in found.values())
    assert "one seed" in text.lower() or "1 seed" in text
    assert (tmp_path / "res" / "report.html").exists()


def test_places_end_in_a_ranking(tiny_data: str, tmp_path: Path) -> None:
    arguments = (
        "bench",
        "places",
        "block=mlca",
        f"data={tiny_data}",
        "seeds=2",
        "levels=P5",
        "forms=row",
        *TINY,
        "out=res",
    )
    yolo_attn(*arguments, cwd=tmp_path)
    ranked = gather(Store(tmp_path / "res"))["places"]
    assert {r["model"] for r in ranked} == {f"yolov8n-mlca@{p}@row" for p in ("backbone.P5", "neck.P5", "P5")}
    assert all(r["milliseconds"] is not None for r in ranked)
