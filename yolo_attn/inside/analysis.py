"""What an analysis of `yolo_attn.show` is: one declaration each, in `analyses/`.

An analysis says whether it applies to a model, computes numbers (and the arrays of its pictures) from the model and
some images, and draws them. It writes nothing: `show.py` writes the files and the gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .detections import Detection, detect

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    Draw = Callable[["Found"], Figure]


@dataclass(frozen=True)
class Image:
    """An image as the model sees it.

    Attributes:
        name: The file's name.
        x_1CHW: RGB, 0 to 1, resized.
    """

    name: str
    x_1CHW: Tensor

    @property
    def picture(self) -> np.ndarray:
        """(H, W, 3), 8 bit, for figures; the first channel three times unless there are three."""
        x_CHW = self.x_1CHW[0].float().clamp(0, 1)
        if len(x_CHW) != 3:
            x_CHW = x_CHW[:1].expand(3, -1, -1)
        picture: np.ndarray = (x_CHW.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
        return picture


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        models: Name -> model; the first is the one in question, further ones are its other training runs.
        images: The images.
        against: Name and model to compare with, or None.
        conf: Least score of a detection.
        object: Which detection of each image, 0 for the one of the highest score.
    """

    models: Mapping[str, Any]
    images: tuple[Image, ...]
    against: tuple[str, Any] | None = None
    conf: float = 0.25
    object: int = 0

    @property
    def name(self) -> str:
        """Name of the model in question."""
        return next(iter(self.models))

    @property
    def net(self) -> Any:
        """The model in question."""
        return self.models[self.name]

    @cached_property
    def detections(self) -> tuple[list[Detection], ...]:
        """What the model detects in each image, best first."""
        return tuple(detect(self.net, image.x_1CHW, self.conf) for image in self.images)


@dataclass(frozen=True)
class Found:
    """What an analysis computed.

    Attributes:
        table: Its numbers.
        headline: The most important of them in one sentence.
        pictures: Label -> array, for the figure.
    """

    table: pl.DataFrame
    headline: str
    pictures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """One thing that `show` can show.

    Attributes:
        name: As in `what=`.
        title: Heading in the gallery.
        missing: Why it does not apply to a model; "" where it does.
        compute: Numbers and arrays. Raises UsageError where the images do not allow it.
        draw: The figure.
        caption: Method and source, in full sentences.
    """

    name: str
    title: str
    missing: Callable[[nn.Module], str]
    compute: Callable[[Subject], Found]
    draw: Draw
    caption: str
