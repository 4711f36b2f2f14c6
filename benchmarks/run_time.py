"""Measure whether a run of `bench detect` with its default threads is slower than plain `yolo train`.

    python benchmarks/run_time.py [rounds=3] [epochs=2] [imgsz=160] [fraction=0.25] [state=idle] [out=...]

A round trains the same model on the same images with the same arguments three times, in turn (A B C, then C B A, ...):
as a cell of `bench detect`, by `yolo train` with the benchmark's workers=0, and by `yolo train` with Ultralytics' own
workers. The time of a training is that of Ultralytics' results.csv, validation of each epoch included; wall is the time
of the whole process. Writes run-time-<state>-<cores>cores-<os>.csv with the load at the start of each, and prints the
ratios of the medians. `state` names the file: measure once on an idle machine and once while something else runs.
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yolo_attn.commands.parser import PATH, Argument, Command, number, whole
from yolo_attn.measure.table import write_csv

KINDS = ("cell", "plain", "plain, its own workers")
FIELDS = ("round", "kind", "train_seconds", "wall_seconds", "load", "cores", "epochs", "imgsz", "fraction")


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of the training and of the whole process of a command that trains somewhere in a folder."""
    before = set(folder.rglob("results.csv"))
    began = time.perf_counter()
    # A session of its own for each, as a run of `bench detect` has: Linux may share CPU time between sessions.
    subprocess.run(command, cwd=folder, check=True, capture_output=True, start_new_session=True)
    wall = time.perf_counter() - began
    (written,) = set(folder.rglob("results.csv")) - before
    rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(written.open(encoding="utf-8"))]
    return float(rows[-1]["time"]), wall


def run(rounds: int, epochs: int, imgsz: int, fraction: float, state: str, out: Path) -> int:
    """Measure, print, write."""
    shared = ["data=shapes.yaml", f"epochs={epochs}", f"imgsz={imgsz}", f"fraction={fraction}", "plots=False"]
    ours = [sys.executable, "-m", "yolo_attn"]
    yolo = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()"]
    samples = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = ["bench", "detect", "models=yolov8n", f"seeds={rounds}", "device=cpu", "run=0", "out=table"]
        plan += [a for a in shared if a != "plots=False"]
        subprocess.run([*ours, *plan], cwd=folder, check=True, capture_output=True)
        plain = [*yolo, "train", "model=yolov8n.yaml", *shared, "pretrained=False", "batch=16", "device=cpu"]
        for n in range(rounds):
            commands = {
                KINDS[0]: [*ours, "bench", "cell", "table", str(n), "device=cpu"],
                KINDS[1]: [*plain, f"seed={n}", "workers=0", f"project={folder}", f"name=plain-{n}"],
                KINDS[2]: [*plain, f"seed={n}", f"project={folder}", f"name=workers-{n}"],
            }
            for kind in KINDS[:: -1 if n % 2 else 1]:
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                train, wall = timed(commands[kind], folder)
                setup = {"load": load, "cores": os.cpu_count(), "epochs": epochs, "imgsz": imgsz, "fraction": fraction}
                samples.append({"round": n, "kind": kind, "train_seconds": train, "wall_seconds": wall, **setup})
                print(f"round {n}, {kind}: {train:.1f} s of training, {wall:.1f} s in all, load {load}", flush=True)
    path = out / f"run-time-{state}-{os.cpu_count()}cores-{platform.system().lower()}.csv"
    write_csv(path, FIELDS, samples)
    medians = {k: statistics.median(s["train_seconds"] for s in samples if s["kind"] == k) for k in KINDS}
    for kind in KINDS[1:]:
        print(f"cell / {kind}: {medians[KINDS[0]] / medians[kind]:.2f} (medians of {rounds})")
    print(path)
    return 0


COMMAND = Command(
    "benchmarks/run_time.py",
    "Measure a run of `bench detect` against plain `yolo train`.",
    run,
    Argument("rounds", "trainings of each kind", whole(1), 3),
    Argument("epochs", "of a training", whole(1), 2),
    Argument("imgsz", "side of the images", whole(32), 160),
    Argument("fraction", "of the training images", number(above=0), 0.25),
    Argument("state", "of the machine, for the name of the file", default="idle"),
    Argument("out", "folder of the CSV file", PATH, Path(__file__).parent / "results"),
    program="python",
)

if __name__ == "__main__":
    sys.exit(COMMAND(sys.argv[1:]))
