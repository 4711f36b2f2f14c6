"""Cells of `bench detect` on clusters: a machine that dies in mid-run, SLURM's stand-in, two runners on one folder."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from jobs import clean_environment, tiny_dataset

import yolo_attn
from yolo_attn.commands.cli import UsageError
from yolo_attn.detect import executors, store
from yolo_attn.detect.executors import Task, local, submitit
from yolo_attn.detect.executors.submitit import Submitit
from yolo_attn.detect.store import DONE, LOST, OPEN, RUNNING, Store
from yolo_attn.detect.words import read_request
from yolo_attn.detect.work import work

#: Runs a matrix without writing its report, and says what became of it.
RUNNER = """
import json, signal, sys
from yolo_attn.bench.detect import executors
from yolo_attn.bench.detect.run import run
from yolo_attn.bench.detect.store import Store
from yolo_attn.bench.detect.words import read_request

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background passes on that it is ignored
request = read_request(sys.argv[1:])
store = Store(request.folder)
store.write_plan(request.plan)
executor = executors.make(request.executor, **request.resources)
tally = run(request.plan, store, executor, request.start, request.keep)
print(json.dumps({"done": tally.done, "ran": tally.ran, "failed": tally.failed, "interrupted": tally.interrupted}))
"""
#: Of Ray clusters. Where a user has a token in his home, Ray asks for it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}
#: Seconds after which something is surely wrong; the machine may be busy with other things.
PATIENCE = 600


# ---- words --------------------------------------------------------------------------------------------------------


def test_an_unknown_executor_is_named_with_its_neighbour() -> None:
    with pytest.raises(UsageError, match="executor=rai: no such executor. Did you mean ray"):
        executors.check("rai")


@pytest.mark.parametrize("name", ["ray", "submitit"])
def test_an_executor_that_is_not_installed_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == name else find(n, *a))
    with pytest.raises(UsageError, match=rf"pip install 'yolo-attn\[{name}\]'") as told:
        read_request(["models=yolov8n", "data=none.yaml", f"executor={name}"])
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "word", "owner"),
    [
        ("local", "ray_address=10.0.0.1:6379", "ray"),
        ("submitit", "ray_address=10.0.0.1:6379", "ray"),
        ("ray", "slurm_partition=gpu", "submitit"),
        ("local", "timeout_min=60", "submitit"),
    ],
)
def test_a_word_of_another_executor_is_refused(name: str, word: str, owner: str) -> None:
    key, value = word.split("=")
    with pytest.raises(UsageError, match=f"^{key}= is a word of executor={owner}; this is executor={name}.$"):
        executors.read_words(name, {key: value})


def test_words_of_an_executor_are_checked() -> None:
    assert executors.read_words("submitit", {"timeout_min": "90", "slurm_partition": "long", "jobs": "2"}) == {
        "timeout_min": 90,
        "slurm_partition": "long",
    }
    with pytest.raises(UsageError, match="mem_gb=lots must be a whole number"):
        executors.read_words("submitit", {"mem_gb": "lots"})
    with pytest.raises(UsageError, match="Did you mean slurm"):
        executors.read_words("submitit", {"submitit_cluster": "slum"})


def test_without_sbatch_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="no sbatch here"):
        Submitit()
    with pytest.raises(UsageError, match="submitit_cluster=local has no partitions"):
        Submitit(submitit_cluster="local", slurm_partition="gpu")
    with pytest.raises(UsageError, match="SLURM gives each job its GPU"):
        Submitit(submitit_cluster="local", device="0")


@pytest.mark.parametrize(
    ("words", "variable", "told"),
    [
        ({"ray_address": "127.0.0.1:1"}, "", "ray_address=127.0.0.1:1: nothing answers there."),
        ({}, "127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: nothing answers there."),
        ({"ray_address": "somewhere"}, "", "ray_address=somewhere must be host:port"),
        ({"device": "1"}, "", "device=1: Ray gives each cell its GPU"),
    ],
)
def test_a_ray_cluster_that_is_not_there_is_no_riddle(
    words: dict[str, str], variable: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(UsageError, match=told):
        executors.make("ray", **words)


MACHINES = {
    "two CPU machines": ([{"CPU": 8.0}, {"CPU": 4.0}], 0),
    "a head without CPUs": ([{"memory": 1.0}, {"CPU": 16.0, "GPU": 4.0}], 1),
    "GPUs beside a CPU machine": ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}], 1),
}


@pytest.mark.parametrize(
    ("machines", "jobs", "threads"),
    [
        ("two CPU machines", None, 4),  # one cell on each, as many threads as both have
        ("two CPU machines", 6, 2),
        ("two CPU machines", 1, 4),
        ("a head without CPUs", None, 4),
        ("GPUs beside a CPU machine", None, 4),
        ("GPUs beside a CPU machine", 100, 4),
    ],
)
def test_threads_of_a_ray_cell_are_its_share_of_the_smallest_machine(machines: str, jobs: int, threads: int) -> None:
    from yolo_attn.detect.executors.ray import _share

    assert _share(*MACHINES[machines], jobs) == threads


# ---- what is lost, and what is not --------------------------------------------------------------------------------


def claim_elsewhere(results: Store, id: str, task: str, monkeypatch: pytest.MonkeyPatch) -> store.Attempt:
    """An attempt at a cell by a process of another machine."""
    with monkeypatch.context() as m:
        m.setattr(store, "here", lambda: {"host": "far away", "pid": 1, "start": "0"})
        attempt = results.claim(id, task)
    assert attempt is not None
    return attempt


def silent_for(attempt: store.Attempt, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(attempt.path, (at, at))


@pytest.fixture
def results(tmp_path: Path) -> Store:
    (tmp_path / "cells").mkdir()
    return Store(tmp_path)


def test_an_attempt_given_up_is_lost_once_it_is_silent(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = claim_elsewhere(results, "c", "task", monkeypatch)
    silent_for(attempt, store.QUIET + 5)
    assert results.state("c").name == RUNNING, "a machine that nobody gave up may be slow"
    results.give_up(attempt, "the node is dead")
    assert results.state("c").name == LOST
    assert results.state("c").reason == "the node is dead"


def test_an_attempt_given_up_that_still_lives_is_left_alone(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = claim_elsewhere(results, "c", "task", monkeypatch)
    results.give_up(attempt, "the node is dead")
    assert results.claim("c") is None
    assert results.publish("c", {"values": {}})
    assert results.state("c").name == DONE


def test_giving_up_names_one_attempt_only(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim_elsewhere(results, "c", "one", monkeypatch)
    results.give_up(first, "the node is dead")
    silent_for(first, store.QUIET + 5)
    second = claim_elsewhere(results, "c", "two", monkeypatch)
    silent_for(second, store.QUIET + 5)
    assert results.state("c").name == RUNNING
    assert results.attempt_of("c", "one") is None, "the task of the first attempt has no say in the second"
    assert results.attempt_of("c", "two") == second
    assert results.attempt_of("none", "two") is None


def test_an_owner_that_was_overtaken_ends(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept comes back to a cell that somebody else has begun anew."""
    from yolo_attn.detect import work as module

    monkeypatch.setattr(module, "BEAT", 0.0)
    monkeypatch.setattr(module.sys, "executable", "/bin/cat")  # waits for the end of its input, as a cell would
    monkeypatch.setattr(module.subprocess, "Popen", overtaken_after_start(results, subprocess.Popen))
    assert work(str(results.folder), "c", {}) == {"state": "taken"}
    assert (results.cell("c") / "attempt-2").exists()


