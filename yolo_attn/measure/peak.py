"""Peak memory of one step as seen by the operating system, including the scratch memory of libraries.

A process that has imported all modules and computed nothing forks for every measurement. The fork runs a small step, so
that libraries are loaded; returns freed memory to the system; builds the real step with its inputs; and reports by how
much the resident memory rises while the step runs. glibc is configured to return large blocks as soon as they are
freed: by default it keeps some, and the amount differs by a third between processes. On CUDA, the statistics of
PyTorch's allocator are used instead, in the calling process.

`python -m yolo_attn.measure.peak` is that process. It reads one job per line from standard input, as JSON, and answers
each with one line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from .conditions import Conditions

#: Creates a step from a job: (job, small) -> step. A small one only has to load the same libraries.
Maker = Callable[[Mapping[str, Any], bool], Callable[[], object]]

#: Threshold in bytes above which every allocation has its own pages.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}


class PeakMeter:
    """Measures peak memory; a context manager that owns the measuring process.

    Args:
        conditions: Device, precision and threads of the steps.
        maker: "module:function", a `Maker`.
    """

    def __init__(self, conditions: Conditions, maker: str) -> None:
        self.conditions, self.maker = conditions, maker
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> PeakMeter:
        """Start the process, unless the device or the operating system does not allow the measurement."""
        if self.conditions.device.type == "cpu" and hasattr(os, "fork"):
            home = str(Path(__file__).resolve().parents[2])
            paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, self.maker],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **MALLOC},
            )
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self.process:
            self.process.communicate()

    def measure(self, job: Mapping[str, Any]) -> int | None:
        """Bytes by which memory rises during a step.

        Args:
            job: What the maker needs, as JSON values; the conditions are added.

        Returns:
            Bytes; None if they cannot be measured or the step failed.
        """
        job = {**job, **self.conditions.arguments}
        if self.conditions.device.type == "cuda":
            return _cuda_peak(_load(self.maker)(job, False), self.conditions)
        if self.process is None or self.process.poll() is not None:
            return None
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline() or "null")
        except (BrokenPipeError, ValueError):
            return None


def _load(maker: str) -> Maker:
    module, function = maker.split(":")
    return getattr(importlib.import_module(module), function)


def _cuda_peak(step: Callable[[], object], conditions: Conditions) -> int:
    step()
    conditions.wait()
    torch.cuda.reset_peak_memory_stats(conditions.device)
    before = torch.cuda.memory_allocated(conditions.device)
    step()
    conditions.wait()
    return torch.cuda.max_memory_allocated(conditions.device) - before


def serve(maker: str, jobs: TextIO, answers: TextIO) -> None:
    """Fork for every job and answer with the result of the fork.

    Args:
        maker: "module:function", a `Maker`.
        jobs: The stream of jobs.
        answers: The stream for the answers: bytes, or null.
    """
    make = _load(maker)
    for line in jobs:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.write(writer, str(_rise(make, json.loads(line))).encode())
                code = 0
            except BaseException:  # also SystemExit, which must not leave the fork
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as found:
            answer = found.read()
        os.waitpid(child, 0)
        print(answer or "null", file=answers, flush=True)


def _rise(make: Maker, job: Mapping[str, Any]) -> int:
    torch.set_num_threads(int(job["threads"]))
    make(job, True)()
    step = make(job, False)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that malloc keeps would hide the need of the step
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the high-water mark
    before = _high_water()
    step()
    return _high_water() - before


def _high_water() -> int:
    """Highest resident memory so far, in bytes."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


if __name__ == "__main__":
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries goes to standard error
    serve(sys.argv[1], sys.stdin, protocol)
