"""Validations of models that were never trained, with predictions made from the labels: shifted, swapped, left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils.ops import xywh2xyxy

from yolo_attn.detect.models import read_yaml


def fabricate(patch: pytest.MonkeyPatch) -> None:
    """Let Ultralytics' validator use made predictions; they depend on the model and on the image."""
    begin, update = DetectionValidator.init_metrics, DetectionValidator.update_metrics

    def init_metrics(self: Any, model: Any) -> None:
        begin(self, model)
        first, *others = model.model.parameters()
        self.seed = int(abs(float(first.detach().double().sum())) * 1e6) + len(others)

    def update_metrics(self: Any, preds: Any, batch: dict[str, Any]) -> None:
        made = type(self) is DetectionValidator  # those of other tasks predict more than boxes
        update(self, [_made(self, batch, i) for i in range(len(batch["im_file"]))] if made else preds, batch)

    patch.setattr(DetectionValidator, "init_metrics", init_metrics)
    patch.setattr(DetectionValidator, "update_metrics", update_metrics)


def _made(validator: Any, batch: dict[str, Any], image: int) -> dict[str, torch.Tensor]:
    """Predictions of an image: most labels, shifted by up to a fifth of their size, and one box on the background."""
    rng = np.random.default_rng([validator.seed, *Path(batch["im_file"][image]).name.encode()])
    of_image = batch["batch_idx"] == image
    height, width = batch["img"].shape[2:]
    boxes = xywh2xyxy(batch["bboxes"][of_image].double()).numpy() * [width, height, width, height]
    classes = batch["cls"][of_image].ravel().numpy()
    kept = rng.random(len(boxes)) < 0.8
    boxes, classes = boxes[kept], classes[kept]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = np.concatenate([boxes + rng.uniform(-0.1, 0.1, boxes.shape) * sides, [[1.0, 1.0, 9.0, 12.0]]])
    swapped = rng.random(len(classes)) < 0.1
    classes = np.append(np.where(swapped, (classes + 1) % validator.nc, classes), 0)
    return {
        "bboxes": torch.tensor(boxes, dtype=torch.float32),
        "conf": torch.tensor(rng.uniform(0.05, 1, len(boxes)), dtype=torch.float32),
        "cls": torch.tensor(classes, dtype=torch.float32),
        "extra": torch.zeros(len(boxes), 0),
    }


def untrained(folder: Path, name: str, data: str, base: str = "yolov8n.yaml", seed: int = 0) -> Path:
    """A checkpoint of an untrained model for a dataset's classes."""
    torch.manual_seed(seed)
    spec = yaml.safe_load(Path(data).read_text())
    names = spec["names"]
    like = read_yaml(base)[0]
    file = folder / f"{Path(base).stem}-{name}.yaml"
    own = {"nc": len(names)} | {k: v for k, v in spec.items() if k == "kpt_shape"}
    file.write_text(yaml.safe_dump({**{k: v for k, v in like.items() if k != "yaml_file"}, **own}))
    model = YOLO(file)
    model.model.names = dict(names)
    model.model.args = {"imgsz": 96, "task": "detect", "data": data}
    model.ckpt = {"train_args": {"seed": seed, "imgsz": 96}}
    path = folder / f"{name}.pt"
    model.save(path)
    return path
