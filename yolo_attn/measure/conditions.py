"""The conditions of a measurement: device, precision, threads, memory layout, compiled or not."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Conditions:
    """The conditions that all measurements of a run share.

    Attributes:
        device: CPU or a CUDA device.
        dtype: float32, or the half precision of autocast; weights stay in float32, as in training.
        threads: Threads of PyTorch's CPU operators.
        channels_last: Weights and maps have the channels innermost in memory, as Ultralytics trains on CUDA.
        compiled: Modules are compiled by torch.compile.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int
    channels_last: bool = False
    compiled: bool = False

    @classmethod
    def of(
        cls,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int = 1,
        channels_last: bool = False,
        compiled: bool = False,
        **_: object,
    ) -> Conditions:
        """The conditions of these names.

        Args:
            device: "cpu", "cuda", "cuda:1" or, as Ultralytics writes it, "1".
            dtype: A key of `DTYPES`.
            threads: Threads of PyTorch's CPU operators.
            channels_last: Use that memory layout.
            compiled: Compile modules.
            **_: Ignored, so that the job of a peak meter can be passed.

        Raises:
            UsageError: There is no such device here, or no such precision.
        """
        if dtype not in DTYPES:
            raise UsageError(f"dtype={dtype}: no such precision; it is one of {', '.join(DTYPES)}.")
        return cls(read_device(device), DTYPES[dtype], threads, channels_last, compiled)

    @property
    def precision(self) -> str:
        """Name of the precision."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments with which `of` returns these conditions."""
        names = {"device": str(self.device), "dtype": self.precision, "threads": self.threads}
        return {**names, "channels_last": self.channels_last, "compiled": self.compiled}

    def file_name(self, bench: str) -> str:
        """Name of a result file, without suffix."""
        parts = [bench, device_name(self.device), self.precision]
        parts += ["channels-last"] * self.channels_last + ["compiled"] * self.compiled
        parts += [f"threads{self.threads}", f"torch{torch.__version__}"]
        return "-".join(re.sub(r"[^a-z0-9.+]+", "-", part.lower()).strip("-") for part in parts)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast for the half precisions, nothing for float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def place(self, value: Any) -> Any:
        """A module or a map on the device, in the memory layout."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return value.to(self.device, memory_format=layout)

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module as it is called: compiled, if that is wanted."""
        # Sizes are fixed during a measurement.
        return torch.compile(module, dynamic=False) if self.compiled else module  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the number of threads and the limit of compiled graphs, and restore them afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with contextlib.ExitStack() as stack:
                if self.compiled:
                    # Beyond the limit, 8 by default, further modules of a class would silently run uncompiled.
                    stack.enter_context(torch._dynamo.config.patch(cache_size_limit=1000))
                yield
        finally:
            torch.set_num_threads(before)


def busy() -> str:
    """The load of the machine, such as "load 1.8 on 2 cores", where it is too high for timing; "" where it is not."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    return f"load {load:.1f} on {cores} cores" if load > cores / 2 else ""


def read_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1" or, as Ultralytics writes it, "1".

    Raises:
        UsageError: There is no such device.
    """
    match = re.fullmatch(r"(?:cuda(?::(\d+))?|(\d+))", name)
    if name == "cpu":
        return torch.device("cpu")
    if not match:
        raise UsageError(f"device={name}: no such device; it is cpu, cuda or cuda:1.")
    index = int(match[1] or match[2] or 0)
    if not torch.cuda.is_available():
        raise UsageError(f"device={name}: PyTorch finds no CUDA device here; use device=cpu.")
    if index >= torch.cuda.device_count():
        raise UsageError(f"device={name}: there are {torch.cuda.device_count()} CUDA devices here, numbered from 0.")
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """Name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        name = found[1] if found else name
    return f"cpu {re.sub(r'[(](R|TM)[)]|@.*', '', name)}"
