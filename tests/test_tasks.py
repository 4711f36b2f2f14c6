"""Every task with every block: train, validate, predict and resume, in two processes a case."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import python, tiny_dataset

pytestmark = pytest.mark.slow

#: Every task twice and every block at least once; detection has its own tests (test_jobs).
CASES = [
    ("segment", "seg", "sam"),
    ("segment", "seg", "hilo"),
    ("pose", "pose", "sk"),
    ("pose", "pose", "acmix"),
    ("obb", "obb", "attnconv"),
    ("obb", "obb", "sam"),
    ("classify", "cls", "hilo"),
    ("classify", "cls", "attnconv"),
]

FIRST = """
import os, sys
from ultralytics import YOLO
model, data = YOLO(sys.argv[1]), sys.argv[2]
def stop(trainer):
    if trainer.epoch == 0:
        raise KeyboardInterrupt
model.add_callback("on_model_save", stop)
try:
    model.train(data=data, imgsz=64, epochs=2, batch=4, workers=0, plots=False, project=os.getcwd(), name="t")
except KeyboardInterrupt:
    print("interrupted")
"""

SECOND = """
import sys
from ultralytics import YOLO
last, data, image, task = sys.argv[1:]
model = YOLO(last)
assert model.task == task, model.task
model.train(resume=True)
model = YOLO(last.replace("last.pt", "best.pt"))
metrics = model.val(data=data, imgsz=64, batch=4, workers=0, plots=False)
assert metrics.results_dict and all(v == v for v in metrics.results_dict.values()), metrics.results_dict
(result,) = model.predict(image, imgsz=64, verbose=False)
part = {"segment": "boxes", "pose": "keypoints", "obb": "obb", "classify": "probs"}[task]
assert getattr(result, part) is not None
assert any(type(m).__module__.startswith("yolo_attn.") for m in model.model.modules())
print("validated and predicted")
"""


@pytest.mark.parametrize(("task", "suffix", "block"), CASES, ids=lambda x: x)
def test_task(task: str, suffix: str, block: str, tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path, task)
    assert "interrupted" in python(FIRST, f"yolov8n-{block}-{suffix}.yaml", data, cwd=tmp_path)
    last = next(tmp_path.rglob("last.pt"))
    picture = next(p for p in (tmp_path / f"tiny-{task}").rglob("val/**/*") if p.suffix in (".png", ".jpg"))
    text = python(SECOND, last, data, picture, task, cwd=tmp_path)
    assert "validated and predicted" in text
    assert len((last.parent.parent / "results.csv").read_text().splitlines()) == 1 + 2
