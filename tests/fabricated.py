"""Results folders without any training: made-up outcomes in the real files, for tests of what reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_attn.detect import costs
from yolo_attn.detect.plan import CANDIDATE, CONTROL, DETECT, STOCK, Cell, Dataset, Model, Plan
from yolo_attn.detect.results import gather
from yolo_attn.detect.store import Store, write_json

#: name, role, parameters, GFLOPs, control, what it adds to the score
MODELS = (
    ("yolov8n", STOCK, 3_011_433, 8.2, "", 0.0),
    ("yolov8n-smtsam", CANDIDATE, 3_355_801, 9.1, "yolov8n+3", 0.016),
    ("yolov8n-hilo", CANDIDATE, 3_104_217, 8.3, "", -0.002),
    ("yolov8n-sk", CANDIDATE, 3_402_009, 9.0, "yolov8n+3", 0.006),
    ("yolov8n-cloformer", CANDIDATE, 3_250_113, 8.9, "yolov8n+2", 0.021),
    ("yolov8n-acmix@backbone.P5+neck", CANDIDATE, 4_120_555, 11.2, "yolov8n-w0.2916", -0.018),
    ("yolov8n+3", CONTROL, 3_366_000, 9.05, "", 0.005),
    ("yolov8n+2", CONTROL, 3_240_000, 8.85, "", 0.004),
    ("yolov8n-w0.2916", CONTROL, 4_050_000, 11.1, "", 0.012),
)
CLASSES = ("WBC", "RBC", "platelets")
#: Four models as `MODELS`, of which `ours` has a cost control and `cheap` needs none.
COMPARED = (
    ("stock", STOCK, 3_000_000, 8.0, "", 0.0),
    ("ours", CANDIDATE, 3_300_000, 10.0, "stock+2", 0.0),
    ("cheap", CANDIDATE, 3_100_000, 8.1, "", 0.0),
    ("stock+2", CONTROL, 3_350_000, 10.1, "", 0.0),
)
#: Model -> score of each seed.
SCORES = {
    "stock": (0.40, 0.41, 0.42, 0.40, 0.41),
    "ours": (0.45, 0.47, 0.47, 0.46, 0.46),
    "cheap": (0.33, 0.35, 0.34, 0.34, 0.34),
    "stock+2": (0.46, 0.46, 0.48, 0.45, 0.46),
}
#: Classes of which one has a name that breaks tables.
KINDS = ("circle", "square|`x`_<b>")
#: Names that break pages in which they are markup, expressions of Vega, or mathematics.
EVIL = "<img src=x onerror=hacked()>&\"'@neck%{x}$y$"
EVIL_MODELS = (
    ("stock</script>", "stock", 3_000_000, 8.0, "", 0.0),
    (EVIL, "candidate", 3_300_000, 9.0, "a<b>+1", 0.01),
    ("a<b>+1", "control", 3_300_000, 9.0, "", 0.0),
)
Failing = Callable[[str, str, int], str]


def never(model: str, data: str, seed: int) -> str:
    """No cell fails."""
    return ""


def fabricate(
    folder: Path,
    seeds: int = 5,
    models: Sequence[tuple[str, str, int, float, str, float]] = MODELS,
    datasets: Sequence[str] = ("bccd",),
    epochs: int = 30,
    fail: Failing = never,
    todo: Failing = never,
    classes: Sequence[str] = CLASSES,
    samples: int = 3,
    metric: str = "mAP50-95",
    kind: str = DETECT,
    score: Callable[[str, int], float] | None = None,
    changes: Callable[[Cell], dict[str, Any]] = lambda cell: {},
) -> Store:
    """Write a results folder.

    Args:
        folder: Where.
        seeds: Number of them.
        models: As `MODELS`.
        datasets: Names.
        epochs: Of the curves.
        fail: Model, dataset, seed -> why that cell failed, or nothing.
        todo: The same for cells that nobody has begun.
        classes: Names.
        samples: Pictures of each dataset.
        metric: What verdicts rest on.
        kind: The bench.
        score: Model, seed -> the metric; by default chance, and what the model adds.
        changes: Cell -> what its outcome has instead.
    """
    chance = np.random.default_rng(0)
    store = Store(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        command="yolo-attn bench detect models=yolov8n,yolov8n-hilo data=bccd.yaml seeds=5 epochs=30 imgsz=320",
        metric=metric,
        arguments={"epochs": epochs, "imgsz": 320, "batch": 16, "deterministic": True, "optimizer": "auto"},
        start={"name": "yolov8n.pt", "sha256": "31e20dde" * 8},
        seeds=tuple(range(seeds)),
        models=tuple(
            Model(n, role, {"name": n}, p, g, c, f"{n}: made" if role == CONTROL else "", _word(n))
            for n, role, p, g, c, _ in models
        ),
        datasets=tuple(
            Dataset(
                name,
                f"{name}.yaml",
                "detect",
                f"{i}" * 64,
                tuple(classes),
                {"train": 205, "val": 87},
                {s: [int(chance.integers(500, 900)) for _ in classes] for s in ("train", "val")},
                tuple(_sample(folder, i, k, len(classes), chance) for k in range(samples)),
            )
            for i, name in enumerate(datasets)
        ),
        versions={"ultralytics": "8.4.190", "torch": "2.15.0", "yolo_attn": "0.1.0"},
        kind=kind,
    ).with_cells()
    store.write_plan(plan)
    adds = {m[0]: m[5] for m in models}
    for cell in plan.cells:
        if todo(cell.model, cell.data, cell.seed):
            continue
        attempt = store.claim(cell.id)
        assert attempt
        reason = fail(cell.model, cell.data, cell.seed)
        if reason:
            store.fail(attempt, reason)
        else:
            given = score(cell.model, cell.seed) if score else None
            store.publish(cell.id, outcome(plan, cell, adds[cell.model], epochs, given) | changes(cell))
        store.release(attempt)
    return store


def compared(folder: Path, seeds: int = 5, models: Any = COMPARED, **more: Any) -> Store:
    """A folder of `COMPARED` models with the scores of `SCORES`."""
    given: dict[str, Any] = {"datasets": ("shapes",), "epochs": 4, "classes": KINDS, "samples": 0, **more}
    return fabricate(folder, seeds, models, score=lambda model, seed: SCORES[model][seed % 5], **given)


def row_of(results: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The row of a model."""
    return next(r for r in results["rows"] if r["model"] == model)


