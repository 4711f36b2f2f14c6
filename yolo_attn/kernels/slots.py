"""Slots and kernels: which methods have a faster form, and when it is taken.

A block's method is the paper's mathematics. `@accelerated` above it declares a slot: a name, and a function that reads
the kernels' arguments (tensors, numbers, tuples) off the module. A kernel computes the same result from these arguments
in less time or memory; `@kernel` registers it for a slot and for one or several modes. A call takes the kernel of its
mode if there is one and `eligibility` finds nothing against it, and the method itself otherwise. Modes:

    cpu training, cpu inference    eager execution on the CPU, with and without gradients
    cuda training, cuda inference  the same on a CUDA device
    other                          eager execution on any other device
    compile                        torch.compile
    export                         torch.jit.trace, torch.onnx.export, torch.export

To add a kernel, add a file to this folder; no block changes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .eligibility import Ineligible, check_call, check_owner, check_tensors

CPU_TRAINING, CPU_INFERENCE = "cpu training", "cpu inference"
CUDA_TRAINING, CUDA_INFERENCE = "cuda training", "cuda inference"
OTHER, COMPILE, EXPORT = "other", "compile", "export"
MODES = (CPU_TRAINING, CPU_INFERENCE, CUDA_TRAINING, CUDA_INFERENCE, OTHER, COMPILE, EXPORT)

SINGLE = (torch.float32, torch.float64)
ANY_FLOAT = (*SINGLE, torch.float16, torch.bfloat16)

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Kernel:
    """A faster form of a slot's method.

    Attributes:
        run: The function; takes what the slot's `arguments` returns.
        dtypes: Dtypes of the first tensor that it can take.
        autocast: It may run under autocast, and with parameters of another dtype than the input.
        least: Elements of the first tensor (B C H W) from which on it was measured to be at least as fast.
        when: A further condition on the arguments.
    """

    run: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...] = SINGLE
    autocast: bool = False
    least: int = 0
    when: Callable[..., bool] | None = None


#: All kernels, by slot and mode.
KERNELS: dict[tuple[str, str], Kernel] = {}
#: Declared slots: name -> where.
SLOTS: dict[str, list[str]] = {}


def kernel(slot: str, *modes: str, **conditions: Any) -> Callable[[Method], Method]:
    """Register the function below as the kernel of a slot.

    Args:
        slot: Name of the slot.
        *modes: Members of `MODES` in which it is taken.
        **conditions: Further attributes of `Kernel`.

    Raises:
        ValueError: No such mode, or the slot has a kernel for it already.
    """

    def register(run: Method) -> Method:
        for mode in modes:
            if mode not in MODES:
                raise ValueError(f"{mode=} of kernel {slot!r} must be one of {', '.join(MODES)}")
            if (slot, mode) in KERNELS:
                raise ValueError(f"slot {slot!r} has a kernel for {mode=} already: {KERNELS[slot, mode].run}")
            KERNELS[slot, mode] = Kernel(run, **conditions)
        return run

    return register


def accelerated(slot: str, arguments: Callable[..., tuple[Any, ...]]) -> Callable[[Method], Method]:
    """Declare the method below as a slot: the kernels of that name may replace it.

    Args:
        slot: Name of the slot.
        arguments: Called with the method's own positional arguments, of which the first after `self` is a tensor or a
            list of tensors; returns the kernels' arguments. It takes them off the module with the functions of
            `eligibility`, which raise `Ineligible` where a part is watched, replaced or wrapped.
    """

    def declare(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: nn.Module, *inputs: Any) -> Any:
            x = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
            # A symbolic tracer such as torch.fx passes something else than a tensor.
            chosen = None if _disabled or not isinstance(x, Tensor) else KERNELS.get((slot, mode_of(x)))
            if chosen is not None:
                found = _arguments(chosen, call, arguments, self, x, inputs)
                if found is not None:
                    return chosen.run(*found)
            return method(self, *inputs)

        SLOTS.setdefault(slot, []).append(f"{method.__module__}.{method.__qualname__}")
        return call  # type: ignore[return-value]

    return declare


def _arguments(
    chosen: Kernel, call: Any, read: Callable[..., tuple[Any, ...]], self: nn.Module, x: Tensor, inputs: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """The kernel's arguments, or None where the kernel is not eligible."""
    eager = not _recorded()
    try:
        if eager:
            check_call(x, chosen)
        check_owner(self, call)
        found = read(self, *inputs)
        if eager:
            check_tensors(found, x, chosen)
    except Ineligible:
        return None
    return found if chosen.when is None or chosen.when(*found) else None


def mode_of(x: Tensor) -> str:
    """The mode of a call on `x`."""
    if torch.compiler.is_compiling():
        return EXPORT if _is_exporting() else COMPILE
    if torch.jit.is_tracing():
        return EXPORT
    device = x.device.type
    if device in ("cpu", "cuda"):
        return f"{device} {'training' if torch.is_grad_enabled() else 'inference'}"
    return OTHER


def _recorded() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _is_exporting() -> bool:
    # Older releases do not tell torch.export from torch.compile.
    known = getattr(torch.compiler, "is_exporting", None)
    return known is not None and known()


_disabled = int(os.environ.get("YOLO_ATTN_KERNELS", "1").strip().lower() in ("0", "false", "off", "no"))
_lock = threading.Lock()


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Take no kernel, in any thread, while this context lasts; so does the environment variable YOLO_ATTN_KERNELS=0.

    The plain path differs by rounding alone. It is needed for second derivatives.
    """
    global _disabled
    with _lock:
        _disabled += 1
    try:
        yield
    finally:
        with _lock:
            _disabled -= 1
