"""The tests for a GPU, rehearsed on the CPU for one block, so that they keep running until there is a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jobs import run

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_tests_for_a_gpu_run_on_the_cpu() -> None:
    """Compiled models, which take a minute each, are left out."""
    chosen = "HiLo or draw or hilo-cls or hilo-seg or gates and hilo or show and hilo or trainer and not compiled"
    files = ("tests/test_cuda.py", "tests/test_cuda_models.py")
    text = run(sys.executable, "-m", "pytest", "-m", "gpu", "-k", chosen, *files, cwd=ROOT, YOLO_ATTN_GPU_TESTS="cpu")
    assert " passed" in text
