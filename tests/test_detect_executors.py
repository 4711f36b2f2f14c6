"""`bench detect`: where runs take place. The last tests use a Ray cluster of several processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from jobs import clean_environment

import yolo_attn
from yolo_attn.detect.executors import EXECUTORS, local
from yolo_attn.detect.executors.ray import share
from yolo_attn.detect.store import DONE, OPEN, Store
from yolo_attn.detect.work import End
from yolo_attn.errors import UsageError

# ---- this machine ----


@pytest.mark.parametrize(("visible", "expected"), [("", ["0", "1"]), ("5,7", ["5", "7"])])
def test_each_local_run_sees_one_gpu(
    visible: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen: list[str] = []

    def train(job: Any, folder: Path, device: str, *_: Any) -> End:
        seen.append(device)
        return End(DONE)

    monkeypatch.setattr(local, "train", train)
    executor = local.Local()
    assert executor.slots == 2
    for id in "ab":
        executor.submit(id, {}, tmp_path)
    executor.close()
    assert sorted(seen) == expected


def test_a_run_that_raises_is_reported_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> End:
        raise RuntimeError("no luck")

    monkeypatch.setattr(local, "train", train)
    executor = local.Local(device="cpu")
    executor.submit("a", {}, tmp_path)
    executor.close()
    assert executor.poll() == {"a": End("failed", "RuntimeError: no luck")}


@pytest.mark.parametrize(("jobs", "threads", "cores"), [(None, 3, 8), (2, 1, 8), (8, 1, 8), (None, 2, 2)])
def test_a_local_run_has_the_threads_of_plain_training_or_fewer(
    jobs: int | None, threads: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ultralytics.utils.NUM_THREADS", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert local.Local(jobs=jobs, device="cpu").threads == threads


# ---- Ray ----


@pytest.mark.parametrize(
    ("address", "variable", "said"),
    [
        ("127.0.0.1:1", "", "ray_address=127.0.0.1:1: nothing answers there"),
        (None, "127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: nothing answers there"),
        ("somewhere", "", "ray_address=somewhere: nothing answers there; host:port is needed"),
    ],
)
def test_a_ray_cluster_that_does_not_answer_is_refused(
    address: str | None, variable: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(UsageError, match=said):
        EXECUTORS["ray"](None, None, None, address)


MACHINES = {
    "two CPU machines": ([{"CPU": 8.0}, {"CPU": 4.0}], 0),
    "a head without CPUs": ([{"memory": 1.0}, {"CPU": 16.0, "GPU": 4.0}], 1),
    "GPUs beside a CPU machine": ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}], 1),
    "nothing": ([{"memory": 1.0}], 0),
}


@pytest.mark.parametrize(
    ("machines", "jobs", "threads"),
    [
        ("two CPU machines", None, 4),  # one run on each, with as many threads as both have
        ("two CPU machines", 6, 2),
        ("two CPU machines", 1, 4),
        ("a head without CPUs", None, 4),
        ("GPUs beside a CPU machine", None, 4),
        ("GPUs beside a CPU machine", 100, 4),
        ("nothing", None, 1),
    ],
)
def test_threads_of_a_ray_run_are_its_share_of_the_smallest_machine(machines: str, jobs: int, threads: int) -> None:
    assert share(*MACHINES[machines], jobs) == threads


#: Of Ray clusters. Where a user has a token in his home, Ray asks for it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}
#: Seconds after which something is surely wrong; the machine may be busy with other things.
PATIENCE = 1800


def environment(**env: str) -> dict[str, str]:
    """Of drivers and of machines: this package, wherever they run."""
    return clean_environment(**{"PYTHONPATH": str(Path(yolo_attn.__file__).parents[1]), **TOKEN, **env})


def until(what: Callable[[], Any], why: str, *processes: subprocess.Popen[Any]) -> Any:
    """Wait for something that these processes are to do."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        assert all(p.poll() is None for p in processes), f"a process ended before {why}"
        time.sleep(0.05)
    raise AssertionError(f"still waiting: {why}")


