"""The process of one run: `python -m yolo_attn.detect.cell`, in the folder of its attempt.

Reads job.json, trains and validates with Ultralytics, writes outcome.json. It ends when its standard input does: no
training outlives its driver.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import Any

#: Most points of a training curve that are kept.
POINTS = 300
#: Predictions below this confidence are not kept for the images of the report.
CONFIDENT = 0.25
#: Training arguments that change validations, too; the final one takes them as those of the epochs do.
VALIDATION = (
    *("imgsz", "batch", "workers", "single_cls", "classes", "conf", "iou", "max_det", "agnostic_nms", "augment"),
    *("nms", "end2end"),
)


def main() -> int:
    """Execute the run of this folder."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    here = Path.cwd()
    job = json.loads((here / "job.json").read_text(encoding="utf-8"))

    import torch

    set_threads(job["threads"])
    if job["device"] != "cpu" and torch.cuda.is_available():
        # Older releases of Ultralytics set CUDA_VISIBLE_DEVICES to the number of a device, which undoes the executor's
        # choice of a GPU. CUDA reads the variable once: here.
        torch.cuda.init()
        torch.cuda.device_count()
    from ..measure.cases import lacks_memory
    from .plan import versions
    from .store import write_json

    try:
        if not versions().items() <= job["versions"].items():
            raise RuntimeError(f"the benchmark was planned with {job['versions']}, but here are {versions()}")
        outcome = train(job, here)
    except Exception as e:
        import traceback

        traceback.print_exc()
        text = f"{type(e).__name__}: {e}".removesuffix(": ")
        reason = f"out of memory: {text}" if lacks_memory(e) else text
        with contextlib.suppress(OSError):
            write_json(here / "error.json", {"reason": " ".join(reason.split())[:500]})
        return 1
    write_json(here / "outcome.json", outcome)
    return 0


def set_threads(threads: int) -> None:
    """Compute with so many CPU threads, also in Ultralytics, which sets a number of its own where it picks the CPU."""
    import torch
    from ultralytics.utils import torch_utils

    torch.set_num_threads(threads)
    vars(torch_utils)["NUM_THREADS"] = threads


def _end_with_parent() -> None:
    """End this process at once when its standard input ends."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    os._exit(75)


def train(job: dict[str, Any], here: Path) -> dict[str, Any]:
    """Train and validate in a folder; returns the outcome as JSON values.

    Args:
        job: From `Plan.job`, with device and threads.
        here: Where everything is written.
    """
    import yaml

    from ..training import gate_log
    from .resplit import without_label_caches, write_split

    (here / "model.yaml").write_text(yaml.safe_dump(job["model"], sort_keys=False), encoding="utf-8")
    if job["root"]:  # a relative path in the YAML would mean another folder here
        d = yaml.safe_load(Path(job["data"]).read_text(encoding="utf-8", errors="ignore")) | {"path": job["root"]}
        if job["resplit"]:
            without_label_caches()
            d |= write_split(job["data"], job["seed"], here)
        job = {**job, "data": str(here / "data.yaml")}
        Path(job["data"]).write_text(yaml.safe_dump(d, sort_keys=False), encoding="utf-8")
    start: str | bool = job["start"] or False
    if start and job["grown"]:
        start = _grown(job, here)
    order = hashlib.sha256()
    model = _model(job["model"], "model.yaml")
    model.add_callback("on_pretrain_routine_end", lambda trainer: _seed_order(trainer, job["seed"], order))
    arguments = {**job["arguments"], "data": job["data"], "pretrained": start, "seed": job["seed"]}
    arguments |= {"project": str(here), "name": "train", "exist_ok": True, "device": job["device"]}
    began = time.perf_counter()
    model.train(**arguments)
    seconds = time.perf_counter() - began
    best = here / "train" / "weights" / "best.pt"
    outcome = {
        **validate(job, here, best),
        "curves": curves(here / "train" / "results.csv"),
        "shares": gate_log.last_shares(here / "train"),
        "seconds": seconds,
        "peak_bytes": _peak(),
        "order": order.hexdigest(),
        "machine": _machine(job["device"]),
    }
    kept = (best,) if job["keep"] else ()
    for file in here.rglob("*.pt"):  # beside its own, weights that Ultralytics fetches to test mixed precision
        if file not in kept:
            file.unlink()
    return outcome


def _model(d: dict[str, Any], path: str) -> Any:
    """Ultralytics' object for a model file."""
    import ultralytics

    return ultralytics.RTDETR(path) if "RTDETR" in str(d["head"][-1][2]) else ultralytics.YOLO(path)


def _grown(job: dict[str, Any], here: Path) -> str:
    """Starting weights of a deeper stock model: the stock weights; this run's seed draws the additional ones."""
    import torch
    from ultralytics import YOLO

    from .controls import starting_weights

    torch.manual_seed(job["seed"])
    source: Any = YOLO(job["start"]).model
    model, path = starting_weights(job["model"], source), here / "start.pt"
    torch.save({"model": model, "ema": None, "epoch": -1, "optimizer": None, "train_args": {}}, path)
    return str(path)


