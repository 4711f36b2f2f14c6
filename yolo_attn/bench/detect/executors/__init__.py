"""Where cells run. An executor takes cells and says, later, what became of them; `work.work` does the rest."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ....cli import UsageError
from ....registry import suggest


@dataclass(frozen=True)
class Task:
    """A cell on its way.

    Attributes:
        folder: Results folder.
        id: The cell's.
        job: What `cell.train` needs; the executor sets device and threads.
    """

    folder: str
    id: str
    job: Mapping[str, Any] = field(hash=False)


class Executor(Protocol):
    """What the run loop needs."""

    #: Cells that may be under way at once.
    slots: int

    def submit(self, task: Task) -> None:
        """Begin a cell."""

    def poll(self) -> dict[str, dict[str, Any]]:
        """Cells that have ended since the last call, with what `work.work` returned; waits a moment at most."""

    def close(self) -> None:
        """End what is under way, and the executor."""


#: Name -> (module:class, what it needs to be installed, what it is for).
EXECUTORS = {
    "local": ("yolo_attn.bench.detect.executors.local:Local", "", "this machine, one GPU for each cell"),
    "ray": ("yolo_attn.bench.detect.executors.ray:Ray", "ray", "a Ray cluster"),
    "submitit": ("yolo_attn.bench.detect.executors.submitit:Submitit", "submitit", "SLURM"),
}


def check(name: str) -> None:
    """Whether an executor exists and is installed.

    Raises:
        UsageError: It does not or is not.
    """
    if name not in EXECUTORS:
        raise UsageError(f"executor={name}: no such executor.{suggest(name, EXECUTORS)} There are: {', '.join(EXECUTORS)}.")
    needs = EXECUTORS[name][1]
    if needs and importlib.util.find_spec(needs) is None:
        raise UsageError(f"executor={name} needs {needs}: pip install 'yolo-attn[{needs}]'.")


def make(name: str, **words: Any) -> Executor:
    """An executor by name.

    Args:
        name: Of `EXECUTORS`.
        **words: jobs, device, threads, and what the executor takes beside.
    """
    module, kind = EXECUTORS[name][0].split(":")
    return getattr(importlib.import_module(module), kind)(**words)
