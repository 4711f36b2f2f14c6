"""Cells on a Ray cluster: each is a Ray task that takes its CPUs, and a GPU where the cluster has GPUs.

Every machine of the cluster needs the same Python environment with this package in it, and must see the results folder,
the dataset and the starting weights under the same paths, as on a shared file system. Nothing is shipped to it.

Ray itself tries nothing again. A cell whose machine dies comes back as lost, and the run hands it out anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar

from ...commands.cli import UsageError
from ..store import LOST
from ..work import STOPPED
from . import Reader, Task, give_up, remote_cell, text

#: Seconds that a look at the cluster's machines is good for, and that ended cells have to clean up.
FRESH, GRACE = 3.0, 15.0
#: Bytes of the store of a cluster that the run starts for itself; cells pass nothing through it.
STORE = 100 * 2**20
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class Ray:
    """Runs cells as tasks of a Ray cluster.

    Args:
        jobs: Cells at a time; None for as many as the cluster has room for.
        device: cpu for cells that use no GPU; None for one GPU each where the cluster has any.
        threads: CPU threads of a cell, which Ray reserves; None for a share of the smallest machine that is good for a
            cell: one cell for each GPU, or for each machine where there are no GPUs.
        ray_address: The cluster's; None for the one that RAY_ADDRESS names, or one that runs on this machine, or else a
            new one of this machine alone, which ends with the run.

    Raises:
        UsageError: No such cluster, or no machine of it has room for a cell.
    """

    WORDS: ClassVar[dict[str, Reader]] = {"ray_address": text}

    def __init__(
        self,
        jobs: int | None = None,
        device: str | None = None,
        threads: int | None = None,
        ray_address: str | None = None,
    ) -> None:
        if device not in (None, "cpu"):
            raise UsageError(f"device={device}: Ray gives each cell its GPU; device=cpu is for cells without.")
        _check(ray_address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a benchmark reports to its user only
        import ray

        self._ray: Any = ray
        self._jobs, self._said = jobs, False
        self._under_way: dict[Any, tuple[Task, str]] = {}
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray_address)
        try:
            machines = self._machines()
            self.gpus = 0 if device == "cpu" or not any(m.get("GPU") for m in machines) else 1
            self.threads = threads or _share(machines, self.gpus, jobs)
            if not self._room(machines):
                most = max((int(m.get("CPU", 0)) for m in machines if m.get("GPU", 0) >= self.gpus), default=0)
                raise UsageError(
                    f"threads={self.threads}: no machine of the Ray cluster has so many CPUs"
                    f"{' and a GPU' if self.gpus else ''}; the largest has {most}."
                )
        except BaseException:
            self.close()
            raise
        self._looked, self._slots = 0.0, 0
        resources = {"num_cpus": self.threads, "num_gpus": self.gpus}
        # Spread, for two cells beside each other slow each other down before the machine is full.
        self._cell = self._ray.remote(**resources, max_retries=0, scheduling_strategy="SPREAD")(remote_cell)

    @property
    def slots(self) -> int:
        """Cells that may be under way at once; machines may come and go."""
        if time.monotonic() - self._looked > FRESH:
            room = self._room(self._machines())
            self._slots = min(room, self._jobs or room)
            self._looked = time.monotonic()
            if not room and not self._said:
                needs = f"{self.threads} CPUs{' and a GPU' if self.gpus else ''}"
                print(f"waiting for a machine with {needs} to join the Ray cluster", file=sys.stderr)
            self._said = not room
        return self._slots

    def _machines(self) -> list[dict[str, float]]:
        """What each machine has."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self, machines: list[dict[str, float]]) -> int:
        """Cells that the machines have room for."""
        return sum(
            int(min(m.get("CPU", 0) // self.threads, m.get("GPU", 0) if self.gpus else float("inf"))) for m in machines
        )

    def submit(self, task: Task) -> None:
        """Begin a cell."""
        name = uuid.uuid4().hex
        job = {**task.job, "device": "0" if self.gpus else "cpu", "threads": self.threads}
        self._under_way[self._cell.remote(task.folder, task.id, job, name)] = task, name

    def poll(self) -> dict[str, dict[str, Any]]:
        """Cells that have ended."""
        if not self._under_way:
            time.sleep(0.5)
            return {}
        ended, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=0.5)
        if ended:
            ended, _ = self._ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
        return {self._under_way[ref][0].id: self._found(ref, *self._under_way.pop(ref)) for ref in ended}

    def _found(self, ref: Any, task: Task, name: str) -> dict[str, Any]:
        """What became of a cell."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.TaskCancelledError:
            return {"state": STOPPED}
        except errors.RayTaskError as e:  # `work` reports what a cell does: this is a machine that cannot run it
            cause = getattr(e, "cause", None) or e
            return {"state": "failed", "reason": f"Ray: {type(cause).__name__}: {_line(cause)}"}
        except errors.RayError as e:
            reason = f"Ray: {type(e).__name__}: {_line(e)}"
            give_up(task, name, reason)
            return {"state": LOST, "reason": reason}

    def close(self) -> None:
        """Stop what is under way and give it back."""
        try:
            for ref in self._under_way:
                self._ray.cancel(ref)  # KeyboardInterrupt in `work`, which ends its cell and releases it
            if self._under_way:
                refs = list(self._under_way)
                _, still = self._ray.wait(refs, num_returns=len(refs), timeout=GRACE)
                for ref in still:
                    self._ray.cancel(ref, force=True)
                    give_up(*self._under_way[ref], "Ray: stopped with the run")
        except self._ray.exceptions.RayError as e:
            print(f"Ray: {_line(e)}", file=sys.stderr)
        finally:
            self._under_way.clear()
            if self._own:
                self._ray.shutdown()


def _check(address: str | None) -> None:
    """Whether a cluster that the user named answers; Ray itself would try for a quarter of an hour.

    Raises:
        UsageError: It does not.
    """
    named = address or os.environ.get("RAY_ADDRESS", "")
    scheme, _, place = named.rpartition("://")
    if named in ("", "auto", "local") or scheme not in ("", "ray"):
        return
    word = "ray_address" if address else "RAY_ADDRESS"
    if not re.fullmatch(r".+:\d+", place):
        raise UsageError(f"{word}={named} must be host:port, as `ray start --head` prints it.")
    if not _answers(place):
        raise UsageError(f"{word}={named}: nothing answers there.")


def _answers(place: str) -> bool:
    """Whether anybody listens at host:port."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError):
        return False
    return True


def _connect(address: str | None) -> None:
    """Join a cluster, or start one."""
    import ray

    named = address or os.environ.get("RAY_ADDRESS", "")
    try:
        if not named and not _is_stale():
            with contextlib.suppress(ConnectionError):
                ray.init(address="auto", **QUIET)
                return
        if named in ("", "local"):
            if not os.environ.get("RAY_AUTH_MODE"):  # else Ray leaves a token in the user's home, and asks for it later
                os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
            ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **QUIET)
        else:
            ray.init(address=named, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as e:  # RuntimeError: another version of Ray or Python
        if "InvalidAuthToken" in f"{e} {e.__cause__}":
            raise UsageError(f"{named}: this Ray cluster asks for its token; set RAY_AUTH_MODE=token.") from e
        raise UsageError(f"executor=ray, {named or 'on this machine'}: {_line(e)}") from e


def _is_stale() -> bool:
    """Whether the cluster that was last started on this machine ended without taking its address back."""
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    with contextlib.suppress(OSError):
        return not _answers(file.read_text(encoding="utf-8").strip())
    return False


def _share(machines: list[dict[str, float]], gpus: int, jobs: int | None) -> int:
    """CPU threads of a cell, one number for all cells, for results depend on it."""
    good = [m for m in machines if m.get("CPU", 0) >= 1 and m.get("GPU", 0) >= gpus]
    if not good:
        return 1
    least = min(m["CPU"] // m["GPU"] if gpus else m["CPU"] for m in good)
    cells = sum(int(m["GPU"]) if gpus else 1 for m in good)
    if jobs and jobs > cells and not gpus:
        least = min(least, sum(m["CPU"] for m in good) // jobs)
    return max(int(least), 1)


def _line(e: BaseException) -> str:
    """The first sentence of an error's message; what follows in Ray's are addresses and where to look for logs."""
    lines = str(e).strip().splitlines()
    return lines[0].split(". ")[0][:300] if lines else type(e).__name__
