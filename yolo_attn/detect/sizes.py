"""Boxes of a validation in COCO's form, and their average precision by size of objects and without some images."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: COCO's bounds on an object's area in pixels of the image file.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
#: Groups of images that are left out in turn.
GROUPS = 10


class Boxes(NamedTuple):
    """Labels and predictions of a validation, as pycocotools takes them.

    Attributes:
        files: The images; the first has the number 1 in `image_id`.
        shapes: Width and height of each image.
        labels: id, image_id, category_id (class plus 1), bbox (left, top, width, height), area, iscrowd.
        predictions: image_id, category_id, bbox, score.
    """

    files: list[str]
    shapes: list[tuple[int, int]]
    labels: list[dict[str, Any]]
    predictions: list[dict[str, Any]]

    def resized(self, imgsz: int) -> Boxes:
        """The same in pixels of the model's input, where the longer side of an image has `imgsz`."""
        factors = [imgsz / max(shape) for shape in self.shapes]

        def of(box: dict[str, Any]) -> dict[str, Any]:
            edges = [edge * factors[box["image_id"] - 1] for edge in box["bbox"]]
            return {**box, "bbox": edges, "area": edges[2] * edges[3]}

        shapes = [(round(w * f), round(h * f)) for (w, h), f in zip(self.shapes, factors, strict=True)]
        return Boxes(self.files, shapes, list(map(of, self.labels)), list(map(of, self.predictions)))


def _image_id(file: str) -> int | str:
    """The name of an image in Ultralytics' predictions."""
    stem = Path(file).stem
    return int(stem) if stem.isnumeric() else stem


def boxes_of(validator: Any) -> Boxes | None:
    """Labels and predictions of a validation, in pixels of the image files.

    Args:
        validator: Of Ultralytics, after a validation with save_json.

    Returns:
        None where names of images are ambiguous: a prediction names its image without folder and suffix.
    """
    from PIL import Image
    from ultralytics.data.utils import exif_size

    found = validator.dataloader.dataset.labels
    ids = {_image_id(label["im_file"]): i + 1 for i, label in enumerate(found)}
    if len(ids) < len(found):
        return None
    shapes: list[tuple[int, int]] = []
    labels: list[dict[str, Any]] = []
    for number, label in enumerate(found, 1):
        with Image.open(label["im_file"]) as image:  # rectangular validation takes "shape" out of the labels
            width, height = exif_size(image)
        shapes.append((width, height))
        for c, (x, y, w, h) in zip(label["cls"].ravel().tolist(), label["bboxes"].tolist(), strict=True):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            of_object = {"category_id": int(c) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            labels.append({"id": len(labels) + 1, "image_id": number, **of_object})
    classes = _classes(validator)
    predictions = [
        {"image_id": ids[p["image_id"]], "category_id": classes[p["category_id"]] + 1, "bbox": p["bbox"]}
        | {"score": p["score"]}
        for p in validator.jdict
        if p["image_id"] in ids
    ]
    return Boxes([label["im_file"] for label in found], shapes, labels, predictions)


def of_boxes(validator: Any) -> dict[str, Any]:
    """Average precision of boxes by COCO's definition, for sizes of objects and without some of the images.

    Args:
        validator: Of Ultralytics, after a validation with save_json.

    Returns:
        sizes: as `average_precision`; without: mAP50-95 without each tenth of the images, every tenth one, where there
        are at least two of each. Both are empty where names of images are ambiguous.
    """
    boxes = boxes_of(validator)
    if boxes is None:
        return {"sizes": {}, "without": []}
    judge = _judged(boxes)
    sizes = _by_size(boxes, judge)  # first: what follows replaces the judge's figures
    groups = range(GROUPS if judge and len(boxes.files) >= 2 * GROUPS else 0)
    return {"sizes": sizes, "without": [_without(judge, group) for group in groups]}


def average_precision(boxes: Boxes) -> dict[str, dict[str, float]]:
    """mAP50-95 and mAP50 for small, medium and large objects, by COCO's definition, with pycocotools.

    Args:
        boxes: Areas are measured in their pixels.

    Returns:
        Size -> objects: their number, and metrics where there are any.
    """
    return _by_size(boxes, _judged(boxes))


def _judged(boxes: Boxes) -> Any:
    """COCOeval after its comparison, for all objects and each size; None without predictions."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not boxes.predictions:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(boxes.files))],
            "annotations": [dict(a) for a in boxes.labels],  # pycocotools adds to them
            "categories": [{"id": c} for c in sorted({a["category_id"] for a in boxes.labels})],
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes([dict(p) for p in boxes.predictions]), "bbox")
        judge.params.areaRng = [[0, 1e10], *([low, high] for low, high in SIZES.values())]
        judge.params.areaRngLbl = ["all", *SIZES]
        judge.evaluate()
        judge.accumulate()
    return judge


def _by_size(boxes: Boxes, judge: Any) -> dict[str, dict[str, float]]:
    """What `average_precision` returns."""
    counts = {s: sum(low <= a["area"] < high for a in boxes.labels) for s, (low, high) in SIZES.items()}
    found: dict[str, dict[str, float]] = {size: {"objects": n} for size, n in counts.items()}
    for index, size in enumerate(SIZES, 1):
        if counts[size]:
            table = judge.eval["precision"][:, :, :, index, -1] if judge else None  # IoU, recall, class
            for key, part in (("mAP50-95", slice(None)), ("mAP50", slice(0, 1))):
                found[size][key] = _mean(table[part]) if table is not None else 0.0
    return found


def _mean(table: Any) -> float:
    """Of the entries that are known; those of classes without objects are -1."""
    kept = table[table > -1]
    return float(kept.mean()) if len(kept) else 0.0


def _without(judge: Any, group: int) -> float:
    """mAP50-95 without every tenth image, from a judge that has compared all images."""
    every, images = judge.evalImgs, len(judge.params.imgIds)  # for each class and range of areas, all images in turn
    params = copy.deepcopy(judge.params)
    params.areaRng, params.areaRngLbl, params.maxDets = params.areaRng[:1], params.areaRngLbl[:1], params.maxDets[-1:]
    judge.evalImgs = [None if i % images % GROUPS == group else found for i, found in enumerate(every)]
    with contextlib.redirect_stdout(io.StringIO()):
        judge.accumulate(params)
    judge.evalImgs = every
    return _mean(judge.eval["precision"])


def _classes(validator: Any) -> dict[int, int]:
    """Category in Ultralytics' predictions -> class; the first of classes that share a category."""
    return {v: i for i, v in reversed(list(enumerate(getattr(validator, "class_map", []))))}


def predictions(validator: Any, images: Sequence[str], least: float) -> dict[str, list[list[float]]]:
    """Boxes of at least this confidence on some images, by file name.

    Boxes are class, confidence, left, top, right, bottom, in pixels of the image file.
    """
    classes = _classes(validator)
    found: dict[str, list[list[float]]] = {os.path.basename(i): [] for i in images}
    wanted = {_image_id(name): name for name in found}
    for p in getattr(validator, "jdict", []):
        if p["image_id"] in wanted and p["score"] >= least and "bbox" in p:
            x, y, w, h = p["bbox"]
            box = [classes[p["category_id"]], round(p["score"], 3), x, y, round(x + w, 3), round(y + h, 3)]
            found[wanted[p["image_id"]]].append(box)
    return found
