"""What users do, as fresh processes in empty folders: helpers for the tests of whole jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def short(cwd: Path) -> tuple[str, ...]:
    """Arguments of a training of seconds; the project is absolute: a relative one lands in Ultralytics' runs_dir."""
    return ("imgsz=64", "epochs=1", "batch=4", "workers=0", "plots=False", "exist_ok=True", f"project={cwd}", "name=t")


def clean_environment(**env: str) -> dict[str, str]:
    """This environment, talkative, and without a path by which a child could find the checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "YOLO_VERBOSE")} | env


def run(*command: str | Path, cwd: Path, ok: bool = True, timeout: int = 600, **env: str) -> str:
    """Output of a command in a folder.

    Args:
        *command: Program and arguments.
        cwd: Where it runs.
        ok: Fail unless it exits with 0.
        timeout: Seconds.
        **env: Additions to the environment.

    Returns:
        Standard output and standard error, in one text.
    """
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=clean_environment(**env), timeout=timeout
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) is ok, f"{' '.join(map(str, command))}: exit {done.returncode}\n{text[-4000:]}"
    return text


def yolo(*arguments: str, cwd: Path, ok: bool = True, **env: str) -> str:
    """Output of the `yolo` command of this environment."""
    return run(Path(sys.executable).parent / "yolo", *arguments, cwd=cwd, ok=ok, **env)


def python(code: str, *arguments: str | Path, cwd: Path, ok: bool = True, **env: str) -> str:
    """Output of Python code that knows nothing of this project."""
    return run(sys.executable, "-c", code, *arguments, cwd=cwd, ok=ok, **env)


#: Launcher of DDP, its temporary file and its child, with a world of one; CPUs have no more.
DDP = """
import os, subprocess, sys
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import dist
name, data, weights = sys.argv[1:]
overrides = dict(model=name, data=data, imgsz=64, epochs=1, batch=4, workers=0, plots=False, device="cpu",
                 project=os.getcwd(), name="ddp")
if weights:
    overrides["pretrained"] = weights
trainer = DetectionTrainer(overrides=overrides)
if weights:
    model = YOLO(name).load(weights).model
    trainer.model = trainer.get_model(weights=model, cfg=model.yaml)
trainer.world_size = 1
command, file = dist.generate_ddp_command(trainer)
try:
    subprocess.run(command, check=True)
finally:
    dist.ddp_cleanup(trainer, str(file))
"""


def train_in_ddp_child(model: str, data: str, cwd: Path, weights: str = "", **env: str) -> str:
    """One epoch in the child process that Ultralytics starts for DDP; returns what it printed."""
    return python(DDP, model, data, weights, cwd=cwd, **env)


def tiny_dataset(folder: Path, task: str = "detect", train: int = 8, val: int = 4) -> str:
    """A dozen generated images, and the `data=` argument that names them."""
    from yolo_attn import shapes
    from yolo_attn.yamls import shipped as assets

    root = shapes.make(folder / f"tiny-{task}", task=task, train=train, val=val, size=96)
    if task == "classify":
        return str(root)
    suffix = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb"}[task]
    import yaml

    d = yaml.safe_load((assets.folder() / f"shapes{suffix}.yaml").read_text(encoding="utf-8"))
    d.pop("download")
    file = folder / f"tiny-{task}.yaml"
    file.write_text(yaml.safe_dump({**d, "path": str(root)}))
    return str(file)
