"""The main job, as users do it: plain `yolo` in an empty folder, then fresh processes that import only ultralytics."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from jobs import python, short, tiny_dataset, yolo

FIVE = ("sam", "hilo", "sk", "attnconv", "acmix")

USE = """
import sys
from ultralytics import YOLO
assert "yolo_attn" not in sys.modules or "yolo_attn.blocks" not in sys.modules
model = YOLO(sys.argv[1])
results = model.predict(sys.argv[2], imgsz=64, verbose=False)
assert len(results) == 1 and results[0].boxes is not None
assert any(type(m).__module__.startswith("yolo_attn.") for m in model.model.modules())
print("predicted")
"""

EXPORT = """
import sys, numpy as np, torch, onnxruntime
from ultralytics import YOLO
file = YOLO(sys.argv[1]).export(format="onnx", imgsz=64, dynamic=True)
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
model = YOLO(sys.argv[1]).model.eval()
for side in (64, 96):
    x = torch.rand(1, 3, side, 64)
    with torch.no_grad():
        want = model(x)[0].numpy()
    got, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-3 * max(1.0, np.abs(want).max()), np.abs(got - want).max()
print("exported")
"""

INTERRUPTED = """
import os, sys
from ultralytics import YOLO
model = YOLO(sys.argv[1])
def stop(trainer):
    if trainer.epoch == 0:
        raise KeyboardInterrupt
model.add_callback("on_model_save", stop)
try:
    model.train(data=sys.argv[2], imgsz=64, epochs=2, batch=4, workers=0, plots=False, project=os.getcwd(), name="i")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def image(data: str) -> str:
    return str(next(Path(data).parent.rglob("images/val/*.*")))


def find(cwd: Path, name: str) -> Path:
    return next(cwd.rglob(name))


def test_plain_yolo_trains_and_a_fresh_process_predicts(data: str, tmp_path: Path) -> None:
    yolo("train", "model=yolov8n-sam.yaml", f"data={data}", *short(tmp_path), cwd=tmp_path)
    best = find(tmp_path, "best.pt")
    assert "predicted" in python(USE, best, image(data), cwd=tmp_path)
    assert "predicted" in python(USE, best, image(data), cwd=tmp_path, ULTRALYTICS_SAFE_LOAD="1")


def test_switched_off_the_same_command_gives_ultralytics_own_error(data: str, tmp_path: Path) -> None:
    text = yolo(
        "train",
        "model=yolov8n-sam.yaml",
        f"data={data}",
        *short(tmp_path),
        cwd=tmp_path,
        ok=False,
        YOLO_ATTN_AUTOLOAD="0",
    )
    assert "FileNotFoundError" in text and "yolov8" in text and "yolo_attn" not in text.replace("yolo_attn_boot", "")


@pytest.mark.slow
@pytest.mark.parametrize("block", FIVE)
def test_train_resume_predict_and_export_in_fresh_processes(block: str, data: str, tmp_path: Path) -> None:
    python(INTERRUPTED, f"yolov8n-{block}.yaml", data, cwd=tmp_path)
    last = find(tmp_path, "last.pt")
    text = yolo("train", "resume", f"model={last}", cwd=tmp_path)
    assert "Resuming training" in text
    assert len((last.parent.parent / "results.csv").read_text().splitlines()) == 1 + 2  # header, two epochs
    best = find(tmp_path, "best.pt")
    assert "predicted" in python(USE, best, image(data), cwd=tmp_path)
    assert "exported" in python(EXPORT, best, cwd=tmp_path)


@pytest.mark.slow
def test_a_checkout_path_and_python_work_alike(data: str, tmp_path: Path) -> None:
    yolo("train", "model=cfg/yolov8n-sam.yaml", f"data={data}", *short(tmp_path), cwd=tmp_path)
    code = (
        "import sys; from ultralytics import YOLO; "
        "YOLO('yolov8s-hilo.yaml').train(data=sys.argv[1], imgsz=64, epochs=1, batch=4, workers=0, plots=False)"
    )
    python(code, data, cwd=tmp_path)


@pytest.mark.slow
def test_shapes_is_made_on_first_use(tmp_path: Path) -> None:
    settings = tmp_path / "settings" / "Ultralytics"
    settings.mkdir(parents=True)
    shutil.copy(Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics" / "Arial.ttf", settings)
    work = tmp_path / "work"
    work.mkdir()
    datasets = tmp_path / "datasets"
    yolo("settings", f"datasets_dir={datasets}", cwd=work, YOLO_CONFIG_DIR=str(settings.parent))
    args = ("train", "model=yolov8n-sam.yaml", "data=shapes.yaml", *short(work), "fraction=0.1")
    yolo(*args, cwd=work, YOLO_CONFIG_DIR=str(settings.parent))
    assert len(list((datasets / "shapes/images/train").iterdir())) == 400
    assert find(work, "best.pt").is_file()