def overtaken_after_start(results: Store, popen: Any) -> Callable[..., Any]:
    def start(command: list[str], **words: Any) -> Any:
        (results.cell("c") / "attempt-2").mkdir()
        return popen([command[0]], **words)

    return start


def test_a_cell_whose_runner_is_told_to_end_is_free_again(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a cluster's worker lives on, so that the cell would seem to be running."""
    from yolo_attn.detect import work as module

    def told(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(module, "_run", told)
    with pytest.raises(SystemExit):
        work(str(results.folder), "c", {})
    assert results.state("c").name == OPEN


# ---- GPUs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("visible", "expected"), [("", ["0", "1"]), ("5,7", ["5", "7"])])
def test_each_local_cell_sees_one_gpu(
    visible: str, expected: list[str], results: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told: list[tuple[str, str]] = []

    def note(folder: str, id: str, job: Any, environment: Any, stop: Any) -> dict[str, Any]:
        told.append((environment["CUDA_VISIBLE_DEVICES"], job["device"]))
        return {"state": DONE}

    monkeypatch.setattr(local, "work", note)
    executor = local.Local()
    assert executor.slots == 2
    for id in "ab":
        executor.submit(Task(str(results.folder), id, {}))
    executor.close()
    assert sorted(told) == [(gpu, "0") for gpu in expected]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="device=0,1: there are 1 GPUs here"):
        local.Local(device="0,1")


# ---- submitit's answers -------------------------------------------------------------------------------------------


class FakeJob:
    """A job of SLURM that ended without a result."""

    job_id = "7"
    paths = SimpleNamespace(stderr="7_log.err")

    def __init__(self, state: str, error: str = "") -> None:
        self.state, self.error, self.cancelled = state, error, False

    def done(self) -> bool:
        return self.state != "PREEMPTED"  # as submitit does, which expects such a job back

    def exception(self) -> Exception | None:
        return RuntimeError(self.error)

    def cancel(self, check: bool = True) -> None:
        self.cancelled = True


def poll_one(results: Store, job: FakeJob, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    executor = Submitit(submitit_cluster="local", threads=1)
    claim_elsewhere(results, "c", "task", monkeypatch)
    executor._under_way["c"] = Task(str(results.folder), "c", {}), "task", job
    found = executor.poll()
    return found.get("c", {})


@pytest.mark.parametrize("state", ["NODE_FAIL", "CANCELLED by 0", "FAILED"])
def test_a_job_that_ended_without_an_answer_is_lost(
    state: str, results: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = poll_one(results, FakeJob(state, "Job 7 has not produced any output"), monkeypatch)
    assert found["state"] == LOST
    assert state in found["reason"]
    assert json.loads((results.cell("c") / "lost.json").read_text())["attempt"] == 1


def test_a_job_over_its_time_has_failed_and_says_so(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    error = "UncompletedJobError: Job not requeued because: timed-out and not checkpointable."
    found = poll_one(results, FakeJob("FAILED", error), monkeypatch)
    assert found["state"] == "failed"
    assert "timeout_min=" in found["reason"]
    assert results.state("c").reason == found["reason"]


def test_a_preempted_job_is_waited_for_and_then_lost(results: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert poll_one(results, FakeJob("PREEMPTED"), monkeypatch) == {}
    monkeypatch.setattr(submitit, "BACK", -1.0)
    job = FakeJob("PREEMPTED")
    executor = Submitit(submitit_cluster="local", threads=1)
    executor._under_way["c"] = Task(str(results.folder), "c", {}), "task", job
    assert executor.poll()["c"]["state"] == LOST
    assert job.cancelled, "should SLURM put it back after all, then it must not run"


def pretend_slurm(folder: Path, sbatch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of SLURM that do as they are told here."""
    for name, code in {"sbatch": sbatch, "srun": "", "sacct": "", "scancel": f"echo $1 >> {folder}/cancelled"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_slurm_is_asked_for_what_the_words_say(results: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_slurm(tmp_path, f"cp $1 {tmp_path}/asked; echo Submitted batch job 42", monkeypatch)
    words = {"timeout_min": "90", "slurm_partition": "long", "mem_gb": "12"}
    executor = executors.make("submitit", threads=3, **executors.read_words("submitit", words))
    executor.submit(Task(str(results.folder), "c", {}))
    assert executor.poll() == {}
    asked = (tmp_path / "asked").read_text()
    for line in ("--time=90", "--partition=long", "--mem=12GB", "--cpus-per-task=3", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in asked
    executor.close()
    assert (tmp_path / "cancelled").read_text() == "42\n"


def test_what_slurm_refuses_is_told_in_its_words(
    results: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_slurm(tmp_path, "echo 'sbatch: error: invalid partition specified: lon' >&2; exit 1", monkeypatch)
    executor = Submitit(slurm_partition="lon")
    with pytest.raises(UsageError, match="SLURM takes no job: .*invalid partition specified: lon"):
        executor.submit(Task(str(results.folder), "c", {}))


def test_a_slurm_at_its_limit_is_offered_the_job_again(
    results: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitit, "AGAIN", -1.0)
    monkeypatch.setattr(submitit, "OFFERS", 3)
    limit = f"test -e {tmp_path}/limit && echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2 && exit 1"
    pretend_slurm(tmp_path, f"{limit}; echo Submitted batch job 42; exit 0", monkeypatch)
    executor = Submitit()
    executor.submit(Task(str(results.folder), "a", {}))
    (tmp_path / "limit").touch()
    executor.submit(Task(str(results.folder), "b", {}))
    executor.submit(Task(str(results.folder), "c", {}))
    assert executor.poll() == {}
    (tmp_path / "limit").unlink()
    assert executor.poll() == {}
    assert list(executor._under_way) == ["a", "b", "c"]
    (tmp_path / "limit").touch()
    executor.submit(Task(str(results.folder), "d", {}))
    found = [executor.poll() for _ in range(3)][-1]
    assert found["d"]["state"] == LOST
    assert "QOSMaxSubmitJobPerUserLimit" in found["d"]["reason"]


# ---- real clusters ------------------------------------------------------------------------------------------------


def environment(**env: str) -> dict[str, str]:
    """Of runners and of machines: this package, wherever they run."""
    package = str(Path(yolo_attn.__file__).parents[1])
    paths = [p for p in (env.pop("first", ""), package) if p]
    return clean_environment(**{"PYTHONPATH": os.pathsep.join(paths), **TOKEN, **env})


class Runner:
    """A process that runs the matrix of these tests."""

    def __init__(self, folder: Path, data: str, *words: str) -> None:
        self.store = Store(folder)
        matrix = ["models=yolov8n,yolov8n-sam", "control=0", "seeds=2", "epochs=2", "imgsz=64", "batch=4", "threads=1"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, *matrix, f"data={data}", f"out={folder}", *words],
                cwd=folder.parent,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def end(self) -> dict[str, Any]:
        """What became of the run."""
        try:
            said, _ = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"no end: {self.log.read_text()[-3000:]}") from None
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
        return json.loads(said.splitlines()[-1])

    def stop(self) -> None:
        """End it whatever it does."""
        end_all(self.process)

    def attempts(self) -> list[Path]:
        """Attempts at all cells that have an owner."""
        return [p.parent for p in self.store.folder.glob("cells/*/attempt-*/owner.json")]

    def under_way(self) -> list[Path]:
        """Attempts whose cells have begun and have no outcome yet."""
        return [a for a in self.attempts() if size(a / "log.txt") and not (a / "outcome.json").exists()]


def size(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.stat().st_size
    return 0


def end_all(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(psutil.Error):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        psutil.wait_procs(family[1:], timeout=30)
    process.wait(timeout=30)


def until(what: Callable[[], Any], why: str, *processes: subprocess.Popen[Any]) -> Any:
    """Wait for something that these processes are to do."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        assert all(p.poll() is None for p in processes), f"a process ended before {why}"
        time.sleep(0.05)
    raise AssertionError(f"still waiting: {why}")


def owner(attempt: Path) -> dict[str, Any]:
    return json.loads((attempt / "owner.json").read_text())


def outcomes(results: Store) -> dict[str, Any]:
    """What each cell gave, without what differs between any two runs."""
    found = {}
    for cell in results.read_plan().cells:
        outcome = results.result(cell.id)
        assert outcome is not None, cell
        curves = {k: v for k, v in outcome["curves"].items() if k != "time"}
        same = {k: outcome[k] for k in ("values", "classes", "sizes", "samples", "order")}
        found[cell.id] = {**same, "curves": curves, "threads": outcome["machine"]["threads"]}
    return found


def check_attempts(results: Store) -> None:
    """Every cell has one result, from its last attempt, and every attempt before that is known to be over."""
    for cell in (results.folder / "cells").iterdir():
        files = sorted(f.name for f in cell.iterdir())
        assert sum(f.startswith("result.json") for f in files) == 1, files
        numbers = sorted(int(f.removeprefix("attempt-")) for f in files if f.startswith("attempt-"))
        assert numbers == list(range(1, len(numbers) + 1)), files
        done = [n for n in numbers if (cell / f"attempt-{n}" / "outcome.json").exists()]
        assert done == numbers[-1:], f"{cell}: outcomes of attempts {done} of {numbers}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    return tiny_dataset(place)


@pytest.fixture
def runners() -> Iterator[list[Runner]]:
    """Runners that a test starts; they end with it."""
    started: list[Runner] = []
    yield started
    for runner in started:
        runner.stop()


@pytest.fixture(scope="module")
def expected(place: Path, data: str) -> dict[str, Any]:
    """What the matrix gives on this machine, undisturbed."""
    runner = Runner(place / "local", data, "executor=local", "jobs=1")
    try:
        assert runner.end()["ran"] == 4
    finally:
        runner.stop()
    check_attempts(runner.store)
    return outcomes(runner.store)


class Cluster:
    """A Ray cluster whose machines are processes of this one, one CPU each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes, self.address = folder, [], ""
        head = self.add("--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}/r")
        self.address = until(lambda: self._address(head), "the address of a Ray cluster")

    def add(self, *words: str, **env: str) -> subprocess.Popen[Any]:
        """One more machine."""
        resources = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
        log = open(self.folder / f"node-{len(self.nodes)}.log", "w")  # noqa: SIM115  (the process's, which outlives this)
        node = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *resources, *words],
            cwd=self.folder,
            env=environment(**env),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.nodes.append(node)
        return node

    def _address(self, head: subprocess.Popen[Any]) -> str:
        assert head.poll() is None, (self.folder / "node-0.log").read_text()[-3000:]
        file = self.folder / "r" / "ray_current_cluster"
        return file.read_text().strip() if file.exists() else ""

    def raylet(self, node: subprocess.Popen[Any]) -> psutil.Process:
        """The process that is a machine's part of Ray."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(node.pid).children(recursive=True):
                if process.name() == "raylet":
                    return process
        raise AssertionError("no raylet")

    def close(self) -> None:
        """End all machines, and what outlived a machine."""
        for node in reversed(self.nodes):
            end_all(node)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder):
                    process.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    made = None
    folder = tmp_path_factory.mktemp("r")  # short: the paths of sockets in it may have 107 characters
    try:
        made = Cluster(folder)
        yield made
    finally:
        if made:
            made.close()


@pytest.mark.slow
def test_a_ray_node_killed_in_mid_run_changes_no_result(
    cluster: Cluster, place: Path, data: str, expected: dict[str, Any], runners: list[Runner]
) -> None:
    """The node to be killed has another host name: nothing can be known of its processes, as on another machine."""
    (place / "sitecustomize.py").write_text("import socket\nsocket.gethostname = lambda: 'far-away'\n")
    node = cluster.add(f"--address={cluster.address}", "--dashboard-agent-listen-port=0", first=str(place))
    runner = Runner(place / "ray", data, "executor=ray", f"ray_address={cluster.address}", "jobs=2")
    runners.append(runner)

    def far_away() -> list[Path]:
        return [a for a in runner.under_way() if owner(a)["host"].startswith("far-away")]

    victim = until(far_away, "a cell on the second node", runner.process, node)[0]
    process = psutil.Process(owner(victim)["pid"])
    cell = process.children()
    cluster.raylet(node).kill()
    tally = runner.end()

    assert tally == {"done": 4, "ran": 4, "failed": {}, "interrupted": False}
    assert outcomes(runner.store) == expected
    check_attempts(runner.store)
    assert not (victim / "outcome.json").exists(), "the cell was to be killed, and was done before"
    assert (victim.parent / "attempt-2" / "outcome.json").exists()
    assert json.loads((victim.parent / "lost.json").read_text())["attempt"] == 1
    psutil.wait_procs([process, *cell], timeout=30)
    assert not any(p.is_running() for p in (process, *cell)), "a node's cells end with it"


@pytest.mark.slow
def test_an_interrupted_ray_run_gives_its_cells_back(
    cluster: Cluster, place: Path, data: str, runners: list[Runner]
) -> None:
    runner = Runner(place / "interrupted", data, "executor=ray", f"ray_address={cluster.address}")
    runners.append(runner)
    attempt = until(runner.under_way, "a cell under way", runner.process)[0]
    cell = psutil.Process(owner(attempt)["pid"]).children()
    assert cell
    os.kill(runner.process.pid, signal.SIGINT)
    assert runner.end()["interrupted"]
    psutil.wait_procs(cell, timeout=30)
    assert not any(p.is_running() for p in cell)
    assert (attempt / "released").exists()
    assert runner.store.state(attempt.parent.name).name == OPEN


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "mode", "told"),
    [
        (8, "token", "threads=8: no machine of the Ray cluster has so many CPUs; the largest has 1."),
        (1, "disabled", "{address}: this Ray cluster asks for its token; set RAY_AUTH_MODE=token."),
    ],
    ids=["no machine is large enough", "no token"],
)
def test_a_ray_cluster_that_cannot_be_used_is_refused(
    threads: int, mode: str, told: str, cluster: Cluster, place: Path
) -> None:
    make = f"executors.make('ray', {threads=}, ray_address={cluster.address!r})"
    code = f"from yolo_attn.detect import executors\n{make}"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment(RAY_AUTH_MODE=mode), capture_output=True, text=True
    )
    assert run.stderr.splitlines()[-1] == f"yolo_attn.commands.cli.UsageError: {told.format(address=cluster.address)}"


@pytest.mark.slow
def test_submitit_gives_the_same_results_though_a_job_is_killed(
    place: Path, data: str, expected: dict[str, Any], runners: list[Runner]
) -> None:
    runner = Runner(place / "submitit", data, "executor=submitit", "submitit_cluster=local")
    runners.append(runner)
    victim = until(runner.under_way, "a cell under way", runner.process)[0]
    psutil.Process(owner(victim)["pid"]).kill()
    assert runner.end() == {"done": 4, "ran": 4, "failed": {}, "interrupted": False}
    assert outcomes(runner.store) == expected
    check_attempts(runner.store)
    assert json.loads((victim.parent / "lost.json").read_text())["attempt"] == 1
    assert {p.name for p in (runner.store.folder / "submitit").iterdir()}, "logs of jobs are in the results folder"


@pytest.mark.slow
def test_two_runners_never_do_the_same_cell(
    place: Path, data: str, expected: dict[str, Any], runners: list[Runner]
) -> None:
    folder = place / "shared"
    runners += [Runner(folder, data, "executor=local", "jobs=1") for _ in range(2)]
    tallies = [runner.end() for runner in runners]
    assert [t["done"] for t in tallies] == [4, 4]
    assert sum(t["ran"] for t in tallies) == 4
    assert outcomes(Store(folder)) == expected
    check_attempts(Store(folder))
    trained = [a for a in runners[0].attempts() if (a / "job.json").exists()]
    assert len(trained) == 4, "a cell was begun twice"
    owners = {owner(a)["pid"] for a in trained}
    assert owners <= {r.process.pid for r in runners}