def _word(name: str) -> str:
    """What the command line calls a model: a generator word leaves the stock model out."""
    return name.partition("-")[2] if "@" in name and "-" in name else name


def _sample(folder: Path, data: int, number: int, classes: int, chance: np.random.Generator) -> dict[str, Any]:
    """A picture with blobs."""
    picture = np.full((240, 320, 3), (190, 205, 215), np.uint8)
    picture += chance.integers(0, 20, picture.shape, np.uint8)
    truth = []
    for _ in range(int(chance.integers(6, 16))):
        x, y, r = int(chance.integers(20, 300)), int(chance.integers(20, 220)), int(chance.integers(8, 32))
        kind = int(chance.integers(0, classes))
        cv2.circle(picture, (x, y), r, tuple(int(v) for v in ((60 * kind) % 255, 90, 200 - 15 * kind)), -1)
        truth.append([kind, *(2.0 * v for v in (max(x - r, 0), max(y - r, 0), min(x + r, 320), min(y + r, 240)))])
    file = f"samples/{data}/{number}.jpg"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / file), picture)
    return {"file": file, "image": f"cell{number}.jpg", "width": 640, "height": 480, "truth": truth}


def outcome(plan: Plan, cell: Cell, adds: float, epochs: int, given: float | None = None) -> dict[str, Any]:
    """What a training may have given: the seed's luck is partly shared by all models of that seed.

    Args:
        plan: The matrix.
        cell: One of its cells.
        adds: What its model adds.
        epochs: Of the curves.
        given: The score, instead of all that.
    """
    place = [d.name for d in plan.datasets].index(cell.data)
    data = plan.datasets[place]
    shared = np.random.default_rng([1, cell.seed, place]).normal(0, 0.006)
    own = np.random.default_rng([2, cell.seed, place, *cell.model.encode()])
    score = 0.45 - 0.11 * place + adds + shared + own.normal(0, 0.005) if given is None else given
    gflops = next(m.gflops for m in plan.models if m.name == cell.model)
    values = {"mAP50-95": score, "mAP50": score * 1.6, "precision": score * 1.7, "recall": score * 1.5}
    epoch = list(range(1, epochs + 1))
    rising = [1 - math.exp(-15 * e / epochs) for e in epoch]
    curves = {
        "epoch": [float(e) for e in epoch],
        "time": [3.1 * e for e in epoch],
        "train/box_loss": [1.9 - r + float(own.normal(0, 0.02)) for r in rising],
        "train/cls_loss": [3.2 - 2 * r + float(own.normal(0, 0.03)) for r in rising],
        "metrics/mAP50(B)": [score * 1.6 * r + float(own.normal(0, 0.012)) for r in rising],
        "metrics/mAP50-95(B)": [score * r + float(own.normal(0, 0.001)) for r in rising],
        "val/box_loss": [2.0 - 0.8 * r + float(own.normal(0, 0.03)) for r in rising],
    }
    samples = {}
    for sample in data.samples:
        kept = [box for box in sample["truth"] if own.random() < 0.85]
        samples[sample["image"]] = [
            [b[0], round(float(own.uniform(0.26, 0.98)), 3), *(round(v + float(own.normal(0, 4)), 3) for v in b[1:])]
            for b in kept
        ]
    sizes = {"small": 60, "medium": 500, "large": 0}
    return {
        "values": values,
        "classes": {n: {"mAP50-95": score + 0.02 * i, "mAP50": score * 1.5} for i, n in enumerate(data.names)},
        "sizes": {
            s: {"objects": n, **({"mAP50-95": score * 0.7, "mAP50": score} if n else {})} for s, n in sizes.items()
        },
        "samples": samples,
        "curves": curves,
        "seconds": 180 + 300 * (gflops - 8) / 8 + float(own.normal(0, 4)),
        "peak_bytes": {"resident": 1_420_000_000 + 10**7 * cell.seed},
        "order": f"{cell.seed:064x}",
        "machine": {
            "device": "AMD EPYC",
            "threads": 1,
            "cores": 2,
            "python": "3.12.3",
            "system": "Linux x86_64",
        },
    }


