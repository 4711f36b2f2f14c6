"""Fill docs/int8.csv: what INT8 costs, with all layers quantised and with the blocks in float.

    python docs/int8_grid.py yolov8n.pt coco128 hilo:onnx attnconv:openvino

Arguments are the stock weights, a folder with `data.yaml`, `images/` and `labels/`, and blocks with formats. Each model
is `yolov8n-<block>.yaml` with the stock weights transferred, random open gates, and the blocks' BatchNorms set to the
statistics of images of the data; nothing is trained. The same images calibrate the files and give the mAP, so only
differences between files of one model mean something.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from yolo_attn import int8, registry
from yolo_attn.measure.exported import LOADERS, Run, quiet_export

FIELDS = ("block", "format", "precision", "kept", "detections", "map", "map50", "imgsz", "gate")
IMGSZ, GATE, FRACTION = 320, 0.3, 0.25
CONFIDENCE, IOU = 0.25, 0.5  # of a detection that counts; of two detections that are the same one


class Image(NamedTuple):
    """A letterboxed image (1, 3, IMGSZ, IMGSZ) with its classes (N,) and boxes (N, 4) in pixels."""

    x: Tensor
    classes: Tensor
    boxes: Tensor


def main(weights: str, folder: str, *jobs: str) -> None:
    """Measure each job, BLOCK:FORMAT, and replace its rows in `int8.csv`."""
    path = Path(__file__).with_name("int8.csv")
    images = [read_image(p) for p in sorted(Path(folder, "images").rglob("*.jpg"))]
    for job in jobs:
        block, form = job.split(":")
        rows = measure(block, form, weights, str(Path(folder, "data.yaml").resolve()), images)
        old = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
        others = [r for r in old if (r["block"], r["format"]) != (block, form)]
        with path.open("w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*others, *rows])


def read_image(path: Path) -> Image:
    """An image and its labels."""
    image = cv2.imread(str(path))
    height, width = image.shape[:2]
    rate = IMGSZ / max(height, width)
    height, width = round(height * rate), round(width * rate)
    square = np.full((IMGSZ, IMGSZ, 3), 114, np.uint8)
    square[:height, :width] = cv2.resize(image, (width, height))
    x = torch.from_numpy(np.ascontiguousarray(square[..., ::-1].transpose(2, 0, 1)))[None].float() / 255
    file = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
    lines = np.loadtxt(file, ndmin=2) if file.exists() and file.stat().st_size else np.zeros((0, 5))
    labels = torch.from_numpy(lines).float()
    centre, half = labels[:, 1:3], labels[:, 3:5] / 2
    boxes = torch.cat([centre - half, centre + half], 1) * torch.tensor([width, height] * 2)
    return Image(x, labels[:, 0], boxes)


def build(block: str, weights: str, images: Sequence[Image]) -> Any:
    """A model with transferred weights and open gates."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    if block == "stock":
        return YOLO(weights)
    yolo: Any = YOLO(f"yolov8n-{block}.yaml").load(weights)
    net = yolo.model
    norms = [m for row in net.model if registry.has_blocks(row) for m in row.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d) and not m.weight.any():
            nn.init.uniform_(m.weight, GATE / 2, GATE)
    net.eval()
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.train().reset_running_stats()
        m.momentum = None  # the average over all batches
    with torch.no_grad():
        for i in range(0, 32, 8):
            net(torch.cat([image.x for image in images[i : i + 8]]))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    net.eval()
    return yolo


def measure(block: str, form: str, weights: str, data: str, images: Sequence[Image]) -> list[dict[str, Any]]:
    """Rows of one block and format: float32, all layers in INT8, all but the blocks in INT8."""
    from ultralytics import YOLO

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, f"{block}.pt")
        build(block, weights, images).save(checkpoint)
        expected: list[Tensor] = []
        for precision in ("float32", "INT8", "INT8, blocks in float")[: 2 if block == "stock" else 3]:
            yolo = YOLO(checkpoint)
            options = {} if precision == "float32" else {"int8": True, "data": data, "fraction": FRACTION}
            everything = _everything() if precision == "INT8" else contextlib.nullcontext()
            with quiet_export(), everything:
                file = yolo.export(format=form, imgsz=IMGSZ, device="cpu", **options)
            found, ap = evaluate(LOADERS[form](Path(file)), images)
            expected = expected or found
            row = {"block": block, "format": form, "precision": precision, "kept": f"{kept(expected, found):.3f}"}
            row |= {"detections": sum(map(len, expected)), "map": f"{ap.mean():.4f}", "map50": f"{ap[:, 0].mean():.4f}"}
            rows.append(row | {"imgsz": IMGSZ, "gate": GATE})
            print(row, flush=True)
    return rows


@contextlib.contextmanager
def _everything() -> Any:
    """INT8 for the blocks too, as without this package."""
    original = int8.blocks_in_float
    int8.blocks_in_float = lambda model, form: contextlib.nullcontext()  # type: ignore[assignment]
    try:
        yield
    finally:
        int8.blocks_in_float = original


def evaluate(run: Run, images: Sequence[Image]) -> tuple[list[Tensor], np.ndarray]:
    """Detections (N, 6) of each image, and the average precision (classes, IoU 0.5 to 0.95)."""
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import ap_per_class, box_iou
    from ultralytics.utils.nms import non_max_suppression

    validator: Any = DetectionValidator.__new__(DetectionValidator)
    validator.iouv, validator.niou = torch.linspace(0.5, 0.95, 10), 10
    detections, columns = [], []
    for image in images:
        (found,) = non_max_suppression(run(image.x)[0], 0.001, 0.7, max_det=300, multi_label=True)
        detections.append(found[found[:, 4] > CONFIDENCE])
        right = np.zeros((len(found), 10), bool)
        if len(image.boxes):
            right = validator.match_predictions(found[:, 5], image.classes, box_iou(image.boxes, found[:, :4])).numpy()
        columns.append((right, found[:, 4].numpy(), found[:, 5].numpy(), image.classes.numpy()))
    return detections, ap_per_class(*map(np.concatenate, zip(*columns, strict=True)))[5]


def kept(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The share of expected detections that have one of the same class and place among those found."""
    from ultralytics.utils.metrics import box_iou

    total = same = 0
    for a, b in zip(expected, found, strict=True):
        total += len(a)
        matches = (box_iou(a[:, :4], b[:, :4]) > IOU) & (a[:, 5:6] == b[None, :, 5])
        free = set(range(len(b)))
        for row in matches.tolist():
            j = next((j for j, match in enumerate(row) if match and j in free), None)
            if j is not None:
                free.remove(j)
                same += 1
    return same / max(total, 1)


if __name__ == "__main__":
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    main(*sys.argv[1:])
