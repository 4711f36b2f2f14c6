"""The processes that Ultralytics starts, and what kills them: DDP, workers, tuning, several datasets, SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import clean_environment, python, short, tiny_dataset, train_in_ddp_child, yolo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def test_the_ddp_child_finds_yaml_and_blocks(data: str, tmp_path: Path) -> None:
    """Launcher, temporary file, start-up hook and YAML lookup."""
    train_in_ddp_child("yolov8n-sam.yaml", data, tmp_path)
    best = next(tmp_path.rglob("best.pt"))
    python("import sys; from ultralytics import YOLO; YOLO(sys.argv[1])", best, cwd=tmp_path)


RANK = """
import os, sys
import torch
import torch.distributed as dist
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

rank, world = int(sys.argv[2]), 2
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=world)
torch.manual_seed(rank)  # ranks start apart; DDP must bring them together
model = DetectionModel("yolov8n-hilo.yaml", verbose=False).train()
from ultralytics.cfg import get_cfg
model.args = get_cfg()
ddp = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
for step in range(3):
    g = torch.Generator().manual_seed(100 * rank + step)
    batch = {
        "img": torch.rand(2, 3, 64, 64, generator=g), "batch_idx": torch.tensor([0.0, 1.0]), "cls": torch.zeros(2, 1),
        "bboxes": torch.rand(2, 4, generator=g) * 0.3 + 0.3,
    }
    loss, _ = ddp(batch)
    loss = loss.sum()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
gates = [m.bn.weight for k, m in model.named_modules() if hasattr(m, "operator")]
assert gates and all(g.any() for g in gates), "the gates did not open"
for name, p in model.named_parameters():
    other = p.detach().clone()
    dist.broadcast(other, 0)
    assert torch.equal(other, p), name
dist.barrier()
dist.destroy_process_group()
print("equal")
"""


def test_two_gloo_ranks_hold_equal_weights(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, "", str(rank), str(meeting)],
            cwd=tmp_path,
            env=clean_environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert all(r.returncode == 0 and "equal" in t for r, t in zip(ranks, texts, strict=True)), texts


def test_resume_after_sigkill_in_mid_epoch(data: str, tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "yolo", "train", "model=yolov8n-sk.yaml", f"data={data}", *short(tmp_path)]
    command = [c if c != "epochs=1" else "epochs=30" for c in map(str, command)]
    child = subprocess.Popen(
        command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    last, deadline = tmp_path / "t" / "weights" / "last.pt", time.monotonic() + 240
    results = tmp_path / "t" / "results.csv"
    while not (results.is_file() and len(results.read_text().splitlines()) > 3 and last.is_file()):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(results.read_text().splitlines()) - 1
    yolo("train", "resume", f"model={last}", cwd=tmp_path)
    epochs = [int(float(line.split(",")[0])) for line in results.read_text().splitlines()[1:]]
    assert done < 30 and epochs[-1] == 30 and set(epochs) == set(range(1, 31))


def test_tuner_children_build_the_model(data: str, tmp_path: Path) -> None:
    code = """
import os, sys
from ultralytics import YOLO
YOLO("yolov8n-attnconv.yaml").tune(data=sys.argv[1], imgsz=64, epochs=1, iterations=2, batch=4, workers=0, plots=False,
                                   val=False, save=False, use_ray=False, project=os.getcwd(), name="tune")
"""
    python(code, data, cwd=tmp_path)
    found = next(tmp_path.rglob("tune_results.*"), None) or next(tmp_path.rglob("best_hyperparameters.yaml"))
    assert found.is_file()


def test_several_datasets_in_one_call(data: str, tmp_path: Path) -> None:
    code = """
import os, sys
from ultralytics import YOLO
import inspect
from ultralytics.engine import model as m
if "isinstance" not in inspect.getsource(m.Model.train) or "MultiTrainer" not in inspect.getsource(m):
    print("not in this release"); sys.exit()
YOLO("yolov8n-acmix.yaml").train(data=[sys.argv[1], sys.argv[2]], imgsz=64, epochs=1, batch=4, workers=0, plots=False,
                                 project=os.getcwd())
"""
    second = tiny_dataset(tmp_path)
    text = python(code, data, second, cwd=tmp_path)
    if "not in this release" in text:
        pytest.skip("this Ultralytics release trains on one dataset a call")
    assert len(list(tmp_path.rglob("best.pt"))) >= 2


def test_spawned_dataloader_workers(data: str, tmp_path: Path) -> None:
    code = """
import multiprocessing, os, sys
from ultralytics import YOLO
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    YOLO("yolov8n-sam.yaml").train(data=sys.argv[1], imgsz=64, epochs=1, batch=4, workers=2, plots=False,
                                   project=os.getcwd())
    print("trained")
"""
    script = tmp_path / "job.py"
    script.write_text(code)
    from jobs import run

    assert "trained" in run(sys.executable, script, data, cwd=tmp_path)
