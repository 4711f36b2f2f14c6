"""Where cells run. An executor takes cells and says, later, what became of them; `work.work` does the rest."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ...commands.cli import UsageError
from ...measure.conditions import at_least
from ...registry import suggest
from ..store import Store
from ..work import work

#: Checks a word of the command line: (key, value) -> what the executor gets. Raises UsageError.
Reader = Callable[[str, str], Any]


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

    #: Words of the command line that only this executor knows.
    WORDS: ClassVar[dict[str, Reader]]

    @property
    def slots(self) -> int:
        """Cells that may be under way at once."""

    def submit(self, task: Task) -> None:
        """Begin a cell."""

    def poll(self) -> dict[str, dict[str, Any]]:
        """Cells that have ended since the last call, with what `work.work` returned; waits a moment at most."""

    def close(self) -> None:
        """End what is under way, and the executor."""


#: Name -> (module:class, what it needs to be installed, what it is for).
EXECUTORS = {
    "local": ("yolo_attn.detect.executors.local:Local", "", "this machine, one GPU for each cell"),
    "ray": ("yolo_attn.detect.executors.ray:Ray", "ray", "a Ray cluster"),
    "submitit": ("yolo_attn.detect.executors.submitit:Submitit", "submitit", "SLURM"),
}


def check(name: str) -> None:
    """Whether an executor exists and is installed.

    Raises:
        UsageError: It does not or is not.
    """
    if name not in EXECUTORS:
        raise UsageError(
            f"executor={name}: no such executor.{suggest(name, EXECUTORS)} There are: {', '.join(EXECUTORS)}."
        )
    needs = EXECUTORS[name][1]
    if needs and importlib.util.find_spec(needs) is None:
        raise UsageError(f"executor={name} needs {needs}: pip install 'yolo-attn[{needs}]'.")


def words() -> dict[str, str]:
    """Word that only one executor knows -> that executor."""
    return {word: name for name in EXECUTORS for word in _class(name).WORDS}


def read_words(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The words of an executor, checked.

    Args:
        name: Of `EXECUTORS`.
        given: All words of the command line.

    Raises:
        UsageError: One is wrong, or is another executor's.
    """
    for word, owner in words().items():
        if word in given and owner != name:
            raise UsageError(f"{word}= is a word of executor={owner}; this is executor={name}.")
    return {word: read(word, given[word]) for word, read in _class(name).WORDS.items() if word in given}


def text(key: str, value: str) -> str:
    """Any value."""
    return value


def whole(key: str, value: str) -> int:
    """A whole number of at least 1."""
    return at_least({key: value}, key, None)


def choice(*known: str) -> Reader:
    """One of some values."""

    def read(key: str, value: str) -> str:
        if value not in known:
            raise UsageError(f"{key}={value}: no such value.{suggest(value, known)} There are: {', '.join(known)}.")
        return value

    return read


def make(name: str, **words: Any) -> Executor:
    """An executor by name.

    Args:
        name: Of `EXECUTORS`.
        **words: jobs, device, threads, and what the executor takes beside.
    """
    return _class(name)(**words)


def _class(name: str) -> Any:
    """The class of an executor; its module imports what the executor needs no sooner than one is made."""
    module, kind = EXECUTORS[name][0].split(":")
    return getattr(importlib.import_module(module), kind)


def remote_cell(folder: str, id: str, job: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Do a cell on the machine that a cluster chose, as the task of that name; its GPU is the only one in sight."""
    return work(folder, id, job, {"OMP_NUM_THREADS": str(job["threads"])}, task=name)


def give_up(task: Task, name: str, reason: str) -> None:
    """Tell the results folder that a task's machine is gone, if the task had come as far as to own its cell."""
    store = Store(task.folder)
    attempt = store.attempt_of(task.id, name)
    if attempt is not None:
        store.give_up(attempt, reason)
