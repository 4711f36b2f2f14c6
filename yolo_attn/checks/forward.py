"""Checks of the forward and backward pass: sizes, batches, precisions, memory layout."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .check import Check, require
from .subject import CHANNELS, Subject, build, inputs, run

#: Batch, height and width; a common size first, then from 1: all parities, sides below and above usual windows.
SIZES = (
    (1, 7, 5),
    *((1, 1, 1), (3, 1, 1), (1, 1, 2), (2, 2, 1), (1, 2, 2), (2, 1, 7), (1, 7, 1), (1, 3, 3), (3, 3, 4), (1, 4, 4)),
    *(
        (1, 3, 8),
        (2, 5, 6),
        (1, 7, 7),
        (1, 8, 5),
        (2, 8, 8),
        (1, 9, 7),
        (1, 1, 23),
        (1, 23, 1),
        (3, 10, 11),
        (1, 13, 9),
    ),
    *(
        (2, 12, 16),
        (1, 15, 14),
        (1, 16, 16),
        (1, 17, 20),
        (2, 19, 15),
        (1, 21, 22),
        (1, 23, 23),
        (1, 22, 3),
        (1, 38, 30),
    ),
)
#: float16 ends at 65504, so products and sums of such inputs overflow unless they are scaled first.
LARGE = 100.0


def equal(got: Tensor, want: Tensor, what: str, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    """Require that two results agree within rounding."""
    require(got.shape == want.shape, f"{what}: the shape is {tuple(got.shape)} instead of {tuple(want.shape)}")
    if not torch.allclose(got, want, atol=atol, rtol=rtol):
        require(False, f"{what}: results differ by up to {float((got - want).abs().max()):.2g}")


def _output(s: Subject) -> None:
    y = run(s.block, build(s.block).eval(), inputs(s.block, 1, 16, 16))
    if isinstance(y, (list, tuple, dict)):
        require(False, f"forward returns a {type(y).__name__} of {len(y)}; a row returns one tensor")
    require(isinstance(y, Tensor), f"forward returns {type(y).__name__}; a row returns one tensor")
    require(y.dim() == 4, f"the output has the shape {tuple(y.shape)}; a row returns (B, C, H, W)")
    want = (1, CHANNELS, -(-16 // s.block.stride), -(-16 // s.block.stride))
    require(y.shape == want, f"(1, {CHANNELS}, 16, 16) becomes {tuple(y.shape)}; the declaration promises {want}")


def _any_size(s: Subject) -> None:
    module = build(s.block).eval()
    for b, h, w in SIZES:
        with torch.no_grad():
            y = run(s.block, module, inputs(s.block, b, h, w))
        want = (b, CHANNELS, -(-h // s.block.stride), -(-w // s.block.stride))
        require(y.shape == want, f"a map of {h}x{w} becomes {tuple(y.shape)} instead of {want}")
        require(y.isfinite().all(), f"a map of {h}x{w} gives NaN or Inf")


def _single_image(s: Subject) -> None:
    module = build(s.block).train()
    for h, w in ((1, 1), (7, 5)):
        xs = inputs(s.block, 1, h, w, grad=True)
        run(s.block, module, xs).square().mean().backward()
        for x in xs:
            require(x.grad is not None, f"no gradient reaches the input of {h}x{w}")
            require(x.grad is not None and x.grad.isfinite().all(), f"the gradient of {h}x{w} is NaN or Inf")


def _gradients(s: Subject) -> None:
    module = build(s.block).train()
    run(s.block, module, inputs(s.block, 2, 12, 14, grad=True)).square().mean().backward()
    dead = [k for k, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    require(not dead, f"no gradient reaches {', '.join(dead)}")


def _independent(s: Subject) -> None:
    module = build(s.block).eval()
    xs = inputs(s.block, 3, 9, 11)
    with torch.no_grad():
        together = run(s.block, module, xs)
        alone = torch.cat([run(s.block, module, [x[i : i + 1] for x in xs]) for i in range(3)])
    equal(together, alone, "images alone and in a batch")


def _half(s: Subject) -> None:
    module = build(s.block).eval()
    xs = inputs(s.block, 2, 10, 12, scale=LARGE)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        require(run(s.block, module, xs).isfinite().all(), "NaN or Inf under float16 autocast")
    half = copy.deepcopy(module).half()
    for kind, given in (("large values", xs), ("zeros", [torch.zeros_like(x) for x in xs])):
        with torch.no_grad():
            y = run(s.block, half, [x.half() for x in given])
        require(y.dtype == torch.float16, f"after .half() the output is {y.dtype}; the next layer expects float16")
        require(y.isfinite().all(), f"NaN or Inf after .half(), for {kind}")


def _bfloat16(s: Subject) -> None:
    module = build(s.block).train()
    with torch.autocast("cpu", torch.bfloat16):
        y = run(s.block, module, inputs(s.block, 2, 10, 12, scale=LARGE, grad=True))
    require(y.isfinite().all(), "NaN or Inf under bfloat16 autocast")
    y.float().square().mean().backward()
    bad = [k for k, p in module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    require(not bad, f"NaN or Inf in the gradients of {', '.join(bad)}")


def _channels_last(s: Subject) -> None:
    module = build(s.block).eval()
    xs = inputs(s.block, 2, 9, 12)
    last = torch.channels_last
    with torch.no_grad():
        want = run(s.block, module, xs)
        moved = copy.deepcopy(module).to(memory_format=last)
        got = run(s.block, moved, [x.contiguous(memory_format=last) for x in xs])
    equal(got, want, "channels_last and the default layout")


OUTPUT = Check(
    "output",
    "returns one tensor (B, C, H, W)",
    "parse_model connects rows by single tensors; a list, a tuple or another shape breaks the next row.",
    "Return the map alone; a forward hook on a submodule can read attention weights.",
    _output,
    essential=True,
)
ANY_SIZE = Check(
    "any_size",
    "any height and width of at least 1",
    "Validation uses rectangular batches, and prediction any image size, so a fixed size fails only after training.",
    "Read sizes from x.shape in forward; pad to a multiple of a window and crop afterwards.",
    _any_size,
)
SINGLE_IMAGE = Check(
    "single_image",
    "one image in train mode, also on a 1x1 map",
    "The last batch of an epoch can hold one image; BatchNorm on a pooled 1x1 map then raises an error.",
    "Do not place BatchNorm behind a global pooling; use GroupNorm, LayerNorm or no norm there.",
    _single_image,
)
GRADIENTS = Check(
    "gradients",
    "every parameter gets a gradient",
    "Unused parameters stop DDP training on several GPUs and stay at their random values.",
    "Use the parameters in forward or remove them; do not detach or round values that depend on them.",
    _gradients,
)
INDEPENDENT = Check(
    "independent",
    "in eval mode an image's result does not depend on its batch",
    "mAP then depends on the batch size of the validation.",
    "Reduce over dimensions 1 to 3 only, never over dimension 0.",
    _independent,
)
HALF = Check(
    "half",
    "finite in float16, under autocast and after .half()",
    "Training on a GPU uses float16 autocast, and validation .half(); NaN gives zero metrics.",
    "Scale before multiplying, (q * scale) @ k; take sums of squares and softmax in float32; use an eps of at least "
    "1e-6 in float32; create constants with the dtype and device of x.",
    _half,
)
BFLOAT16 = Check(
    "bfloat16",
    "finite under bfloat16 autocast, forward and backward",
    "bfloat16 autocast is the usual precision on CPUs and recent GPUs.",
    "Do not mix dtypes in matrix products; cast constants to the dtype of x.",
    _bfloat16,
)
CHANNELS_LAST = Check(
    "channels_last",
    "equal results in channels_last layout",
    "Exporters and fast CPU inference use this layout; .view() fails there or reads values in another order.",
    "Use reshape or flatten instead of view.",
    _channels_last,
)
