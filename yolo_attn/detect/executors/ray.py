"""Runs on a Ray cluster: each is a Ray task that reserves CPUs, and a GPU where the cluster has any.

Every machine needs the same Python environment with this package, and the dataset and the starting weights under the
same paths. A run works in a temporary folder of its machine; its outcome and its log return to the driver, which alone
writes the results folder. Ray queues the runs, and repeats those whose machine or worker is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..store import FAILED, write_json
from ..work import STOPPED, End, train

#: How often a run is started in all where machines are lost; seconds that cancelled runs have to clean up; most runs in
#: the queue of Ray, for each of them holds a lock.
TRIES, GRACE, QUEUE = 3, 15.0, 256


class Board:
    """A Ray actor on the driver's machine: how often runs were started, and how far they are."""

    def __init__(self) -> None:
        self.starts: dict[str, int] = {}
        self.progress: dict[str, dict[str, Any]] = {}

    def start(self, id: str) -> int:
        """Count a start of a run; returns the number so far."""
        self.starts[id] = self.starts.get(id, 0) + 1
        return self.starts[id]

    def report(self, id: str, progress: dict[str, Any]) -> None:
        """Note the progress of a run."""
        self.progress[id] = progress

    def news(self) -> dict[str, dict[str, Any]]:
        """Progress since the last call."""
        news, self.progress = self.progress, {}
        return news


