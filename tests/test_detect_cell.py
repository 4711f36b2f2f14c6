"""`bench detect`: what happens inside a cell, without training anything."""

from __future__ import annotations

from collections.abc import Iterator

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
