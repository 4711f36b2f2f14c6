"""Cells on a SLURM cluster: each is a job of its own, by submitit.

The machines need this Python environment, the results folder, the dataset and the starting weights under the paths that
they have here, as a cluster's shared file system gives them.

Jobs are SLURM's: they go on where the run is killed, and the same command later waits for them. A job that SLURM
preempts and puts back into its queue is still under way; one that ends in any other way without having told what
became of its cell comes back as lost, and the run hands the cell out anew. A job that runs out of its time limit has
failed, for the next one would as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar

from ...commands.cli import UsageError
from ..store import LOST, Store
from . import Reader, Task, choice, give_up, remote_cell, text, whole

CLUSTERS = ("slurm", "local", "debug")
#: Where nothing else is said: jobs in the queue at once, minutes of a job, CPUs of a job.
QUEUED, MINUTES, CPUS = 16, 720, 4
#: Seconds for which a job may stay preempted before it is not coming back, and that cancelled jobs have to clean up.
BACK, GRACE = 120.0, 15.0
#: Seconds until a job that SLURM refused, being busy or at a limit of jobs, is offered again, and how often that is.
AGAIN, OFFERS = 60.0, 30


class Submitit:
    """Runs cells as jobs of SLURM.

    Args:
        jobs: Jobs in the queue at a time; None for `QUEUED`, or one where the cluster is this machine.
        device: cpu for jobs without a GPU; None for one GPU each, or none where the cluster is this machine.
        threads: CPU threads of a cell, which its job asks for; None for `CPUS`, or the cores of this machine divided by
            jobs where it is the cluster.
        submitit_cluster: slurm; or, to try things out, local (processes of this machine) or debug (this process).
        slurm_partition: The partition; None for the cluster's default.
        timeout_min: Time limit of a job in minutes.
        mem_gb: Memory of a job; None for the cluster's default.

    Raises:
        UsageError: There is no SLURM here, or a word does not fit it.
    """

    WORDS: ClassVar[dict[str, Reader]] = {
        "submitit_cluster": choice(*CLUSTERS),
        "slurm_partition": text,
        "timeout_min": whole,
        "mem_gb": whole,
    }

    def __init__(
        self,
        jobs: int | None = None,
        device: str | None = None,
        threads: int | None = None,
        submitit_cluster: str = "slurm",
        slurm_partition: str | None = None,
        timeout_min: int = MINUTES,
        mem_gb: int | None = None,
    ) -> None:
        if device not in (None, "cpu"):
            raise UsageError(f"device={device}: SLURM gives each job its GPU; device=cpu is for jobs without.")
        slurm = submitit_cluster == "slurm"
        for command in ("sbatch", "srun") if slurm else ():
            if shutil.which(command) is None:
                raise UsageError(f"executor=submitit: no {command} here. Run this on a machine that submits to SLURM.")
        if slurm_partition and not slurm:
            raise UsageError(
                f"slurm_partition={slurm_partition}: submitit_cluster={submitit_cluster} has no partitions."
            )
        self.cluster, self.minutes = submitit_cluster, timeout_min
        self.slots = 1 if submitit_cluster == "debug" else jobs or (QUEUED if slurm else 1)
        self.threads = threads or (CPUS if slurm else max((os.cpu_count() or 1) // self.slots, 1))
        self.gpus = int(slurm and device != "cpu")
        self._asked = {
            "name": "yolo-attn",
            "timeout_min": timeout_min,
            "cpus_per_task": self.threads,
            "gpus_per_node": self.gpus,
            "tasks_per_node": 1,
            "nodes": 1,
        }
        self._asked |= {k: v for k, v in {"mem_gb": mem_gb, "slurm_partition": slurm_partition}.items() if v}
        self._executor: Any = None
        self._under_way: dict[str, tuple[Task, str, Any]] = {}
        self._preempted: dict[str, float] = {}
        self._refused: dict[str, tuple[Task, int, float, str]] = {}

    def submit(self, task: Task) -> None:
        """Put a cell into the queue.

        Raises:
            UsageError: SLURM refuses the first one, so that it will refuse all.
        """
        first = self._executor is None
        reason = self._offer(task)
        if reason and first:
            raise UsageError(f"SLURM takes no job: {reason}")
        if reason:
            self._refused[task.id] = task, 1, time.monotonic() + AGAIN, reason

    def _offer(self, task: Task) -> str:
        """Why SLURM refuses a job; empty where it takes it."""
        import submitit

        job = {**task.job, "device": "0" if self.gpus else "cpu", "threads": self.threads}
        name = uuid.uuid4().hex
        try:
            if self._executor is None:
                self._executor = submitit.AutoExecutor(Path(task.folder) / "submitit", cluster=self.cluster)
                self._executor.update_parameters(**self._asked)
            self._under_way[task.id] = task, name, self._executor.submit(remote_cell, task.folder, task.id, job, name)
        except (
            submitit.core.utils.FailedSubmissionError,
            submitit.core.utils.UncompletedJobError,  # what sbatch says
            subprocess.CalledProcessError,
        ) as e:
            return " ".join(str(e).split())[:500] or type(e).__name__
        return ""

    def poll(self) -> dict[str, dict[str, Any]]:
        """Cells whose jobs have ended."""
        if self.cluster != "debug":
            time.sleep(0.5)
        found = self._offer_again()
        for id, (task, name, job) in list(self._under_way.items()):
            if self._ended(id, job):
                found[id] = self._found(task, name, job)
                del self._under_way[id]
        return found

    def _offer_again(self) -> dict[str, dict[str, Any]]:
        """Offer the jobs whose time has come; those offered too often are lost."""
        found = {}
        for id, (task, offers, at, reason) in list(self._refused.items()):
            if offers >= OFFERS:
                found[id] = {"state": LOST, "reason": f"SLURM takes no job: {reason}"}
                del self._refused[id]
            elif time.monotonic() > at:
                reason = self._offer(task)
                self._refused[id] = task, offers + 1, time.monotonic() + AGAIN, reason
                if not reason:
                    del self._refused[id]
        return found

    def _ended(self, id: str, job: Any) -> bool:
        """Whether a job has ended. submitit waits forever for one that was preempted and not put back."""
        if job.done():
            return True
        if "PREEMPTED" not in str(job.state):
            self._preempted.pop(id, None)
            return False
        return time.monotonic() - self._preempted.setdefault(id, time.monotonic()) > BACK

    def _found(self, task: Task, name: str, job: Any) -> dict[str, Any]:
        """What became of a cell."""
        state = str(job.state)
        if "PREEMPTED" not in state:
            error = job.exception()
            if error is None:
                return job.result()
            told = [line.strip() for line in str(error).splitlines() if "Error" in line or "Job" in line]
            where = f"; its log is {job.paths.stderr}"
            if "TIMEOUT" in state or "timed-out" in str(error):
                reason = f"over timeout_min={self.minutes}, or told to end shortly before{where}"
                attempt = Store(task.folder).attempt_of(task.id, name)
                if attempt is not None:
                    Store(task.folder).fail(attempt, reason)
                return {"state": "failed", "reason": reason}
            state = f"job {job.job_id} ended without an answer ({state}: {(told or [''])[-1][:200]}{where})"
        else:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                job.cancel(check=False)
            state = f"job {job.job_id} was preempted"
        give_up(task, name, state)
        return {"state": LOST, "reason": state}

    def close(self) -> None:
        """Cancel what is in the queue or under way."""
        for _, _, job in self._under_way.values():
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                job.cancel(check=False)
        end = time.monotonic() + GRACE
        for task, name, job in self._under_way.values():
            while self.cluster == "local" and not job.done() and time.monotonic() < end:
                time.sleep(0.2)
            give_up(task, name, "its job was cancelled with the run")
        self._under_way.clear()
