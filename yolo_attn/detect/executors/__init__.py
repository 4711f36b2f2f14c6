"""Where runs take place. An executor accepts runs and reports later how they ended; `work.train` does the rest."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..work import End

#: Name -> module:class. Each is created with jobs, device, threads, and the arguments that only it has.
EXECUTORS = {
    "local": "yolo_attn.detect.executors.local:Local",
    "ray": "yolo_attn.detect.executors.ray:Ray",
}


@dataclass(frozen=True)
class Task:
    """A run to do: the cell's id, what `Plan.job` returned, and the folder of the attempt on the driver's machine."""

    id: str
    job: dict[str, Any]
    folder: Path


class Executor(Protocol):
    """What the driver needs. `slots` is the number of runs that may be under way at once."""

    slots: int

    def submit(self, task: Task) -> None:
        """Start a run. Its progress goes to progress.json in its folder."""

    def poll(self) -> dict[str, End]:
        """Cell -> end of its run, for all runs that ended since the last call; waits half a second at most."""

    def close(self) -> None:
        """End all runs and the executor."""


def make(name: str, **arguments: Any) -> Executor:
    """An executor by its name in `EXECUTORS`, with its arguments."""
    module, kind = EXECUTORS[name].split(":")
    return getattr(importlib.import_module(module), kind)(**arguments)
