"""`bench detect`: what happens inside a cell, without training anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolo_attn.detect import cell


@pytest.fixture
def threads() -> Iterator[None]:
    from ultralytics.utils import torch_utils

    before = torch.get_num_threads(), torch_utils.NUM_THREADS
    yield
    torch.set_num_threads(before[0])
    torch_utils.NUM_THREADS = before[1]


@pytest.mark.usefixtures("threads")
def test_a_cell_keeps_its_threads_when_ultralytics_picks_the_cpu() -> None:
    from ultralytics.utils.torch_utils import select_device

    for number in (3, 2):
        cell.set_threads(number)
        select_device("cpu", verbose=False)
        assert torch.get_num_threads() == number


def test_images_of_a_classification_do_not_depend_on_what_the_model_draws() -> None:
    seen = []
    for drawn in (0, 7):
        dataset = SimpleNamespace(torch_transforms=lambda image: image + torch.rand(()))
        loader = SimpleNamespace(dataset=dataset, num_workers=0)
        trainer = SimpleNamespace(train_loader=loader, preprocess_batch=lambda batch: batch)
        torch.manual_seed(3)
        cell._seed_order(trainer, 3, hashlib.sha256())
        seen.append([])
        for _ in range(3):
            torch.rand(drawn)  # a model's dropout
            seen[-1].append(dataset.torch_transforms(0.0).item())
        left = torch.get_rng_state()
        torch.manual_seed(3)
        torch.rand(3 * drawn)
        assert torch.equal(left, torch.get_rng_state())  # nor the other way round
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3


def test_the_final_validation_takes_the_arguments_that_those_of_the_epochs_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Model:
        def add_callback(self, *_: Any) -> None:
            pass

        def val(self, **words: Any) -> Any:
            seen.update(words)
            return SimpleNamespace(top1=0.5, top5=1.0)

    monkeypatch.setattr(cell, "_model", lambda *_: Model())
    given = {"imgsz": 64, "epochs": 2, "iou": 0.5, "max_det": 7, "conf": 0.01, "agnostic_nms": True, "lr0": 0.1}
    job = {"model": {}, "data": "d", "task": "classify", "device": "cpu", "names": ["a"], "arguments": given}
    cell.validate(job, tmp_path, tmp_path / "best.pt")
    assert {k: seen.get(k) for k in given} == {**given, "epochs": None, "lr0": None}
