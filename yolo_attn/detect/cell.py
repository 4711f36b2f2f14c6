"""One cell: `python -m yolo_attn.detect.cell`, in the folder of its attempt.

Reads job.json, trains and validates with Ultralytics, writes outcome.json. It ends when its standard input does: a
runner that is killed leaves no training behind.
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
#: Predictions below this confidence are not kept for the report's pictures.
CONFIDENT = 0.25
#: Arguments of a training by which its validations differ, too; they hold in the final one as in those of the epochs.
VALIDATION = (
    *("imgsz", "batch", "workers", "single_cls", "classes", "conf", "iou", "max_det", "agnostic_nms", "augment"),
    *("nms", "end2end"),
)


def main() -> int:
    """Run the cell of this folder."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    here = Path.cwd()
    job = json.loads((here / "job.json").read_text(encoding="utf-8"))

    import torch

    if job["threads"]:
        set_threads(job["threads"])
    if job["device"] != "cpu" and torch.cuda.is_available():
        # Older releases of Ultralytics set CUDA_VISIBLE_DEVICES to the number of a device, and so leave the GPU that an
        # executor chose for another cell's. CUDA reads it once.
        torch.cuda.init()
        torch.cuda.device_count()
    from .store import write_json

    try:
        outcome = train(job, here)
    except MemoryError:
        return _failed(here, "out of memory")
    except Exception as e:
        import traceback

        traceback.print_exc()
        text = str(e) or type(e).__name__
        short = f"out of memory: {text}" if _lacks_memory(e) else f"{type(e).__name__}: {text}"
        return _failed(here, short)
    write_json(here / "outcome.json", outcome)
    return 0


def set_threads(threads: int) -> None:
    """Compute with so many CPU threads, also in Ultralytics, which sets a number of its own where it picks the CPU."""
    import torch
    from ultralytics.utils import torch_utils

    torch.set_num_threads(threads)
    vars(torch_utils)["NUM_THREADS"] = threads


def _end_with_parent() -> None:
    """Wait for the end of standard input, then end this process at once."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    os._exit(75)


def _failed(here: Path, reason: str) -> int:
    from .store import write_json

    with contextlib.suppress(OSError):
        write_json(here / "error.json", {"reason": " ".join(reason.split())[:500]})
    return 1


def _lacks_memory(e: BaseException) -> bool:
    from ..measure.cases import lacks_memory

    return lacks_memory(e) if isinstance(e, RuntimeError) else False


def train(job: dict[str, Any], here: Path) -> dict[str, Any]:
    """Train and validate.

    Args:
        job: model, data, task, start, grown, seed, arguments, device, keep, samples.
        here: Where everything is written.

    Returns:
        What came out, in terms of JSON.
    """
    import torch
    import yaml

    (here / "model.yaml").write_text(yaml.safe_dump(job["model"], sort_keys=False), encoding="utf-8")
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
    values, classes, sizes, samples = validate(job, here, best)
    outcome = {
        "values": values,
        "classes": classes,
        "sizes": sizes,
        "samples": samples,
        "curves": curves(here / "train" / "results.csv"),
        "seconds": seconds,
        "peak_bytes": _peak(),
        "order": order.hexdigest(),
        "machine": _machine(job["device"], torch.get_num_threads()),
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
    """Starting weights of a deeper stock model: the stock weights, and by this cell's seed what there is more."""
    import torch
    from ultralytics import YOLO

    from .models import starting_weights

    torch.manual_seed(job["seed"])
    source: Any = YOLO(job["start"]).model
    model = starting_weights(job["model"], source)
    path = here / "start.pt"
    torch.save({"model": model, "ema": None, "epoch": -1, "optimizer": None, "train_args": {}}, path)
    return str(path)


