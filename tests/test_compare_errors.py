"""Types of errors and outcomes of `yolo-attn compare`, on boxes whose answers follow by arithmetic."""

from __future__ import annotations

from typing import Any

import matplotlib
import pytest

from yolo_attn.comparison.changes import counts, most_changed
from yolo_attn.comparison.outcomes import Outcome, confusion, error_types, outcomes
from yolo_attn.detect.sizes import Boxes, average_precision

#: Left, top, width, height; the next three overlap with it by 1, 0.6 and 0.25.
HERE, SAME, SHIFTED, FAR_SHIFTED = ([0, 0, 80, 80], [0, 0, 80, 80], [20, 0, 80, 80], [48, 0, 80, 80])
ELSEWHERE, NOWHERE = [200, 0, 80, 80], [400, 0, 80, 80]
Label = tuple[int, int, list[int]]
Prediction = tuple[int, int, float, list[int]]


def boxes(labels: list[Label], predictions: list[Prediction], images: int = 2) -> Boxes:
    """Labels (image, class, box) and predictions (image, class, score, box) as a validation has them."""
    made: list[dict[str, Any]] = [
        {"id": i, "image_id": n, "category_id": c + 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (n, c, b) in enumerate(labels, 1)
    ]
    guessed = [{"image_id": n, "category_id": c + 1, "score": s, "bbox": b} for n, c, s, b in predictions]
    return Boxes([f"/data/{i}.jpg" for i in range(images)], [(640, 480)] * images, made, guessed)


# AP is the mean of 101 points of recall; the points up to recall 0.5 are 51.
CASES = {
    # A class is never found; corrected, its AP is 1, and the mean over two classes gains a half.
    "Cls": ([(1, 0, HERE), (2, 1, HERE)], [(1, 1, 0.8, SAME), (2, 1, 0.9, SAME)], 0.5),
    "Loc": ([(1, 0, HERE)], [(1, 0, 0.9, FAR_SHIFTED)], 1.0),
    # In front of the right prediction of class 1: its AP is 0.5 instead of 1, and class 0 has 0 anyway.
    "Both": ([(1, 0, HERE), (2, 1, HERE)], [(1, 1, 0.95, FAR_SHIFTED), (2, 1, 0.9, SAME)], 0.25),
    # Precision 1, 1/2, 2/3: the upper 50 points have 2/3 instead of 1.
    "Dupe": (
        [(1, 0, HERE), (1, 0, ELSEWHERE)],
        [(1, 0, 0.9, SAME), (1, 0, 0.8, SHIFTED), (1, 0, 0.7, ELSEWHERE)],
        50 / 101 / 3,
    ),
    "Bkg": ([(1, 0, HERE)], [(1, 0, 0.9, NOWHERE), (1, 0, 0.5, SAME)], 0.5),
    "Miss": ([(1, 0, HERE), (1, 0, ELSEWHERE)], [(1, 0, 0.9, SAME)], 50 / 101),
}


@pytest.mark.parametrize("error", CASES)
def test_an_error_is_of_its_type_and_costs_what_arithmetic_says(error: str) -> None:
    labels, predictions, gain = CASES[error]
    found = error_types(boxes(labels, predictions))
    assert found[error] == pytest.approx(gain, abs=1e-9)
    kinds = [kind for of_image in outcomes(boxes(labels, predictions), 0.0) for kind in of_image.wrong.values()]
    assert kinds == ([] if error == "Miss" else [error])


def test_right_wrong_and_missed_boxes_are_numbered_as_they_came() -> None:
    labels = [(1, 0, HERE), (1, 0, ELSEWHERE), (2, 0, HERE)]
    predictions = [(2, 0, 0.1, SAME), (1, 0, 0.6, NOWHERE), (1, 0, 0.9, SAME)]
    assert outcomes(boxes(labels, predictions), 0.25) == [
        Outcome(right={0: 2}, wrong={1: "Bkg"}, missed=[1]),
        Outcome(missed=[2]),
    ]


def test_predictions_on_an_image_without_labels_are_wrong() -> None:
    found = boxes([(1, 0, HERE)], [(1, 0, 0.5, SAME), (2, 0, 0.9, SAME)])
    assert outcomes(found, 0.25)[1].wrong == {1: "Bkg"}
    assert error_types(found)["Bkg"] == pytest.approx(0.5)


def test_a_model_that_predicts_nothing_misses_everything() -> None:
    found = boxes([(1, 0, HERE), (2, 1, HERE)], [])
    assert [o.missed for o in outcomes(found, 0.25)] == [[0], [1]]
    assert {name: gain for name, gain in error_types(found).items() if gain} == {"Miss": 1, "FalseNeg": 1}
    assert average_precision(found)["medium"] == {"objects": 2, "mAP50-95": 0.0, "mAP50": 0.0}


def test_counting_errors_leaves_the_style_of_figures_alone() -> None:
    before = dict(matplotlib.rcParams)
    error_types(boxes(*CASES["Bkg"][:2]))
    assert dict(matplotlib.rcParams) == before


def test_the_confusion_matrix_has_predicted_by_true_class_and_the_background_last() -> None:
    labels, predictions, _ = CASES["Cls"]
    found = confusion(boxes([*labels, (2, 0, NOWHERE)], [*predictions, (1, 0, 0.1, NOWHERE)]), 0.25, {0: "a", 1: "b"})
    assert found.tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_an_object_is_small_or_large_in_the_pixels_that_are_meant() -> None:
    found = boxes([(1, 0, [0, 0, 40, 40]), (2, 0, [0, 0, 100, 100])], [(1, 0, 0.9, [0, 0, 40, 40])])
    in_file, in_model = (average_precision(b) for b in (found, found.resized(320)))  # half as long as 640
    assert [in_file[s]["objects"] for s in ("small", "medium", "large")] == [0, 1, 1]
    assert [in_model[s]["objects"] for s in ("small", "medium", "large")] == [1, 1, 0]
    assert (in_file["medium"]["mAP50-95"], in_file["large"]["mAP50-95"]) == pytest.approx((1, 0))
    assert (in_model["small"]["mAP50-95"], in_model["medium"]["mAP50-95"]) == pytest.approx((1, 0))
    assert found.labels[0]["bbox"] == [0, 0, 40, 40] and set(found.predictions[0]) == {
        "image_id",
        "category_id",
        "score",
        "bbox",
    }


def test_the_most_changed_images_come_first_and_unchanged_ones_not_at_all() -> None:
    labels = [(n, 0, HERE) for n in (1, 2, 3)] + [(3, 0, ELSEWHERE)]
    first = boxes(labels, [(1, 0, 0.9, SAME), (2, 0, 0.9, SAME)], images=3)
    second = boxes(labels, [(1, 0, 0.9, SAME), (3, 0, 0.9, SAME), (3, 0, 0.9, ELSEWHERE)], images=3)
    found = {"a": outcomes(first, 0.25), "b": outcomes(second, 0.25)}
    assert most_changed(found, 9) == [2, 1]
    assert most_changed(found, 1) == [2]
    of_b = [line for line in counts(found, first) if line["model"] == "b"]
    assert [(line["gained"], line["lost"]) for line in of_b] == [(0, 0), (0, 1), (2, 0)]