def _seed_order(trainer: Any, seed: int, order: Any) -> None:
    """Make the image order depend on the seed in every release, and record which images came, with which pixels.

    Releases before 8.4.124 shuffle alike for all seeds, so that the spread over seeds is too small.
    """
    from ultralytics.utils import RANK

    loader = trainer.train_loader
    if getattr(loader, "generator", None) is not None and hasattr(loader, "reset"):
        loader.generator.manual_seed((6148914691236517205 + RANK + seed) % (1 << 63))
        loader.reset()
    images: Any = getattr(loader, "dataset", None)
    if hasattr(images, "torch_transforms") and not loader.num_workers:
        images.torch_transforms = _own_random_state(images.torch_transforms, seed)
    prepare = trainer.preprocess_batch

    def recorded(batch: Any) -> Any:
        for file in batch.get("im_file", ()):
            order.update(os.path.basename(file).encode() + b"\0")
        order.update(batch["img"][..., ::16, ::16].contiguous().cpu().numpy().tobytes())
        return prepare(batch)

    trainer.preprocess_batch = recorded


def _own_random_state(transforms: Any, seed: int) -> Any:
    """Random transforms of an image, with a random state of their own.

    Those of classification draw from PyTorch's, from which a model draws its weights and its dropout: without workers,
    models of one seed would see other images.
    """
    import torch

    state = torch.Generator().manual_seed(seed).get_state()

    def transformed(image: Any) -> Any:
        nonlocal state
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            changed = transforms(image)
            state = torch.get_rng_state()
        return changed

    return transformed


def validate(job: dict[str, Any], here: Path, weights: Path) -> dict[str, Any]:
    """Values, those of classes and sizes of objects and without some images, and predictions, with the best weights."""
    model = _model(job["model"], str(weights))
    seen: dict[str, Any] = {}
    model.add_callback("on_val_end", lambda validator: seen.update(validator=validator))
    arguments = {k: v for k, v in job["arguments"].items() if k in VALIDATION}
    arguments |= {"data": job["data"], "device": job["device"], "project": str(here), "name": "val", "exist_ok": True}
    found = model.val(**arguments, plots=False, save_json=job["task"] != "classify", verbose=False)
    if job["task"] == "classify":
        values = {"top1": float(found.top1), "top5": float(found.top5)}
        return {"values": values, "classes": {}, "sizes": {}, "without": [], "samples": {}}
    from .sizes import of_boxes, predictions
    from .statistics import TEST

    box, values = _values(found, job["task"])
    validator = seen["validator"]
    if job["test"]:
        on_test = model.val(**arguments | {"name": "test"}, split="test", plots=False, save_json=False, verbose=False)
        values |= {f"{TEST}{name}": value for name, value in _values(on_test, job["task"])[1].items()}
    classes = zip(box.ap_class_index, box.ap, box.ap50, strict=True)
    return {
        "values": {k: float(v) for k, v in values.items()},
        "classes": {job["names"][int(c)]: {"mAP50-95": float(ap), "mAP50": float(ap50)} for c, ap, ap50 in classes},
        **(of_boxes(validator) if job["task"] in ("detect", "segment") else {"sizes": {}, "without": []}),
        "samples": predictions(validator, job["samples"], CONFIDENT),
    }


def _values(found: Any, task: str) -> tuple[Any, dict[str, Any]]:
    """The metric of a task's own heads, and all values by name."""
    box = getattr(found, {"segment": "seg", "pose": "pose"}.get(task, "box"))
    values = {"mAP50-95": box.map, "mAP50": box.map50, "mAP75": box.map75, "precision": box.mp, "recall": box.mr}
    if box is not found.box:
        values |= {"box mAP50-95": found.box.map, "box mAP50": found.box.map50}
    return box, values


def curves(file: Path) -> dict[str, list[float]]:
    """The columns of Ultralytics' results.csv, at most `POINTS` rows."""
    with open(file, newline="", encoding="utf-8") as f:
        rows = [{k.strip(): v for k, v in row.items() if k} for row in csv.DictReader(f)]
    step = max(-(-len(rows) // POINTS), 1)
    rows = rows[::-1][::step][::-1]  # the last one is among them
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {}) if not key.startswith("lr/")}


def _peak() -> dict[str, int]:
    """Peak memory of this process in bytes."""
    import torch

    found = {}
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.max_memory_allocated()
    return found


def _machine(device: str) -> dict[str, Any]:
    """The hardware and software that computed this, without the host's name."""
    import torch

    from ..measure.conditions import device_name

    return {
        "device": device_name(torch.device("cpu" if device == "cpu" else "cuda")),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


if __name__ == "__main__":
    sys.exit(main())