def _seed_order(trainer: Any, seed: int, order: Any) -> None:
    """Let the seed decide the order of images in every release, and note which images came, as which pixels.

    Releases before 8.4.124 shuffle alike whatever the seed, so that their spread over seeds is too small.
    """
    from ultralytics.utils import RANK

    loader = trainer.train_loader
    if getattr(loader, "generator", None) is not None and hasattr(loader, "reset"):
        loader.generator.manual_seed((6148914691236517205 + RANK + seed) % (1 << 63))
        loader.reset()
    pictures: Any = getattr(loader, "dataset", None)
    if hasattr(pictures, "torch_transforms") and not loader.num_workers:
        pictures.torch_transforms = _Apart(pictures.torch_transforms, seed)
    prepare = trainer.preprocess_batch

    def noted(batch: Any) -> Any:
        for file in batch.get("im_file", ()):
            order.update(os.path.basename(file).encode() + b"\0")
        order.update(batch["img"][..., ::16, ::16].contiguous().cpu().numpy().tobytes())
        return prepare(batch)

    trainer.preprocess_batch = noted


class _Apart:
    """Random transforms that draw from random numbers of their own.

    Those of classification draw from PyTorch's, from which a model draws its weights and its dropout: without workers,
    models of one seed would see other images.

    Args:
        transforms: Of one image.
        seed: The cell's.
    """

    def __init__(self, transforms: Any, seed: int) -> None:
        import torch

        self.transforms, self.state = transforms, torch.Generator().manual_seed(seed).get_state()

    def __call__(self, image: Any) -> Any:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.state)
            changed = self.transforms(image)
            self.state = torch.get_rng_state()
        return changed


def validate(
    job: dict[str, Any], here: Path, weights: Path
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, dict[str, float]], dict[str, Any]]:
    """Measure the best weights of a training.

    Returns:
        Metrics; metric of each class; metric of small, medium and large objects with their number; predictions for the
        pictures of the report.
    """
    model = _model(job["model"], str(weights))
    seen: dict[str, Any] = {}
    model.add_callback("on_val_end", lambda validator: seen.update(validator=validator))
    words = {k: v for k, v in job["arguments"].items() if k in VALIDATION}
    words |= {"data": job["data"], "device": job["device"], "project": str(here), "name": "val", "exist_ok": True}
    found = model.val(**words, plots=False, save_json=job["task"] != "classify", verbose=False)
    names = job["names"]
    if job["task"] == "classify":
        return {"top1": float(found.top1), "top5": float(found.top5)}, {}, {}, {}
    primary = {"segment": "seg", "pose": "pose"}.get(job["task"], "box")
    box = getattr(found, primary)
    values = {"mAP50-95": box.map, "mAP50": box.map50, "precision": box.mp, "recall": box.mr}
    if primary != "box":
        values |= {"box mAP50-95": found.box.map, "box mAP50": found.box.map50}
    classes = {
        names[int(c)]: {"mAP50-95": float(ap), "mAP50": float(ap50)}
        for c, ap, ap50 in zip(box.ap_class_index, box.ap, box.ap50, strict=True)
    }
    from .sizes import by_size, predictions

    validator = seen.get("validator")
    sizes = by_size(validator) if job["task"] in ("detect", "segment") and validator is not None else {}
    samples = predictions(validator, job["samples"], CONFIDENT) if validator is not None else {}
    return {k: float(v) for k, v in values.items()}, classes, sizes, samples


def curves(file: Path) -> dict[str, list[float]]:
    """The columns of Ultralytics' results.csv, at most `POINTS` rows of them."""
    with open(file, newline="", encoding="utf-8") as f:
        rows = [{k.strip(): v for k, v in row.items() if k} for row in csv.DictReader(f)]
    step = max(-(-len(rows) // POINTS), 1)
    rows = rows[::-1][::step][::-1]  # the last one is among them
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {}) if not key.startswith("lr/")}


def _peak() -> dict[str, int]:
    """Most memory that this process had."""
    import torch

    found = {}
    with contextlib.suppress(ImportError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["resident"] = most if sys.platform == "darwin" else most * 1024
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.max_memory_allocated()
    return found


def _machine(device: str, threads: int) -> dict[str, Any]:
    """What computed this, without its name."""
    import torch

    from ..measure.conditions import device_name

    on_gpu = torch.cuda.is_available() and device not in ("cpu", "")
    here = torch.device("cuda" if on_gpu else "cpu")
    return {
        "device": device_name(here),
        "threads": threads,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


if __name__ == "__main__":
    sys.exit(main())
