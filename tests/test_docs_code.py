"""The Python code of the documentation runs as it stands, in a folder with the files that it names.

Pages of papers are in test_docs.py. Training is replaced by a check of its arguments; test_jobs.py trains.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_docs import ROOT, TEXTS, blocks_of
from ultralytics import YOLO, cfg
from ultralytics.engine.model import Model

from yolo_attn import build_yaml, commands, registry

pytestmark = pytest.mark.slow
PAGES = ("models", "transfer", "own-block", "inside", "bench", "detect")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's files: weights, a checkpoint that detects something, an image, a block."""
    folder = tmp_path_factory.mktemp("reader")
    YOLO("yolov8n.yaml").save(folder / "yolov8n.pt")
    model = YOLO("yolov8n-sk.yaml")
    for branch in model.model.model[-1].cv3:
        torch.nn.init.constant_(branch[-1].bias, 3.0)
    model.save(folder / "best.pt")
    (folder / "images").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "images" / "a.png"), image)
    build_yaml("yolov8", "sam", "P3").save(folder / "yolov8-mine.yaml")
    assert commands.main(["new", "block", "MyAttention", f"out={folder / 'my_attention.py'}"]) == 0
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_python_code_of_a_page_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(self: Model, **arguments: Any) -> None:
        cfg.check_dict_alignment(vars(cfg.get_cfg()), arguments)

    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))
    monkeypatch.setattr(Model, "train", train)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    codes = blocks_of((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), "python")
    assert codes
    for code in codes:
        module = ModuleType("page")
        monkeypatch.setitem(sys.modules, "page", module)
        exec(compile(code, f"{page}.md", "exec"), vars(module))


def test_no_page_with_python_code_is_forgotten() -> None:
    tested_elsewhere = {"README", "README.zh-CN", "CONTRIBUTING", "smt", "litv2", "sknet", "cloformer", "acmix"}
    found = {path.stem for path in TEXTS if blocks_of(path.read_text(encoding="utf-8"), "python")}
    assert found <= {*PAGES, *tested_elsewhere}
