"""Where and how a bench runs: device, precision, threads; and the words of its command line."""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..commands.cli import UsageError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Conditions:
    """What all measurements of a run share.

    Attributes:
        device: CPU or a CUDA device.
        dtype: float32, or a half precision, which stands for autocast: weights stay in float32, as in training.
        threads: Threads of PyTorch's CPU operators.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int

    @property
    def precision(self) -> str:
        """The precision's name."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def words(self) -> dict[str, str]:
        """The command-line words for these conditions."""
        return {"device": str(self.device), "dtype": self.precision, "threads": str(self.threads)}

    def file_name(self, bench: str) -> str:
        """Name of a result, without ending: what was measured, on what, how."""
        parts = (bench, device_name(self.device), self.precision, f"threads{self.threads}", f"torch{torch.__version__}")
        return "-".join(re.sub(r"[^a-z0-9.+]+", "-", part.lower()).strip("-") for part in parts)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast for half precisions, nothing for float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set the number of threads, and put it back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def read_conditions(given: Mapping[str, str], threads: int = 1) -> Conditions:
    """The conditions that `device=`, `dtype=` and `threads=` ask for.

    Args:
        given: Words of the command line.
        threads: Their number where none is given.

    Raises:
        UsageError: No such device here, no such precision, or no threads.
    """
    return Conditions(
        read_device(given.get("device", "cpu")),
        read_dtype(given.get("dtype", "float32")),
        at_least(given, "threads", threads),
    )


def read_device(word: str) -> torch.device:
    """The device meant by "cpu", "cuda", "cuda:1" or, as Ultralytics writes it, "1".

    Raises:
        UsageError: There is no such device.
    """
    match = re.fullmatch(r"(?:cuda(?::(\d+))?|(\d+))", word)
    if word == "cpu":
        return torch.device("cpu")
    if not match:
        raise UsageError(f"device={word}: no such device; it is cpu, cuda or cuda:1.")
    index = int(match[1] or match[2] or 0)
    if not torch.cuda.is_available():
        raise UsageError(f"device={word}: PyTorch finds no CUDA device here; device=cpu works everywhere.")
    if index >= torch.cuda.device_count():
        raise UsageError(f"device={word}: there are {torch.cuda.device_count()} CUDA devices here, counted from 0.")
    return torch.device("cuda", index)


def read_dtype(word: str) -> torch.dtype:
    """The precision of that name.

    Raises:
        UsageError: There is none.
    """
    if word not in DTYPES:
        raise UsageError(f"dtype={word}: no such precision; it is one of {', '.join(DTYPES)}.")
    return DTYPES[word]


def at_least(given: Mapping[str, str], key: str, default: Any, least: int = 1) -> Any:
    """A whole number of at least `least`, or the default where the word is missing.

    Raises:
        UsageError: It is no such number.
    """
    if key not in given:
        return default
    if not given[key].isascii() or not given[key].isdigit() or int(given[key]) < least:
        raise UsageError(f"{key}={given[key]} must be a whole number of at least {least}.")
    return int(given[key])


def read_folder(given: Mapping[str, str]) -> Path:
    """The folder for results, made where it is missing; runs/bench by default.

    Raises:
        UsageError: It cannot be one.
    """
    folder = Path(given.get("out") or "runs/bench")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"out={folder}: {e.strerror}.") from e
    return folder


def device_name(device: torch.device) -> str:
    """The processor's or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        name = found[1] if found else name
    return f"cpu {re.sub(r'[(](R|TM)[)]|@.*', '', name)}"
