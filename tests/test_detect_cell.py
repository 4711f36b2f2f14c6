"""`bench detect`: what happens inside a cell, without training anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from yolo_attn.bench.detect import cell


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
