"""The images on which models differ most, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..detect.sizes import Boxes
from ..inside import canvas
from .outcomes import Outcome
from .validation import name_of

#: Of an image in a figure, in pixels.
LONGEST = 640
#: Kind of box -> colour and line: distinguishable with any colour vision, and in print.
LOOKS = {"right": (canvas.PALETTE[0], "-"), "wrong": (canvas.PALETTE[1], "--"), "missed": (canvas.PALETTE[2], ":")}


def counts(found: Mapping[str, Sequence[Outcome]], boxes: Boxes) -> list[dict[str, Any]]:
    """One line for each image and model; gained and lost objects are those of the model against the first one.

    Args:
        found: Model -> outcome of each image.
        boxes: Of any of the models; the labels are the same.
    """
    first = next(iter(found.values()))
    lines = []
    for i in range(len(boxes.files)):
        before = set(first[i].right)
        for name, of_model in found.items():
            now = set(of_model[i].right)
            line = {"right": len(now), "wrong": len(of_model[i].wrong), "missed": len(of_model[i].missed)}
            line |= {"gained": len(now - before), "lost": len(before - now)}
            lines.append({"image": name_of(boxes, i + 1), "model": name, **line})
    return lines


def most_changed(found: Mapping[str, Sequence[Outcome]], count: int) -> list[int]:
    """Indices of the images with most objects found by one model only and most difference in wrong predictions.

    Args:
        found: Model -> outcome of each image; every model is compared with the first.
        count: How many at most; images without a difference are left out.
    """
    first, *others = found.values()
    scores = [
        sum(len(set(a.right) ^ set(o[i].right)) + abs(len(a.wrong) - len(o[i].wrong)) for o in others)
        for i, a in enumerate(first)
    ]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [i for i in order[:count] if scores[i]]


def draw(found: Mapping[str, Sequence[Outcome]], boxes: Mapping[str, Boxes], shown: Sequence[int]) -> Figure:
    """A row for each image, a column for each model: right and wrong predictions, and missed objects.

    Args:
        found: Model -> outcome of each image.
        boxes: Model -> its boxes.
        shown: Indices of images, at least one.
    """
    first = next(iter(boxes.values()))
    read = [_read(first.files[i]) for i in shown]
    names = [name_of(first, i + 1) for i in shown]
    rows = [name if len(name) <= 24 else f"{name[:11]}...{name[-10:]}" for name in names]
    figure = canvas.pictures([[image] * len(found) for image, _ in read], rows, list(found), largest=3.2)
    for (index, name), ax in zip(((i, n) for i in range(len(shown)) for n in found), figure.axes, strict=True):
        outcome, of_model, factor = found[name][shown[index]], boxes[name], read[index][1]
        kinds = {
            "right": [of_model.predictions[p] for p in outcome.right.values()],
            "wrong": [of_model.predictions[p] for p in outcome.wrong],
            "missed": [of_model.labels[i] for i in outcome.missed],
        }
        for kind, many in kinds.items():
            colour, line = LOOKS[kind]
            for box in many:
                left, top, width, height = (factor * edge for edge in box["bbox"])
                style: Any = {"fill": False, "edgecolor": colour, "linestyle": line, "linewidth": 1.2}
                ax.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **style))
        ax.set_xlabel(", ".join(f"{len(many)} {kind}" for kind, many in kinds.items()), fontsize=7)
    return figure


def _read(file: str) -> tuple[np.ndarray, float]:
    """An image of at most `LONGEST` pixels, as labels see it, and how much smaller than the file it is."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        turned = ImageOps.exif_transpose(image).convert("RGB")
    factor = min(LONGEST / max(turned.size), 1.0)
    if factor < 1:
        turned = turned.resize((round(turned.width * factor), round(turned.height * factor)))
    return np.asarray(turned), factor
