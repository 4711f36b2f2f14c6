"""SIGKILL at random moments of `yolo-attn bench detect`, which trains in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from reliability.count import Count
from reliability.kills import shapes_names

#: Kills of one study; then it is finished, compared with an undisturbed one, and the next study begins.
EACH = 10


def kills(n: int, seed: int, folder: Path) -> Count:
    """Kill `bench detect` `n` times, every time started again by the same command.

    Half of the kills end the command alone, half of them its trainings too. A kill survives if no finished run is lost
    or trained again, and at the end the study has the outcomes of an undisturbed one.
    """
    from yolo_attn import shapes

    root = shapes.make(folder / "shapes", train=8, val=4, size=32)
    data = folder / "data.yaml"
    names = dict(enumerate(shapes_names()))
    data.write_text(yaml.safe_dump({"path": str(root), "train": "images/train", "val": "images/val", "names": names}))
    command = [str(Path(sys.executable).parent / "yolo-attn"), "bench", "detect", "models=yolov8n,yolov8n-sam"]
    command += [f"data={data}", "seeds=2", "control=0", "costs=0", "epochs=1", "imgsz=32", "batch=4", "device=cpu"]
    command += ["threads=1"]
    start = time.monotonic()
    whole = _start([*command, f"out={folder / 'whole'}"], folder)
    assert whole.wait() == 0, (folder / "log.txt").read_text()
    seconds = time.monotonic() - start
    want = _outcomes(folder / "whole")
    count, rng = Count(n), random.Random(seed)
    ended = 0
    for i in range(n):
        out = folder / f"study {i // EACH}"
        before = _results(out)
        driver = _start([*command, f"out={out}"], folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(rng.random() * seconds * 0.6)
        ended += driver.poll() is None
        _kill(driver, everything=rng.random() < 0.5)
        if any(_results(out).get(name) != found for name, found in before.items()):
            count.lost.append(f"kill {i}: a finished run was lost or trained again")
        if (i + 1) % EACH == 0 or i == n - 1:
            last = _start([*command, f"out={out}"], folder)
            code = last.wait()
            if code or _outcomes(out) != want or not (out / "report.md").is_file():
                count.lost.append(f"kill {i}: the study ends with {code}: {(folder / 'log.txt').read_text()[-300:]!r}")
    count.notes = f"{ended} ended by the signal, in {-(-n // EACH)} studies of {len(want)} runs"
    return count


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _kill(driver: subprocess.Popen[bytes], everything: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if everything:
            os.killpg(driver.pid, signal.SIGKILL)
        else:
            os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def _results(out: Path) -> dict[str, bytes]:
    return {f.parent.name: f.read_bytes() for f in out.glob("cells/*/result.json")}


def _outcomes(out: Path) -> dict[str, Any]:
    """What decides a report, of every run: not how long it took."""
    return {name: json.loads(found)["outcome"]["values"] for name, found in _results(out).items()}
