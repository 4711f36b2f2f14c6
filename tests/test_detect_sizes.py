"""Average precision by COCO's definition: sizes of objects, and what the choice of validation images adds to chance."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fabricated import COMPARED, compared, row_of
from PIL import Image

from yolo_attn.detect.results import gather
from yolo_attn.detect.sizes import GROUPS, of_boxes

IMAGES = 23


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Images of 400 pixels with three large objects each, and predictions that are shifted by chance."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    labels, found = [], []
    for number in range(IMAGES):
        file = folder / f"image-{number:02d}.png"
        Image.new("L", (400, 400)).save(file)
        boxes = np.concatenate([random.uniform(0.4, 0.6, (3, 2)), random.uniform(0.3, 0.6, (3, 2))], 1)
        classes = random.integers(0, 2, (3, 1)).astype(float)
        labels.append({"im_file": str(file), "cls": classes, "bboxes": boxes})
        for c, (x, y, w, h) in zip(classes.ravel(), boxes + random.normal(0, 0.03, boxes.shape), strict=True):
            box = [400 * (x - w / 2), 400 * (y - h / 2), 400 * w, 400 * h]
            prediction = {"image_id": file.stem, "category_id": int(c), "bbox": box, "score": float(random.random())}
            found.append(prediction)
    return of_images(labels, found)


def of_images(labels: list[dict[str, Any]], found: list[dict[str, Any]]) -> Any:
    loader = SimpleNamespace(dataset=SimpleNamespace(labels=labels))
    return SimpleNamespace(dataloader=loader, class_map=[0, 1], jdict=found)


def test_precision_without_a_tenth_of_the_images_is_that_of_the_others_alone(validator: Any) -> None:
    found = of_boxes(validator)
    assert found["sizes"]["large"]["objects"] == 3 * IMAGES
    assert len(found["without"]) == GROUPS and len(set(found["without"])) > 1
    for group in (0, 3, 9):
        labels = [x for i, x in enumerate(validator.dataloader.dataset.labels) if i % GROUPS != group]
        kept = {Path(x["im_file"]).stem for x in labels}
        others = of_boxes(of_images(labels, [p for p in validator.jdict if p["image_id"] in kept]))
        assert found["without"][group] == pytest.approx(others["sizes"]["large"]["mAP50-95"], abs=1e-12)


def test_few_images_are_not_left_out(validator: Any) -> None:
    labels = validator.dataloader.dataset.labels[:19]
    assert of_boxes(of_images(labels, validator.jdict))["without"] == []
    assert of_boxes(of_images(validator.dataloader.dataset.labels, []))["without"] == []


def test_a_warning_names_datasets_whose_images_decide_more_than_the_seeds(tmp_path: Path) -> None:
    gaps = [0.00, 0.10, 0.00, 0.10, 0.00, 0.10, 0.00, 0.10, 0.00, 0.10]

    def changes(size: float) -> Any:
        return lambda cell: {"without": [0.4 + size * g * (cell.model == "ours") for g in gaps]}

    large = gather(compared(tmp_path / "large", models=COMPARED, changes=changes(1)))
    # Ten groups, half of them 0.05 above and half 0.05 below the mean: 9 / 10 * 10 * 0.05**2.
    assert row_of(large, "ours")["image_error"] == pytest.approx(math.sqrt(9 * 0.05**2))
    warning = next(w for w in large["warnings"] if "the choice of the 87 validation images" in w)
    assert "for ours the choice" in warning and "up to 0.150" in warning
    small = gather(compared(tmp_path / "small", models=COMPARED, changes=changes(1e-3)))
    unknown = gather(compared(tmp_path / "unknown"))
    assert row_of(unknown, "ours")["image_error"] is None
    assert not [w for r in (small, unknown) for w in r["warnings"] if "validation images makes" in w]