def write_costs(store: Store, milliseconds: Mapping[str, float]) -> None:
    """Write latencies into a results folder as if they had been measured; models that are not named have none."""
    plan = store.read_plan()
    rows = {m: {"latency_ms": ms, "latency_p10": ms - 0.2, "latency_p90": ms + 0.2} for m, ms in milliseconds.items()}
    setup = {"device": "cpu", "threads": 1, "imgsz": 320, "torch": "2.15.0"}
    found = {"key": costs.key(plan), "rows": rows, "setup": setup, "remarks": []}
    write_json(store.folder / costs.FILE, found)


def with_latency(results: dict[str, Any]) -> dict[str, Any]:
    """The same results, as if latency had been measured."""
    for row in results["rows"]:
        slow = 3.2 * row["cost"]["gflops"] + len(row["model"]) / 5
        row["cost"] |= {"latency_ms": slow, "latency_p10": slow * 0.96, "latency_p90": slow * 1.08}
        row["cost"] |= {"onnx_ms": slow * 0.6, "onnx_p10": slow * 0.58, "onnx_p90": slow * 0.66}
    results["costs"] = {"device": "cpu", "threads": 1, "imgsz": 320, "torch": "2.15.0", "onnxruntime": "1.22"}
    return results


def large(folder: Path) -> dict[str, Any]:
    """Results of nine models, five seeds and two datasets, with one failed cell, and with latency."""

    def fail(model: str, data: str, seed: int) -> str:
        return "out of memory: <2 GiB" if (model, data, seed) == ("yolov8n-sk", "bccd", 3) else ""

    return with_latency(gather(fabricate(folder, datasets=("bccd", "shapes"), fail=fail)))
