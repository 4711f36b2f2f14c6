"""Under load: many predictions, models built and dropped, and four processes at once on one fresh folder."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import torch
from reliability.count import Count
from ultralytics import YOLO

MODELS = ("yolov8n-sam", "yolov8n-hilo", "yolov8n-sk", "yolov8n-attnconv", "yolov8n-acmix")
#: Growth in MiB that counts as a leak; a leaked 64 x 64 image for each of 1,000 predictions would be 47.
ALLOWED = 24.0


def resident() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def predictions(n: int, seed: int, folder: Path) -> Count:
    """Growth of resident memory over `n` predictions by five models, after a tenth as many to warm up."""
    torch.manual_seed(seed)
    count, growths = Count(), []
    image = torch.rand(1, 3, 64, 64)
    for name in MODELS:
        model, share = YOLO(f"{name}.yaml"), n // len(MODELS)
        for _ in range(share // 10):
            model.predict(image, imgsz=64, verbose=False)
        before = resident()
        for _ in range(share):
            model.predict(image, imgsz=64, verbose=False)
        gc.collect()
        growths.append(resident() - before)
        count.tried += share
        if growths[-1] > ALLOWED:
            count.lost += [f"{name}: {growths[-1]:.1f} MiB more after {share} predictions"] * share
    listed = ", ".join(f"{m.removeprefix('yolov8n-')} {g:+.1f}" for m, g in zip(MODELS, growths, strict=True))
    count.notes = f"growth in MiB: {listed}"
    return count


def built(n: int, seed: int, folder: Path) -> Count:
    """Build, run and drop `n` models: none stays, and resident memory does not grow."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    count, alive = Count(n), []
    before = 0.0
    for i in range(n):
        if i == n // 10:
            gc.collect()
            before = resident()
        model = DetectionModel(f"{MODELS[i % len(MODELS)]}.yaml", verbose=False)
        model.eval()(torch.rand(1, 3, 32, 32))
        alive.append(weakref.ref(model))
        del model
    gc.collect()
    growth = resident() - before
    count.lost = [f"model {i} is still there" for i, ref in enumerate(alive) if ref() is not None]
    if growth > ALLOWED:
        count.lost.append(f"{growth:.1f} MiB more")
    count.notes = f"growth {growth:+.1f} MiB"
    return count


def at_once(n: int, seed: int, folder: Path) -> Count:
    """Start four trainings at once, `n` times, each time without a dataset, a font and cached files."""
    count = Count()
    program = Path(sys.executable).parent / "yolo"
    arguments = ["train", "model=yolov8n-sam.yaml", "data=shapes.yaml", "imgsz=32", "epochs=1", "batch=64", "workers=0"]
    arguments += ["fraction=0.1", "plots=False", "device=cpu"]
    for i in range(n):
        home = folder / f"home {i}"
        home.mkdir()
        env = os.environ | {"YOLO_CONFIG_DIR": str(home), "MPLCONFIGDIR": str(home), "OMP_NUM_THREADS": "1"}
        # By default the dataset lies outside, where it may exist already.
        code = f"from ultralytics import settings; settings.update({{'datasets_dir': {str(home / 'data')!r}}})"
        subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
        jobs = [
            subprocess.Popen(
                [program, *arguments, f"project={home / 'runs'}", f"name=run{j}"],
                cwd=home,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for j in range(4)
        ]
        for j, job in enumerate(jobs):
            text = job.communicate(timeout=1800)[0]
            count.tried += 1
            if job.returncode or not (home / "runs" / f"run{j}" / "weights" / "last.pt").is_file():
                count.lost.append(f"round {i}, process {j}: exit {job.returncode}: {text[-400:]!r}")
    count.notes = f"{n} rounds of four trainings"
    return count
