"""One validation by Ultralytics, and the numbers that a comparison takes from it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..detect.sizes import Boxes, average_precision, boxes_of
from ..errors import UsageError

#: Of a model and of each class; P and R at the confidence of the highest mean F1.
METRICS = ("P", "R", "mAP50", "mAP75", "mAP50-95")
#: Curves over the confidence, as `Validated.curves` names them; "precision over recall" is the fourth.
CURVES = ("precision", "recall", "F1")


@dataclass(frozen=True)
class Validated:
    """A checkpoint on a split, boxes only.

    Attributes:
        metrics: `METRICS` by Ultralytics.
        classes: Class -> the same; classes without an object are left out.
        sizes: "image pixels" and "model pixels" -> size -> objects, mAP50-95 and mAP50 by pycocotools.
        curves: `CURVES` over the confidence, "precision over recall" at IoU 0.5, and their x from 0 to 1; means over
            classes.
        boxes: Labels and predictions.
    """

    metrics: dict[str, float]
    classes: dict[str, dict[str, float]]
    sizes: dict[str, dict[str, dict[str, float]]]
    curves: dict[str, np.ndarray]
    boxes: Boxes


def validate(model: Any, data: str, split: str, imgsz: int, **arguments: Any) -> Validated:
    """Validate a model as `yolo val` does.

    Args:
        model: Ultralytics' object for a checkpoint.
        data: The dataset's YAML.
        split: train, val or test.
        imgsz: Size of the longer side of images.
        **arguments: Further ones of `YOLO.val`.

    Raises:
        UsageError: Two images have the same name, or the split holds no object.
    """
    seen: dict[str, Any] = {}

    def keep(validator: Any) -> None:
        seen["validator"] = validator
        validator.args.save_json = False  # no predictions.json, and no evaluation of it that installs a package

    model.add_callback("on_val_end", keep)
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = {"project": folder, "name": "val", "plots": False, "verbose": False}
            model.val(data=data, split=split, imgsz=imgsz, save_json=True, **where, **arguments)
    finally:
        model.callbacks["on_val_end"].remove(keep)
    boxes = boxes_of(seen["validator"])
    if boxes is None:
        raise UsageError(f"data={data}: two images of {split} have the same name in different folders; rename one.")
    if not boxes.labels:
        raise UsageError(f"data={data}: its {split} split has no labelled object, so nothing can be compared.")
    box, names = seen["validator"].metrics.box, model.names
    per_class = np.stack([box.p, box.r, box.ap50, box.all_ap[:, 5], box.ap], 1) if len(box.all_ap) else np.zeros((0, 5))
    found = {names[int(c)]: values for c, values in zip(box.ap_class_index, per_class.tolist(), strict=True)}
    present = [names[c - 1] for c in sorted({label["category_id"] for label in boxes.labels})]
    means = (box.mp, box.mr, box.map50, box.map75, box.map) if found else (0.0,) * len(METRICS)
    scaled = {"image pixels": boxes, "model pixels": boxes.resized(imgsz)}
    return Validated(
        dict(zip(METRICS, map(float, means), strict=True)),
        {name: dict(zip(METRICS, found.get(name, [0.0] * len(METRICS)), strict=True)) for name in present},
        {kind: average_precision(b) for kind, b in scaled.items()},
        _curves(box),
        boxes,
    )


def _curves(box: Any) -> dict[str, np.ndarray]:
    """The curves of Ultralytics' metrics, means over classes; zeros where nothing was predicted."""
    x = np.linspace(0, 1, 1000)
    if not len(box.all_ap):
        return {"x": x} | dict.fromkeys((*CURVES, "precision over recall"), np.zeros_like(x))
    means = (np.mean(curve, 0) for curve in (box.p_curve, box.r_curve, box.f1_curve, box.prec_values))
    return {"x": np.asarray(box.px)} | dict(zip((*CURVES, "precision over recall"), means, strict=True))


def name_of(boxes: Boxes, image: int) -> str:
    """File name of an image by its number in `image_id`."""
    return Path(boxes.files[image - 1]).name
