"""Average precision by size of objects, and predictions for images of the report, from a validator's results."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: COCO's bounds on an object's area in pixels of the image file.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


def _image_id(file: str) -> int | str:
    """The name of an image in Ultralytics' predictions."""
    stem = Path(file).stem
    return int(stem) if stem.isnumeric() else stem


def by_size(validator: Any) -> dict[str, dict[str, float]]:
    """mAP50-95 and mAP50 of boxes, for small, medium and large objects, by COCO's definition.

    Args:
        validator: Of Ultralytics, after a validation with save_json.

    Returns:
        Size -> objects: their number, and metrics where there are any; empty where names of images are ambiguous.
    """
    from PIL import Image
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    from ultralytics.data.utils import exif_size

    labels = validator.dataloader.dataset.labels
    ids = {_image_id(label["im_file"]): i + 1 for i, label in enumerate(labels)}
    if len(ids) < len(labels):
        return {}
    annotations: list[dict[str, Any]] = []
    for number, label in enumerate(labels, 1):
        with Image.open(label["im_file"]) as image:  # rectangular validation takes "shape" out of the labels
            width, height = exif_size(image)
        for c, (x, y, w, h) in zip(label["cls"].ravel().tolist(), label["bboxes"].tolist(), strict=True):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            of_object = {"category_id": validator.class_map[int(c)], "bbox": box, "area": box[2] * box[3]}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **of_object})
    counts = {s: sum(low <= a["area"] < high for a in annotations) for s, (low, high) in SIZES.items()}
    found: dict[str, dict[str, float]] = {size: {"objects": n} for size, n in counts.items()}
    predictions = [{**p, "image_id": ids[p["image_id"]]} for p in validator.jdict if p["image_id"] in ids]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(labels))],
            "annotations": annotations,
            "categories": [{"id": c} for c in sorted({a["category_id"] for a in annotations})],
        }
        truth.createIndex()
        if predictions:
            boxes = [{k: p[k] for k in ("image_id", "category_id", "bbox", "score")} for p in predictions]
            judge = COCOeval(truth, truth.loadRes(boxes), "bbox")
            judge.params.areaRng = [[0, 1e10], *([low, high] for low, high in SIZES.values())]
            judge.params.areaRngLbl = ["all", *SIZES]
            judge.evaluate()
            judge.accumulate()
    for index, size in enumerate(SIZES, 1):
        if counts[size]:
            table = judge.eval["precision"][:, :, :, index, -1] if predictions else None  # IoU, recall, class
            for key, part in (("mAP50-95", slice(None)), ("mAP50", slice(0, 1))):
                kept = table[part][table[part] > -1] if table is not None else None
                found[size][key] = float(kept.mean()) if kept is not None and len(kept) else 0.0
    return found


def predictions(validator: Any, images: Sequence[str], least: float) -> dict[str, list[list[float]]]:
    """Boxes of at least this confidence on some images, by file name.

    Boxes are class, confidence, left, top, right, bottom, in pixels of the image file.
    """
    classes = {v: i for i, v in reversed(list(enumerate(getattr(validator, "class_map", []))))}
    found: dict[str, list[list[float]]] = {os.path.basename(i): [] for i in images}
    wanted = {_image_id(name): name for name in found}
    for p in getattr(validator, "jdict", []):
        if p["image_id"] in wanted and p["score"] >= least and "bbox" in p:
            x, y, w, h = p["bbox"]
            box = [classes[p["category_id"]], round(p["score"], 3), x, y, round(x + w, 3), round(y + h, 3)]
            found[wanted[p["image_id"]]].append(box)
    return found
