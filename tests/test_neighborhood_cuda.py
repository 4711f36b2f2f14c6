"""Neighbourhood attention for CUDA: the candidates against the plain form.

Where there is no CUDA, Triton's interpreter runs its kernels on the CPU (conftest.py), and PyTorch the reference of
flex_attention.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jobs import python
from torch import Tensor

from yolo_attn.kernels import neighborhood_cuda
from yolo_attn.kernels.neighborhood import tiled_attention
from yolo_attn.kernels.neighborhood_shifts import shifted_attention
from yolo_attn.kernels.window import Window

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Window, height and width; tiles have 8 x 8 positions.
CASES = [
    (Window(7), 4, 4),
    (Window(3), 9, 10),
    (Window(3, 2), 3, 17),
    (Window(3, 2, 2), 4, 9),
    (Window(3, 1, 3), 4, 3),
    (Window(1, 2), 2, 1),
    (Window(3), 1, 1),
]


@pytest.fixture(scope="module")
def triton_attention() -> Callable[..., Tensor]:
    return pytest.importorskip("yolo_attn.kernels.candidates.neighborhood_triton").triton_attention


def inputs(d: int, height: int, width: int, channels_last: bool = False, images: int = 2) -> tuple[Tensor, Tensor]:
    """Projections of some images with 2 heads, and a code of each position."""
    if channels_last:
        qkv = torch.randn(images, height, width, d, 3, 2, device=DEVICE).permute(0, 3, 4, 5, 1, 2)
    else:
        qkv = torch.randn(images, d, 3, 2, height, width, device=DEVICE)
    return qkv.requires_grad_(), torch.randn(d, height, width, device=DEVICE, requires_grad=True)


def assert_equal(got: Tensor, want: Tensor, leaves: tuple[Tensor, ...]) -> None:
    """Equal values and gradients in float32."""
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
    g = torch.randn_like(want)
    gradients = torch.autograd.grad(got, leaves, g)
    for a, b in zip(gradients, torch.autograd.grad(want, leaves, g), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_triton_has_the_values_and_gradients_of_the_plain_form(triton_attention: Callable[..., Tensor]) -> None:
    """A tile that is not full; the slow group has other windows and sizes, some of several tiles."""
    leaves = inputs(4, 3, 3, images=1)
    assert_equal(triton_attention(*leaves, Window(3)), shifted_attention(*leaves, Window(3)), leaves)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "height", "width"), CASES, ids=str)
def test_triton_has_them_for_every_window_and_layout(
    window: Window, height: int, width: int, triton_attention: Callable[..., Tensor]
) -> None:
    images = 1 if window.kernel == 7 else 2  # the interpreter takes a minute for two
    leaves = inputs(5, height, width, channels_last=height != width, images=images)
    assert_equal(triton_attention(*leaves, window), shifted_attention(*leaves, window), leaves)


@pytest.mark.slow
@pytest.mark.parametrize("d", [40, 70])
def test_triton_has_them_with_more_channels_in_smaller_tiles(d: int, triton_attention: Callable[..., Tensor]) -> None:
    leaves, window = inputs(d, 2, 9, images=1), Window(3)
    assert_equal(triton_attention(*leaves, window), shifted_attention(*leaves, window), leaves)


@pytest.mark.slow
def test_triton_takes_projections_that_are_not_dense(triton_attention: Callable[..., Tensor]) -> None:
    whole, position = inputs(5, 3, 8)
    leaves, window = (whole[..., ::2], position[..., ::2]), Window(3)
    want = shifted_attention(*leaves, window)
    assert_equal(triton_attention(*leaves, window), want, (whole, position))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_triton_computes_half_precision_in_float32(dtype: torch.dtype, triton_attention: Callable[..., Tensor]) -> None:
    leaves, window = tuple(t.detach().to(dtype).requires_grad_() for t in inputs(8, 3, 4)), Window(3)
    exact = tuple(t.detach().float().requires_grad_() for t in leaves)
    got, want = triton_attention(*leaves, window), shifted_attention(*exact, window)
    g = torch.randn_like(got)
    pairs = [(got, want)]
    pairs += zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, exact, g.float()), strict=True)
    for a, b in pairs:
        assert a.dtype == dtype
        # Half a unit in the last place of the result, and sums in another order.
        eps = torch.finfo(dtype).eps
        assert (a.float() - b).abs().max() <= eps * b.abs().max()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from yolo_attn.kernels.candidates import neighborhood_triton as kernels

constants = dict(D=16, CHANNELS=16, K=7, STRIDE=1, DILATION=1, TILE_Y=8, TILE_X=8, MIRRORS_Y=1, MIRRORS_X=1)
for dtype, capability in (("fp16", 80), ("bf16", 90), ("fp32", 90), ("fp64", 90)):
    types = dict.fromkeys(("lse", "delta"), "*fp64" if dtype == "fp64" else "*fp32")
    types |= dict.fromkeys(("qkv", "position", "out", "g", "d_qkv"), "*" + dtype)
    for kernel in (kernels._forward, kernels._backward_queries, kernels._backward_keys):
        known = {k: v for k, v in {**constants, "DOUBLE": dtype == "fp64"}.items() if k in kernel.arg_names}
        kinds = {name: "constexpr" if name in known else types.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=kinds, constexprs=known)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
        print("compiled", kernel.__name__, dtype, len(made.asm["cubin"]) > 0)
"""


@pytest.mark.slow
def test_triton_compiles_to_machine_code_for_nvidia_gpus(tmp_path: Path, triton_attention: object) -> None:
    """By NVIDIA's assembler, which needs no GPU: compute capabilities 8.0 and 9.0, all dtypes."""
    text = python(COMPILE, cwd=tmp_path, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("compiled")] == ["True"] * 12


def test_flex_attention_has_the_values_of_the_plain_form() -> None:
    flexible_attention = pytest.importorskip("yolo_attn.kernels.candidates.neighborhood_flex").flexible_attention
    for window, height, width in CASES[2:4]:
        leaves = [t.detach() for t in inputs(16, height, width)]
        want = shifted_attention(*leaves, window)
        torch.testing.assert_close(flexible_attention(*leaves, window), want, atol=1e-5, rtol=1e-5)


def test_plain_operations_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(neighborhood_cuda.VARIABLE, raising=False)
    leaves = inputs(4, 5, 5)
    want = tiled_attention(*leaves, Window(3))
    assert torch.equal(neighborhood_cuda.chosen_attention(*leaves, Window(3)), want)


def test_the_environment_variable_chooses_a_candidate(
    monkeypatch: pytest.MonkeyPatch, triton_attention: Callable[..., Tensor]
) -> None:
    monkeypatch.setenv(neighborhood_cuda.VARIABLE, "triton")
    leaves = inputs(4, 2, 2, images=1)
    got = neighborhood_cuda.chosen_attention(*leaves, Window(3))
    assert type(got.grad_fn).__name__ == "_TritonAttentionBackward"
    monkeypatch.setenv(neighborhood_cuda.VARIABLE, "cudnn")
    with pytest.raises(ValueError, match="YOLO_ATTN_NEIGHBORHOOD=cudnn: no such candidate; it is one of tiled, shifts"):
        neighborhood_cuda.chosen_attention(*leaves, Window(3))