def remote_run(job: Mapping[str, Any], id: str, device: str, threads: int, board: Any) -> End:
    """Execute a run on the machine that Ray chose; its GPU is the only visible one."""
    import ray

    # Ray counts losses of machines itself, but repeats a task without end where its worker was killed to free memory.
    if ray.get(board.start.remote(id)) > TRIES:
        return End(FAILED, f"its worker was lost {TRIES} times, most likely because memory ran out")
    with tempfile.TemporaryDirectory(prefix="yolo-attn-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        end = train(job, folder, device, threads, lambda progress: board.report.remote(id, progress))
        kept = [f for f in [folder / "log.txt", *folder.glob("train/weights/best.pt")] if f.exists()]
        return replace(end, files={f.relative_to(folder).as_posix(): f.read_bytes() for f in kept})


class Ray:
    """Executes runs as tasks of a Ray cluster.

    Args:
        jobs: Runs at a time; None for as many as the cluster has room for.
        device: cpu for runs without GPU; None for one GPU each where the cluster has any.
        threads: CPU threads of a run, which Ray reserves; None for a share of the smallest machine that can execute
            one: one run for each GPU, or for each machine where there are no GPUs.
        ray_address: The cluster's; None for the one that RAY_ADDRESS names, or one that runs on this machine, or else a
            new one of this machine alone, which ends with this process.

    Raises:
        UsageError: No such cluster, or none of its machines has room for a run.
    """

    def __init__(
        self, jobs: int | None, device: str | None, threads: int | None, ray_address: str | None = None
    ) -> None:
        self._ray: Any = _connect(ray_address)
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = 0 if device == "cpu" or not any(m.get("GPU") for m in machines) else 1
        self.threads = threads or share(machines, gpus, jobs)
        most = max((int(m.get("CPU", 0)) for m in machines if m.get("GPU", 0) >= gpus), default=0)
        if self.threads > most:
            self._ray.shutdown()
            raise UsageError(
                f"threads={self.threads}: no machine of the Ray cluster has so many CPUs"
                f"{' and a GPU' if gpus else ''}; the largest has {most}."
            )
        self.slots = jobs or QUEUE
        self._device = "" if gpus else "cpu"
        self._tasks: dict[Any, tuple[str, Path]] = {}  # reference -> cell, folder of the attempt
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = self._ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
        # SPREAD, for two runs on one machine slow each other down before it is full.
        needs = {"num_cpus": self.threads, "num_gpus": gpus, "max_retries": TRIES - 1, "scheduling_strategy": "SPREAD"}
        self._run = self._ray.remote(**needs)(remote_run)

    def submit(self, id: str, job: dict[str, Any], folder: Path) -> None:
        """Queue a run."""
        self._tasks[self._run.remote(job, id, self._device, self.threads, self._board)] = id, folder

    def poll(self) -> dict[str, End]:
        """The next run that ends."""
        if not self._tasks:
            time.sleep(0.5)
        with contextlib.suppress(self._ray.exceptions.RayError):
            news = self._ray.get(self._board.news.remote())
            for id, folder in self._tasks.values():
                if id in news:
                    write_json(folder / "progress.json", news[id])
        ended, _ = self._ray.wait(list(self._tasks), timeout=0.5) if self._tasks else ([], [])
        return dict(self._end(ref, *self._tasks.pop(ref)) for ref in ended)

    def _end(self, ref: Any, id: str, folder: Path) -> tuple[str, End]:
        """How a run ended; writes its files."""
        errors = self._ray.exceptions
        try:
            end: End = self._ray.get(ref)
        except errors.TaskCancelledError:
            return id, End(STOPPED)
        except errors.RayTaskError as e:  # `train` reports a run's own errors: that machine cannot execute any
            return id, End(FAILED, f"Ray: {_line(getattr(e, 'cause', None) or e)}")
        except errors.RayError as e:
            return id, End(FAILED, f"its machine was lost {TRIES} times; Ray: {_line(e)}")
        for name, content in end.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return id, end

    def close(self) -> None:
        """Cancel all runs and leave the cluster."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            for ref in self._tasks:
                self._ray.cancel(ref)  # KeyboardInterrupt in `train`, which ends its process
            if self._tasks:
                self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=GRACE)
        self._ray.shutdown()  # ends the workers of what is still running


def _connect(address: str | None) -> Any:
    """Join a cluster, or start one; returns the package ray.

    Raises:
        UsageError: The cluster does not answer, or refuses.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a benchmark reports to its user only
    import ray

    named = address or os.environ.get("RAY_ADDRESS", "")
    scheme, _, place = named.rpartition("://")
    if named not in ("", "auto", "local") and scheme in ("", "ray") and not _answers(place):
        # Ray itself would try for a quarter of an hour.
        raise UsageError(
            f"{'ray_address' if address else 'RAY_ADDRESS'}={named}: nothing answers there; host:port is needed."
        )
    if not named:  # Ray remembers the cluster that was last started here, also after it has ended
        file = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
        named = "auto" if file.is_file() and _answers(file.read_text(encoding="utf-8").strip()) else "local"
    if named == "local" and not os.environ.get("RAY_AUTH_MODE"):  # otherwise Ray leaves a token in the user's home
        os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    try:
        ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as e:  # RuntimeError: another version of Ray or Python
        token = "InvalidAuthToken" in f"{e} {e.__cause__}"
        why = "this Ray cluster requires its token; set RAY_AUTH_MODE=token." if token else _line(e)
        raise UsageError(f"executor=ray, {named}: {why}") from e
    return ray


def _answers(place: str) -> bool:
    """Whether a process listens at host:port."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError, ValueError):
        return False
    return True


def share(machines: list[dict[str, float]], gpus: int, jobs: int | None) -> int:
    """CPU threads of a run, one number for all runs, because results depend on it."""
    good = [m for m in machines if m.get("CPU", 0) >= 1 and m.get("GPU", 0) >= gpus]
    least = min((m["CPU"] // m["GPU"] if gpus else m["CPU"] for m in good), default=1)
    if jobs and jobs > len(good) and not gpus:
        least = min(least, sum(m["CPU"] for m in good) // jobs)
    return max(int(least), 1)


def _line(e: BaseException) -> str:
    """The kind and first sentence of an error; Ray's messages continue with addresses and where to look for logs."""
    return f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0].split('. ')[0][:300]}"
