"""The device of the tests of the group `gpu`: CUDA, or the CPU for a rehearsal of the same test bodies.

`YOLO_ATTN_GPU_TESTS=cpu pytest -m gpu` is the rehearsal: it finds mistakes in the tests, and proves nothing about CUDA.
There, models are compiled by the backend "aot_eager", as TorchInductor takes minutes per model on a CPU.
"""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("YOLO_ATTN_GPU_TESTS", "cuda")
CUDA = DEVICE == "cuda"
BACKEND = "inductor" if CUDA else "aot_eager"

# float32 means float32: no TF32.
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

#: The marks of every test of the group.
MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]
only_on_cuda = pytest.mark.skipif(not CUDA, reason="cannot be rehearsed on the CPU")
