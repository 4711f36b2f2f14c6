"""Which predictions are right, and what is wrong with the others: TIDE's types of errors, with its library.

Source  Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020,
        https://arxiv.org/abs/2008.08115, section 2
Code    tidecv 1.0.1; it works with NumPy 2.4. It skips images without labels unless they are declared, and takes the
        100 best predictions of an image, as COCO does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..detect.sizes import Boxes

#: TIDE's name of a type -> what it means. The overlap is with an object, true or of another class.
TYPES = {
    "Cls": "wrong class",
    "Loc": "poorly localised",
    "Both": "wrong class and poorly localised",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
#: Beside the types: all false positives gone, all misses found.
TOTALS = {"FalsePos": "all false positives", "FalseNeg": "all misses"}
#: Overlap from which a prediction is right.
OVERLAP = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of an image's labels and predictions.

    Attributes:
        right: Index of the label that was found -> the prediction's index; indices in `Boxes`.
        wrong: Index of a wrong prediction -> its error's name in `TYPES`.
        missed: Indices of the labels without a right prediction.
    """

    right: dict[int, int] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)
    missed: list[int] = field(default_factory=list)


def error_types(boxes: Boxes) -> dict[str, float]:
    """AP50 that a model would gain if its errors of one type were corrected, from 0 to 1, by `TYPES` and `TOTALS`."""
    if not boxes.predictions:  # the library divides by zero; all that is lost is lost by missing
        return {name: float(name in ("Miss", "FalseNeg")) for name in (*TYPES, *TOTALS)}
    tide, _ = _evaluated(boxes, range(len(boxes.predictions)))
    gains = next(iter(tide.get_main_errors().values())) | next(iter(tide.get_special_errors().values()))
    return {name: float(gains[name]) / 100 for name in (*TYPES, *TOTALS)}


def outcomes(boxes: Boxes, conf: float) -> list[Outcome]:
    """What became of each image's labels, and of the predictions of at least this confidence."""
    confident = [i for i, p in enumerate(boxes.predictions) if p["score"] >= conf]
    _, run = _evaluated(boxes, confident)
    found = [Outcome() for _ in boxes.files]
    for prediction in run.preds.annotations:
        if prediction.get("used"):
            found[prediction["image"] - 1].right[prediction["matched_with"]] = confident[prediction["_id"]]
    for error in run.errors:
        if hasattr(error, "pred"):
            found[error.pred["image"] - 1].wrong[confident[error.pred["_id"]]] = error.short_name
    for i, label in enumerate(boxes.labels):
        of_image = found[label["image_id"] - 1]
        if i not in of_image.right:
            of_image.missed.append(i)
    return found


def _evaluated(boxes: Boxes, chosen: Any) -> tuple[Any, Any]:
    """TIDE and its run on the labels and the chosen predictions."""
    import matplotlib

    with matplotlib.rc_context():  # tidecv sets a style for all figures of the process
        from tidecv import TIDE, Data

        tide = TIDE(pos_threshold=OVERLAP)
    truth, predicted = Data("labels"), Data("predictions")
    for number, file in enumerate(boxes.files, 1):
        truth.add_image(number, file)
    for label in boxes.labels:
        truth.add_ground_truth(label["image_id"], label["category_id"], label["bbox"])
    for i in chosen:
        p = boxes.predictions[i]
        predicted.add_detection(p["image_id"], p["category_id"], p["score"], p["bbox"])
    return tide, tide.evaluate(truth, predicted, mode=TIDE.BOX)


def confusion(boxes: Boxes, conf: float, names: dict[int, str]) -> np.ndarray:
    """Ultralytics' confusion matrix at a confidence and an overlap of `OVERLAP`.

    Returns:
        (classes + 1, classes + 1): predicted by true class; the last row and column are the background.
    """
    import torch
    from ultralytics.utils.metrics import ConfusionMatrix

    matrix = ConfusionMatrix(names=names)
    found: dict[int, tuple[list[Any], list[Any]]] = {n: ([], []) for n in range(1, len(boxes.files) + 1)}
    for kind, many in enumerate((boxes.labels, boxes.predictions)):
        for box in many:
            found[box["image_id"]][kind].append(box)

    def tensors(many: list[Any]) -> dict[str, torch.Tensor]:
        ltwh = torch.tensor([b["bbox"] for b in many], dtype=torch.float64).reshape(-1, 4)
        return {
            "cls": torch.tensor([b["category_id"] - 1 for b in many]),
            "bboxes": torch.cat([ltwh[:, :2], ltwh[:, :2] + ltwh[:, 2:]], 1),
            "conf": torch.tensor([b.get("score", 1.0) for b in many], dtype=torch.float64),
        }

    for labels, predictions in found.values():
        matrix.process_batch(tensors(predictions), tensors(labels), conf=conf, iou_thres=OVERLAP)
    return np.asarray(matrix.matrix)
