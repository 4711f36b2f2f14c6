"""`bench detect` as a user runs it: real trainings in an empty folder, killed, resumed, out of disk, for every task."""

from __future__ import annotations

import csv
import json
import os
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

pytestmark = pytest.mark.slow
TINY = ("epochs=1", "imgsz=64", "batch=4", "device=cpu", "threads=1")


def yolo_attn(*words: str, cwd: Path, ok: bool = True, **env: str) -> str:
    return run(Path(sys.executable).parent / "yolo-attn", *words, cwd=cwd, ok=ok, **env)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def outcomes(folder: Path) -> dict[str, Any]:
    """What decides a report, of every cell: not how long it took."""
    found = {}
    for file in folder.glob("cells/*/result.json"):
        outcome = json.loads(file.read_text())["outcome"]
        curves = {k: v for k, v in outcome["curves"].items() if k != "time"}
        found[file.parent.name] = [outcome[k] for k in ("values", "classes", "sizes", "samples", "order")] + [curves]
    return found


def cell_processes(folder: Path) -> list[psutil.Process]:
    """Trainings that work in a results folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(what: Callable[[], Any], seconds: float = 180) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing in {seconds} s")


def start(words: list[str], cwd: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).parent / "yolo-attn"
    return subprocess.Popen([program, *words], cwd=cwd, env=clean_environment(), stdout=-3, stderr=-3)


def test_a_new_user_gets_a_report_and_the_same_command_trains_nothing_again(data: str, tmp_path: Path) -> None:
    words = ("bench", "detect", "models=yolov8n,sk@neck", f"data={data}", "seeds=2", *TINY, "out=res")
    text = yolo_attn(*words, cwd=tmp_path)
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

    before = {f: f.stat().st_mtime_ns for f in folder.glob("cells/*/*")}
    yolo_attn(*words, cwd=tmp_path)
    assert {f: f.stat().st_mtime_ns for f in folder.glob("cells/*/*")} == before

    status = yolo_attn("bench", "status", "res", cwd=tmp_path)
    assert f"{len(cells)}" in status
    assert [p.name for p in tmp_path.iterdir()] == ["res"]


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(data: str, tmp_path: Path) -> None:
    words = ["bench", "detect", "models=yolov8n,yolov8n-sam", f"data={data}", "seeds=2", "control=0", "costs=0", *TINY]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    yolo_attn(*words, f"out={whole}", cwd=tmp_path)

    runner = start([*words, f"out={broken}", "jobs=2"], tmp_path)
    try:
        wait_for(lambda: list(broken.glob("cells/*/result.json")) and cell_processes(broken))
    finally:
        runner.send_signal(signal.SIGKILL)
        runner.wait()
    wait_for(lambda: not cell_processes(broken), 30)  # no training outlives its runner
    done = {f: f.read_bytes() for f in broken.glob("cells/*/result.json")}
    assert 0 < len(done) < 4
    assert "lost" in yolo_attn("bench", "status", str(broken), cwd=tmp_path)

    yolo_attn(*words, f"out={broken}", cwd=tmp_path)
    assert all(f.read_bytes() == content for f, content in done.items())
    assert len(outcomes(whole)) == 4
    assert outcomes(broken) == outcomes(whole)


def test_ctrl_c_ends_in_order_and_says_how_to_go_on(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "res"
    words = ["bench", "detect", "models=yolov8n", f"data={data}", "seeds=3", "control=0", "costs=0", *TINY]
    program = Path(sys.executable).parent / "yolo-attn"
    runner = subprocess.Popen(
        [program, *words, f"out={folder}"], cwd=tmp_path, env=clean_environment(), stderr=-1, text=True
    )
    wait_for(lambda: cell_processes(folder))
    runner.send_signal(signal.SIGINT)
    _, error = runner.communicate(timeout=60)
    assert runner.returncode == 130
    assert "of 3 cells done; the same command goes on" in error and "Traceback" not in error
    assert not cell_processes(folder)


def test_a_cell_that_the_system_kills_costs_only_itself(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "res"
    words = ["bench", "detect", "models=yolov8n", f"data={data}", "seeds=2", "control=0", "costs=0", *TINY]
    runner = start([*words, f"out={folder}"], tmp_path)
    victim = wait_for(lambda: cell_processes(folder))[0]
    victim.kill()  # as the kernel does where memory is short
    assert runner.wait(timeout=300) == 1
    failed = [json.loads(f.read_text()) for f in folder.glob("cells/*/failed.json")]
    assert len(failed) == 1 and "want of memory" in failed[0]["reason"]
    assert len(outcomes(folder)) == 1
    assert "want of memory" in (folder / "report.md").read_text()
    yolo_attn(*words, f"out={folder}", cwd=tmp_path)
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


def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(data: str, tmp_path: Path, small_disk: Path) -> None:
    folder = small_disk / "res"
    words = ["bench", "detect", "models=yolov8n", f"data={data}", "seeds=1", "control=0", "costs=0", *TINY]
    filler = small_disk / "filler"
    filler.write_bytes(b"\1" * (100 << 20))
    text = yolo_attn(*words, f"out={folder}", cwd=tmp_path, ok=False)
    assert "less than 100 MiB are free" in text and "the same command goes on" in text and "Traceback" not in text
    assert not outcomes(folder)

    # The same, where room runs out while a cell writes its weights.
    code = (
        "import sys; from yolo_attn.detect import work; work.ROOM = 0; "
        "from yolo_attn.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    filler.write_bytes(b"\1" * (145 << 20))
    text = run(sys.executable, "-c", code, *words, f"out={folder}", cwd=tmp_path, ok=False)
    assert "stopped: " in text and "No space left" in text and "the same command goes on" in text
    assert not outcomes(folder)

    filler.unlink()
    yolo_attn(*words, f"out={folder}", cwd=tmp_path)
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
    words = ("bench", "detect", f"models={model}", f"data={source}", "seeds=1", "control=0", *TINY, "out=res")
    text = yolo_attn(*words, cwd=tmp_path)
    found = outcomes(tmp_path / "res")
    assert len(found) == 2 and all(metric in values for values, *_ in found.values())
    assert "one seed" in text.lower() or "1 seed" in text
    assert (tmp_path / "res" / "report.html").exists()


def test_places_end_in_a_ranking(data: str, tmp_path: Path) -> None:
    words = ("bench", "places", "block=mlca", f"data={data}", "seeds=2", "levels=P5", "forms=row", *TINY, "out=res")
    yolo_attn(*words, cwd=tmp_path)
    from yolo_attn.detect.results import gather
    from yolo_attn.detect.store import Store

    ranked = gather(Store(tmp_path / "res"))["places"]
    assert {r["model"] for r in ranked} == {f"yolov8n-mlca@{p}@row" for p in ("backbone.P5", "neck.P5", "P5")}
    assert all(r["milliseconds"] is not None for r in ranked)
