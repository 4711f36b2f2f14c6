"""Peak memory of one step, as the operating system sees it: what a user needs, scratch space of libraries included.

A process that has imported everything and computed nothing forks for every measurement. The fork runs a small step, so
that libraries are loaded; gives freed memory back to the system; builds the real step with its inputs; and reports how
far the process's resident memory rises above that while the step runs. glibc is told to return large blocks as soon as
they are freed: by default it keeps some, and how many differs by a third from process to process. On CUDA, PyTorch's
allocator keeps the books instead, in the calling process.

`python -m yolo_attn.measure.peak` is that process. It reads jobs from standard input, a JSON object a line, and answers
with a line of JSON each.
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

#: Makes a step from a job: (job, small) -> step. A small one only has to load the same libraries.
Maker = Callable[[Mapping[str, Any], bool], Callable[[], object]]

#: A fixed threshold, in bytes, above which every allocation has pages of its own.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}


class PeakMeter:
    """Measures peaks; a context manager, for the process that it keeps.

    Args:
        conditions: Device, precision and threads of the steps.
        maker: "module:function", a `Maker`.
    """

    def __init__(self, conditions: Conditions, maker: str) -> None:
        self.conditions, self.maker = conditions, maker
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> PeakMeter:
        """Start the process, unless the device or the system makes it useless."""
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
            job: What the maker needs, in terms of JSON; the conditions are added.

        Returns:
            Bytes; None where they cannot be measured or the step failed.
        """
        job = {**job, **self.conditions.words}
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
    """Fork for every job, answer with what the fork found.

    Args:
        maker: "module:function", a `Maker`.
        jobs: Where they are read from.
        answers: Where bytes, or null, are written to.
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
            except BaseException:  # also what would end the fork by another door
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
        ctypes.CDLL(None).malloc_trim(0)  # free memory that malloc holds would hide what the step needs
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again
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
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    serve(sys.argv[1], sys.stdin, protocol)