def end_all(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
        for member in [psutil.Process(process.pid), *family]:
            with contextlib.suppress(psutil.Error):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.wait(timeout=30)


class Cluster:
    """A Ray cluster whose machines are processes of this one, one CPU each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes, self.address = folder, list[subprocess.Popen[Any]](), ""
        head = self.add("--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}/r")
        file = folder / "r" / "ray_current_cluster"
        self.address = until(lambda: file.exists() and file.read_text().strip(), "the address of a cluster", head)

    def add(self, *arguments: str) -> subprocess.Popen[Any]:
        """One more machine."""
        resources = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
        with open(self.folder / f"node-{len(self.nodes)}.log", "w") as log:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *resources, *arguments]
            node = subprocess.Popen(
                command, cwd=self.folder, env=environment(), stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(node)
        return node

    def close(self) -> None:
        """End all machines, and what outlived a machine."""
        for node in reversed(self.nodes):
            end_all(node)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder):
                    process.kill()


def raylet(node: subprocess.Popen[Any]) -> psutil.Process:
    """The process that is a machine's part of Ray."""
    return next(p for p in psutil.Process(node.pid).children(recursive=True) if p.name() == "raylet")


def ancestors(pid: int) -> set[int]:
    """Processes that a process descends from; empty where it has ended."""
    with contextlib.suppress(psutil.Error):
        return {p.pid for p in psutil.Process(pid).parents()}
    return set()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    made = Cluster(tmp_path_factory.mktemp("r"))  # short: the paths of sockets in it may have 107 characters
    yield made
    made.close()


class Driver:
    """A process that runs a benchmark of four cells, on this machine or on a cluster."""

    def __init__(self, folder: Path, data: str, *arguments: str) -> None:
        self.store = Store(folder)
        table = ["models=yolov8n,mlca@neck", "control=0", "costs=0", "seeds=2", "epochs=2", "imgsz=64", "batch=4"]
        argv = ["-m", "yolo_attn", "bench", "detect", *table, "threads=1", f"data={data}", f"out={folder}", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, *argv], cwd=folder.parent, env=environment(), stdout=-1, stderr=-1, text=True
        )

    def running(self) -> dict[Path, int]:
        """Attempt -> the process that trains."""
        files = self.store.folder.glob("cells/*/attempt-*/progress.json")
        return {
            f.parent: json.loads(f.read_text())["pid"] for f in files if not (f.parents[1] / "result.json").exists()
        }

    def end(self, code: int = 0) -> str:
        """What the driver printed; it ends with this exit code."""
        out, error = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == code, error
        return out + error

    def outcomes(self) -> list[Any]:
        """The outcome of each cell, without what differs between any two runs."""
        found = []
        for cell in self.store.read_plan().cells:
            outcome = self.store.result(cell.id)
            assert outcome is not None, cell
            outcome["curves"].pop("time")
            found.append([outcome[k] for k in ("values", "classes", "sizes", "samples", "order", "curves")])
        return found


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    """Drivers that a test starts; they end with it."""
    started: list[Driver] = []
    yield started
    for driver in started:
        end_all(driver.process)


@pytest.mark.slow
def test_a_ray_node_that_is_killed_changes_no_result(
    cluster: Cluster, tiny_data: str, tmp_path: Path, drivers: list[Driver]
) -> None:
    drivers += [Driver(tmp_path / "local", tiny_data)]
    drivers[0].end()
    node = cluster.add(f"--address={cluster.address}", "--dashboard-agent-listen-port=0")
    driver = Driver(tmp_path / "ray", tiny_data, "executor=ray", f"ray_address={cluster.address}")
    drivers.append(driver)

    def on_the_node() -> list[tuple[Path, int]]:
        return [(path, pid) for path, pid in driver.running().items() if node.pid in ancestors(pid)]

    attempt, pid = until(on_the_node, "a run on the second node", driver.process, node)[0]
    training = psutil.Process(pid)
    raylet(node).kill()
    driver.end()
    psutil.wait_procs([training], timeout=PATIENCE)
    assert not training.is_running(), "a node's runs end with it"
    assert driver.outcomes() == drivers[0].outcomes()
    progress = json.loads((attempt / "progress.json").read_text())
    assert progress["pid"] != pid and progress["share"] == 1, "Ray is to repeat the run elsewhere"
    assert (attempt / "log.txt").stat().st_size, "the log returns to the driver"


@pytest.mark.slow
def test_an_interrupted_ray_driver_leaves_no_run_and_frees_its_cells(
    cluster: Cluster, tiny_data: str, tmp_path: Path, drivers: list[Driver]
) -> None:
    driver = Driver(tmp_path / "ray", tiny_data, "executor=ray", f"ray_address={cluster.address}")
    drivers.append(driver)
    pid = until(lambda: list(driver.running().values()), "a run", driver.process)[0]
    training = psutil.Process(pid)
    driver.process.send_signal(signal.SIGINT)
    assert "the same command resumes" in driver.end(130)
    psutil.wait_procs([training], timeout=PATIENCE)
    assert not training.is_running()
    states = [driver.store.state(c.id).name for c in driver.store.read_plan().cells]
    assert set(states) <= {DONE, OPEN} and OPEN in states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "mode", "said"),
    [
        (8, "token", "threads=8: no machine of the Ray cluster has so many CPUs; the largest has 1."),
        (1, "disabled", "executor=ray, {address}: this Ray cluster requires its token; set RAY_AUTH_MODE=token."),
    ],
    ids=["no machine is large enough", "no token"],
)
def test_a_ray_cluster_that_cannot_be_used_is_refused(
    threads: int, mode: str, said: str, cluster: Cluster, tmp_path: Path
) -> None:
    code = f"from yolo_attn.detect.executors.ray import Ray\nRay(None, None, {threads}, {cluster.address!r})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(RAY_AUTH_MODE=mode), capture_output=True, text=True
    )
    assert run.stderr.splitlines()[-1] == f"yolo_attn.errors.UsageError: {said.format(address=cluster.address)}"
