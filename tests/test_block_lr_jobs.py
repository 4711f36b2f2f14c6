"""The learning rate of new blocks in the processes that users and Ultralytics start."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from jobs import python, short, train_in_ddp_child, yolo

pytestmark = pytest.mark.slow

STOCK = "from ultralytics import YOLO; YOLO('yolov8n.yaml').save('stock.pt')"

TUNE = """
import os, sys
from ultralytics import YOLO
YOLO("yolov8n-sk.yaml").load("stock.pt").tune(data=sys.argv[1], imgsz=64, epochs=1, iterations=1, batch=4, workers=0,
    plots=False, val=False, use_ray=False, project=os.getcwd(), name="tune", space={"lr0": (1e-3, 1e-2)})
"""

SEVERAL = """
import os, sys
from ultralytics import YOLO
from ultralytics.engine import trainer
if not hasattr(trainer, "MultiTrainer"):
    print("not in this release"); sys.exit()
YOLO("yolov8n-sk.yaml").load("stock.pt").train(data=[sys.argv[1], sys.argv[1]], imgsz=64, epochs=1, batch=4, workers=0,
    plots=False, project=os.getcwd())
"""


def factors(folder: Path) -> list[set[float]]:
    """For each training in a folder, the ratios of its groups' rates to that of its first group."""
    found = []
    for file in sorted(folder.rglob("results.csv")):
        with open(file, newline="") as f:
            row = {k.strip(): float(v) for k, v in list(csv.DictReader(f))[-1].items() if k.strip().startswith("lr/")}
        found.append({round(rate / row["lr/pg0"], 3) for rate in row.values()})
    return found


@pytest.mark.parametrize("factor", [10, 3])
def test_the_command_line(tiny_data: str, tmp_path: Path, factor: int) -> None:
    python(STOCK, cwd=tmp_path)
    setting = {"YOLO_ATTN_BLOCK_LR": str(factor)} if factor != 10 else {}
    arguments = ("model=yolov8n-sk.yaml", "pretrained=stock.pt", f"data={tiny_data}", *short(tmp_path))
    text = yolo("train", *arguments, cwd=tmp_path, **setting)
    assert factors(tmp_path) == [{1, factor}]
    assert f"train at {factor} times the learning rate" in text and "blocks contribute" in text


def test_the_ddp_child(tiny_data: str, tmp_path: Path) -> None:
    python(STOCK, cwd=tmp_path)
    train_in_ddp_child("yolov8n-sk.yaml", tiny_data, tmp_path, weights="stock.pt")
    assert factors(tmp_path) == [{1, 10}]


@pytest.mark.parametrize("code", [TUNE, SEVERAL], ids=["tune", "several datasets"])
def test_child_processes(tiny_data: str, tmp_path: Path, code: str) -> None:
    python(STOCK, cwd=tmp_path)
    if "not in this release" in python(code, tiny_data, cwd=tmp_path):
        pytest.skip("this Ultralytics release trains on one dataset a call")
    found = factors(tmp_path)
    assert found and all(x == {1, 10} for x in found)
