"""When blocks are imported: in several threads, after a reload, behind a user's registration, from other packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import python

BLOCK = """
import torch, yolo_attn

def declare(name, **arguments):
    class Mine(torch.nn.Identity):
        def __init__(self, c1: int, reduction: int = 4) -> None:
            super().__init__()
    Mine.__name__ = Mine.__qualname__ = name
    return yolo_attn.register(**{"paper": "https://example.org/paper", **arguments})(Mine)
"""


def test_threads_that_build_their_first_models_at_once_all_succeed(tmp_path: Path) -> None:
    code = """
import threading
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

gate, built, failed = threading.Barrier(6), [], []

def build(name):
    d = yaml_model_load(name)
    gate.wait()
    try:
        built.append(DetectionModel(d, verbose=False))
    except Exception as e:
        failed.append(repr(e))

names = ["yolov8n-hilo.yaml", "yolov8n-sam.yaml", "yolov8n-sk.yaml"] * 2
threads = [threading.Thread(target=build, args=(n,)) for n in names]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(built), failed)
"""
    assert python(code, cwd=tmp_path).strip().splitlines()[-1] == "6 []"


def test_a_users_block_with_a_shipped_name_is_refused_at_once_and_changes_nothing(tmp_path: Path) -> None:
    code = (
        BLOCK
        + """
for name in ("ACmix", "MLCA", "SAM", "C3k2Clo"):
    try:
        declare(name)
    except yolo_attn.RegistryError as e:
        print("refused", name, "yolo_attn.blocks" in str(e))
from ultralytics.nn.tasks import DetectionModel
for name in ("acmix", "hilo", "mlca", "senetv2"):
    model = DetectionModel(f"yolov8n-{name}.yaml", verbose=False)
    print(name, sum(yolo_attn.registry.is_ours(m) for m in model.modules()) > 0)
"""
    )
    lines = python(code, cwd=tmp_path).strip().splitlines()
    assert lines[-8:-4] == [f"refused {name} True" for name in ("ACmix", "MLCA", "SAM", "C3k2Clo")]
    assert lines[-4:] == [f"{name} True" for name in ("acmix", "hilo", "mlca", "senetv2")]


def test_a_users_block_registered_first_is_known_beside_the_shipped_ones(tmp_path: Path) -> None:
    code = BLOCK + "declare('Mine', row='MineRow'); print(len(yolo_attn.list_blocks()), yolo_attn.MineRow.__name__)"
    count, name = python(code, cwd=tmp_path).split()[-2:]
    assert int(count) > 50 and name == "MineRow"


def test_reloading_the_registry_keeps_all_blocks(tmp_path: Path) -> None:
    code = (
        BLOCK
        + """
import importlib
declare("Mine")
before = [b.name for b in yolo_attn.list_blocks()]
importlib.reload(yolo_attn.registry)
assert [b.name for b in yolo_attn.list_blocks()] == before and "Mine" in before
declare("Second")
from ultralytics.nn.tasks import DetectionModel
DetectionModel("yolov8n-hilo.yaml", verbose=False)
try:
    declare("SAM")
except yolo_attn.RegistryError:
    print("kept", len(yolo_attn.registry.list_blocks()) - len(before))
"""
    )
    assert python(code, cwd=tmp_path).strip().splitlines()[-1] == "kept 1"


@pytest.mark.parametrize("source", ["import sys; sys.exit(3)", "raise ValueError('bye')"])
def test_a_package_whose_module_exits_is_warned_about_and_the_process_goes_on(source: str, tmp_path: Path) -> None:
    (tmp_path / "leaver.py").write_text(source)
    info = tmp_path / "leaver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[yolo_attn.blocks]\nx = leaver\n")
    code = "import yolo_attn; print(len(yolo_attn.list_blocks()) > 50, 'end')"
    text = python(code, cwd=tmp_path)
    assert "True end" in text and "the blocks of leaver" in text and "do not load" in text
