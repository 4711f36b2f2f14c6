"""Parity with the authors' code: outputs and input gradients of golden files.

A small selection is in tests/golden. YOLO_ATTN_GOLDEN=<folder> runs a whole collection instead of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from yolo_attn.weights import official

ROOT = Path(os.environ.get("YOLO_ATTN_GOLDEN") or Path(__file__).parent / "golden")
CASES = sorted(ROOT.glob("*/*.json"))


def height_width(meta: dict, n: int) -> tuple[int, int]:
    """Sides of a token sequence of length n, from the case's arguments."""
    if "H" in meta["forward_kwargs"]:
        return meta["forward_kwargs"]["H"], meta["forward_kwargs"]["W"]
    for key in ("input_resolution", "window_size"):
        size = meta["constructor_kwargs"].get(key)
        if isinstance(size, list) and size[0] * size[1] == n:
            return size[0], size[1]
    side = round(n**0.5)
    return (side, side) if side * side == n else (n, 1)


def to_bchw(t: torch.Tensor, meta: dict) -> torch.Tensor:
    if t.dim() == 3:
        h, w = height_width(meta, t.shape[1])
        return t.view(t.shape[0], h, w, -1).permute(0, 3, 1, 2).contiguous()
    if t.dim() == 4 and meta["input_layout"].startswith("BHWC"):
        return t.permute(0, 3, 1, 2).contiguous()
    return t


def like_reference(y: torch.Tensor, reference: torch.Tensor, meta: dict) -> torch.Tensor:
    if reference.dim() == 3 and y.dim() == 4:
        return y.flatten(2).transpose(1, 2)
    if reference.dim() == 4 and meta["input_layout"].startswith("BHWC"):
        return y.permute(0, 2, 3, 1)
    return y


def test_there_are_cases() -> None:
    assert CASES, f"no golden case under {ROOT}"


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_matches_the_authors_code(path: Path) -> None:
    meta, tensors = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    kwargs = dict(meta["constructor_kwargs"])
    if meta["constructor_args"]:
        kwargs["args"] = meta["constructor_args"]
    module = official.load(meta["block"], kwargs, {k[6:]: v for k, v in tensors.items() if k.startswith("state.")})
    # Values of cga_block reach 36, so float32 itself is coarser there.
    atol, grad_atol = (6e-5, 1.2e-5) if meta["block"] == "cga_block" else (1e-5, 1e-6)
    xs = [to_bchw(tensors[k], meta).clone().requires_grad_() for k in ("input", "input.residual") if k in tensors]
    result = module(*xs)
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    wanted = [tensors[k] for k in ["output", *(f"output.{i}" for i in range(4))] if k in tensors]
    assert len(outputs) == len(wanted)
    for got, want in zip(outputs, wanted, strict=False):
        torch.testing.assert_close(like_reference(got, want, meta), want, atol=atol, rtol=0)
    # PyTorch's own CPU BatchNorm backward is wrong at batch one for some layouts; the files mark where that bites.
    if not meta.get("plain_torch_cpu_autograd_is_wrong"):  # the files of the TensorFlow block have no such key
        sum(y.square().mean() for y in outputs).backward()
        for x, key in zip(xs, ("grad_input", "grad_input.residual"), strict=False):
            torch.testing.assert_close(x.grad, to_bchw(tensors[key], meta), atol=grad_atol, rtol=0)
