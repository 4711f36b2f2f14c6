"""Checks of a block inside models: channels of all scales, training state, fresh processes, cost."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import registry
from ..measure.model import quiet
from ..measure.timing import interleave
from ..yamls import build_yaml
from .check import Check, CheckFailed, TooSlow, blame, require
from .subject import Subject, build, inputs, run

#: Channels that rows of yolov8 n, s, m, l and x have at P2 to P5.
WIDTHS = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 576, 640)
#: Level -> channels and side of the map, yolov8n at 640 pixels.
LEVELS = {"P3": (64, 80), "P4": (128, 40), "P5": (256, 20)}
#: A row of more than so many times the time of a stock C2f is reported as slow.
SLOW = 3.0

#: A fresh interpreter: loads a checkpoint, computes one result, and reports whether the block is known without imports.
CHILD = """
import importlib, json, sys
folders, modules, name, checkpoint, images, out = json.loads(sys.argv[1])
from yolo_attn import registry
known = registry.get(name) is not None
sys.path[:0] = folders
for module in modules:
    importlib.import_module(module)
import torch
from ultralytics import YOLO
model = YOLO(checkpoint).model.float().eval()
with torch.no_grad():
    torch.save(model(torch.load(images))[0], out)
print(json.dumps(known))
"""


def _scales(s: Subject) -> None:
    for channels in WIDTHS:
        try:
            module = build(s.block, channels).eval()
            with torch.no_grad():
                y = run(s.block, module, inputs(s.block, 1, 4, 4, channels=channels))
        except Exception as e:
            raise CheckFailed(f"{channels} channels: {type(e).__name__}: {e}").with_traceback(e.__traceback__) from e
        require(y.shape[1] == channels, f"{channels} channels become {y.shape[1]}")


def _model(s: Subject) -> Any:
    """yolov8n, or the subject's own YAML, with the block."""
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    if s.yaml:
        d = yaml_model_load(s.yaml)
    else:
        derived = any(b.carrier == "row" and b.operator is s.block.operator for b in registry.list_blocks())
        plain = not (derived or s.block.many or s.block.stride > 1)
        place = "neck" if s.block.many or s.block.stride > 1 else "P4"
        d = build_yaml("yolov8", s.block.name, place, carrier="none" if plain else None).d
    with quiet():
        return DetectionModel({**copy.deepcopy(d), "scale": "n"}, verbose=False)


def _training(s: Subject) -> None:
    from ultralytics.utils.torch_utils import ModelEMA

    model = _model(s).train()
    try:
        ema = ModelEMA(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        torch.manual_seed(0)
        for h, w in ((64, 96), (32, 64)):
            outputs = model(torch.rand(2, 3, h, w))
            maps = outputs.values() if isinstance(outputs, dict) else outputs
            loss = torch.stack([y.float().square().mean() for y in maps if isinstance(y, torch.Tensor)]).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
        saved = copy.deepcopy(model).half()
    except Exception as e:
        raise blame(e, model) from e
    require(all(p.isfinite().all() for p in saved.parameters()), "a parameter is NaN or Inf after two training steps")


def _processes(s: Subject) -> str | None:
    model = _model(s).eval()
    model.args = {"task": "detect"}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, images, out = (str(Path(folder, name)) for name in ("block.pt", "images.pt", "out.pt"))
        torch.manual_seed(0)
        x = torch.rand(1, 3, 64, 64)
        torch.save(x, images)
        try:
            torch.save({"model": model, "train_args": {"task": "detect"}}, checkpoint)
        except Exception as e:
            raise blame(e, model) from None
        request = json.dumps([s.folders, s.modules, s.block.name, checkpoint, images, out])
        # spawn and DDP start interpreters in this way; the empty folder hides the current one.
        done = subprocess.run(
            [sys.executable, "-c", CHILD, request],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        )
        if done.returncode:
            raise CheckFailed((done.stderr.strip().splitlines() or ["the process fails without a message"])[-1])
        with torch.no_grad():
            want = model.float()(x)[0]
        got = torch.load(out)
    require(torch.allclose(got, want, atol=1e-3, rtol=1e-3), "the loaded model computes other results")
    if json.loads(done.stdout.strip().splitlines()[-1]):
        return None
    return (
        "known only after its module is imported: for the `yolo` command and for several GPUs, install it as a package "
        "with an entry point in the group yolo_attn.blocks"
    )


def _cost(s: Subject) -> str:
    from ultralytics.nn.modules import C2f

    parts, slow = [], []
    for level, (channels, side) in LEVELS.items():
        module, stock = build(s.block, channels).train(), C2f(channels, channels, 1, True).train()
        xs = inputs(s.block, 1, side, side, channels=channels)
        calls = {
            "block": partial(_step, module, partial(run, s.block, module, xs)),
            "stock": partial(_step, stock, partial(stock, xs[0])),
        }
        times = interleave(calls, repeats=3)
        ratio = times["block"].ratio_to(times["stock"]).median
        parts.append(f"{level} {sum(p.numel() for p in module.parameters()) / 1e3:.0f} k, {ratio:.2g}x")
        if ratio > SLOW:
            slow.append(level)
    text = "parameters, and time of a training step relative to a stock C2f: " + "; ".join(parts)
    if slow:
        raise TooSlow(text)
    return text


def _step(module: nn.Module, call: Any) -> None:
    call().square().mean().backward()
    module.zero_grad()


SCALES = Check(
    "scales",
    "builds for the channels of all scales",
    "The rows of yolov8 n, s, m, l and x have 32 to 640 channels; a block that fails for some cannot be scaled.",
    "Derive groups, heads and reduced channels from c1, e.g. max(8, c1 // reduction); heads must divide c1.",
    _scales,
)
TRAINING = Check(
    "training",
    "trains inside yolov8n with EMA and AMP checkpoints",
    "Every training copies the model for the EMA, changes the image size, and saves a float16 copy.",
    "See the failed checks above; otherwise the message names the line.",
    _training,
)
PROCESSES = Check(
    "processes",
    "its checkpoint loads in a fresh process",
    "A checkpoint stores import paths of classes; prediction, resuming, spawn and DDP need to import them.",
    "Define the class at the top level of an importable module, not in a function or in __main__.",
    _processes,
)
COST = Check(
    "cost",
    "parameters and time at each level of yolov8n",
    f"A row of more than {SLOW:g} times the time of a stock C2f dominates the training.",
    "Use it at P5 only, at a lower resolution, or in windows; attention over all positions of P3 stores 6400 x 6400.",
    _cost,
)
