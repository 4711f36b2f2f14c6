"""Neighbourhood attention: its kernels against sums over listed neighbours, and the mirrored border."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_attn.kernels.neighborhood import recomputed_attention, tiled_attention
from yolo_attn.kernels.neighborhood_cpu import piecewise_attention
from yolo_attn.kernels.neighborhood_shifts import shifted_attention
from yolo_attn.kernels.window import Window, mirror_pad, mirrored

WINDOWS = [Window(7), Window(3, 2), Window(5, 2, 2), Window(1), Window(1, 2), Window(7, 3), Window(5, 1, 3), Window(13)]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "k{}s{}d{}".format(*w))
@pytest.mark.parametrize("size", [(12, 20), (1, 1), (3, 8), (19, 15), (2, 1)], ids=str)
def test_kernels_agree_with_listed_neighbours_in_values_and_gradients(window: Window, size: tuple[int, int]) -> None:
    d, heads = 5, 2
    qkv = torch.randn(2, d, 3, heads, *size, dtype=torch.double, requires_grad=True)
    position = torch.randn(d, *size, dtype=torch.double, requires_grad=True)
    want = shifted_attention(qkv, position, window)
    g = torch.randn_like(want)
    want_grads = torch.autograd.grad(want, (qkv, position), g)
    for kernel in (
        piecewise_attention(qkv, position, window),
        tiled_attention(qkv, position, window),
        recomputed_attention(qkv, position, window),
    ):
        torch.testing.assert_close(kernel, want, atol=1e-11, rtol=0)
        for got_grad, want_grad in zip(torch.autograd.grad(kernel, (qkv, position), g), want_grads, strict=True):
            torch.testing.assert_close(got_grad, want_grad, atol=1e-11, rtol=0)


def test_pieces_of_a_map_too_large_for_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(5)
    qkv = torch.randn(1, 4, 3, 2, 21, 18, dtype=torch.double, requires_grad=True)
    position = torch.zeros(4, 21, 18, dtype=torch.double)
    results = []
    for numbers in (1, 2**30):
        monkeypatch.setattr("yolo_attn.kernels.neighborhood_cpu.CACHE", numbers)
        y = piecewise_attention(qkv, position, window)
        results.append((y, *torch.autograd.grad(y.square().sum(), qkv)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "k{}s{}d{}".format(*w))
def test_no_buffer_is_read_before_it_is_written(window: Window) -> None:
    """Deterministic mode fills new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        for size in ((11, 14), (1, 3)):
            qkv = torch.randn(2, 3, 3, 2, *size, requires_grad=True)
            y = piecewise_attention(qkv, torch.randn(3, *size), window)
            (grad,) = torch.autograd.grad(y.square().sum(), qkv)
            assert y.isfinite().all() and grad.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", range(1, 6))
def test_mirror_is_reflection_and_repeats_below_it(size: int) -> None:
    border = 7
    want = np.pad(np.arange(size), border, mode="reflect")
    assert mirrored(torch.arange(-border, size + border), size).tolist() == want.tolist()
    x = torch.randn(2, 3, size, 9)
    want_map = np.pad(x.numpy(), ((0, 0), (0, 0), (border, border), (border, border)), mode="reflect")
    assert torch.equal(mirror_pad(x, border), torch.from_numpy(want_map))
