"""A model to look into, and images to show it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import UsageError


def network(model: Any, device: Any = None) -> nn.Module:
    """The Ultralytics model in a checkpoint, a `YOLO`, or given itself.

    Raises:
        UsageError: It is no PyTorch model of Ultralytics.
    """
    from ultralytics import YOLO
    from ultralytics.engine.model import Model
    from ultralytics.nn.tasks import BaseModel
    from ultralytics.utils.torch_utils import unwrap_model

    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix not in (".pt", ".yaml", ".yml"):
            raise UsageError(f"model={str(model)!r}: give a checkpoint (.pt) or a model YAML.")
        if path.suffix == ".pt" and not path.is_file():
            raise UsageError(f"model={str(model)!r}: no such file.")
        model = YOLO(str(model))
    net = model.model if isinstance(model, Model) else unwrap_model(model) if isinstance(model, nn.Module) else model
    if not isinstance(net, BaseModel):
        raise UsageError(f"{type(net).__name__} is no PyTorch model of Ultralytics; give a checkpoint or a YOLO.")
    return net if device is None else net.to(device)


def short_name(path: Path) -> str:
    """What a model file is called: its stem; for `run/weights/best.pt`, the run's name with it."""
    return f"{path.parent.parent.name}/{path.stem}" if path.parent.name == "weights" else path.stem


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is back afterwards."""
    modes = {m: m.training for m in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, training in modes.items():
            m.training = training


def images(net: Any, source: Any, count: int, imgsz: int | None = None) -> Iterator[Tensor]:
    """The images of `named_images` without their names."""
    return (image_1CHW for _, image_1CHW in named_images(net, source, count, imgsz))


def named_images(net: Any, source: Any, count: int, imgsz: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Images as `YOLO.predict` hands them to a model, one at a time.

    Args:
        net: The model; its training arguments give the defaults.
        source: As for `YOLO.predict`; None for the validation images of the dataset that the model was trained on.
        count: How many at most.
        imgsz: Size of the longer side in pixels, a multiple of the model's largest stride; None for the training's.

    Yields:
        The file's name (with the number of the frame, after the first of a video); (1, 3, H, W) in RGB, 0 to 1, on the
        model's device and in its dtype.

    Raises:
        UsageError: `source` is missing and the training's dataset is not at hand, or no image can be read.
    """
    from ultralytics.data.augment import LetterBox, classify_transforms
    from ultralytics.data.build import load_inference_source
    from ultralytics.utils.checks import check_imgsz

    arguments = _training_arguments(net)
    like = next(net.parameters())
    channels = int(net.yaml.get("channels", 3))
    stride = max(int(net.stride.max()), 32)
    size = check_imgsz(imgsz or arguments.get("imgsz") or 640, stride=stride, min_dim=1, max_dim=1)
    letterbox = LetterBox((size, size), auto=True, stride=stride)
    crop = classify_transforms(size) if arguments.get("task") == "classify" else None
    where = _validation_images(arguments) if source is None else source
    done, seen = 0, Counter[str]()
    for paths, batch, _ in load_inference_source(where, batch=1, channels=channels):
        for path, image_HWC in zip(paths, batch, strict=True):
            if crop is None:
                image_HWC = letterbox(image=image_HWC)
            if channels == 3:  # read as BGR
                image_HWC = image_HWC[..., ::-1]
            if crop is None:
                image_CHW = torch.from_numpy(image_HWC.transpose(2, 0, 1).copy()) / 255
            else:
                image_CHW = crop(Image.fromarray(image_HWC))
            seen[path] += 1
            name = Path(path).name + (f" frame {seen[path]}" if seen[path] > 1 else "")
            yield name, image_CHW[None].to(like)
            done += 1
            if done == count:
                return
    if not done:
        raise UsageError(f"source={source!r} holds no image that can be read.")


def _training_arguments(net: Any) -> dict[str, Any]:
    """The arguments of a model's training; empty for one that never met a trainer."""
    arguments = getattr(net, "args", None) or {}
    return dict(arguments) if isinstance(arguments, dict) else vars(arguments)


def _validation_images(arguments: dict[str, Any]) -> Any:
    """Where the validation images of a training lie.

    Raises:
        UsageError: They are not at hand.
    """
    from ultralytics.data.utils import check_cls_dataset, check_det_dataset
    from ultralytics.utils import DATASETS_DIR

    remedy = "Give images: source=folder/of/images."
    data = arguments.get("data")
    if not data:
        raise UsageError(f"the model does not name a dataset that it was trained on. {remedy}")
    try:
        if arguments.get("task") == "classify":
            if not any(folder.is_dir() for folder in (Path(data), DATASETS_DIR / data)):  # it would be downloaded
                raise FileNotFoundError("no such folder.")
            return str(Path(check_cls_dataset(data)["val"]) / "*" / "*")
        found = check_det_dataset(data, autodownload=False)
    except Exception as e:
        raise UsageError(f"the training's dataset {str(data)!r} is not at hand: {e} {remedy}") from e
    split = found.get("val") or found.get("test")
    return split[0] if isinstance(split, list) else split
