"""`yolo_attn.show`: pictures of what the blocks of a trained model do, with a number beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import UsageError
from ..registry import suggest
from . import inputs
from .analyses import ANALYSES
from .analysis import Image, Subject
from .gallery import Section, write

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

#: Images, unless more are asked for: a gradient per image, level and model is what takes the time.
IMAGES = 4


@dataclass(frozen=True)
class Shown:
    """What `show` found, by the name of the analysis.

    Attributes:
        figures: Matplotlib figures.
        tables: Their numbers.
        headlines: The most important number in one sentence.
        captions: Text under each figure: method, source, model, images.
        skipped: Analysis -> why it was left out.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    headlines: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def write(self, folder: str | Path) -> list[Path]:
        """Write each figure as PNG, SVG and PDF, each table as CSV, and a gallery; returns the gallery's path first.

        Args:
            folder: Created if missing; files of the same names are replaced.
        """
        sections = [
            Section(name, ANALYSES[name].title, self.headlines[name], figure, self.captions[name], self.tables[name])
            for name, figure in self.figures.items()
        ]
        return write(folder, "Inside the model", sections, self.skipped)


def show(
    model: Any,
    source: Any = None,
    what: str | Sequence[str] | None = None,
    against: Any = None,
    out: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    images: int = IMAGES,
    imgsz: int | None = None,
    conf: float = 0.25,
    object: int = 0,
    device: Any = None,
) -> Shown:
    """Show what the blocks of a trained model do.

    Args:
        model: A checkpoint's path, a `YOLO`, or the Ultralytics model inside one; or a sequence of them, training runs
            of one model, whose gates and rates are shown together. A YAML's path needs `weights`.
        source: Images or videos, as for `YOLO.predict`. By default the validation images of the dataset that the
            checkpoint was trained on.
        what: Names of analyses, those of `yolo_attn.inside.analyses.ANALYSES`; by default all that apply to the model.
        against: A model to compare with, such as stock; a path, a `YOLO`, or the model inside one.
        out: Folder for the files; nothing is written without it.
        weights: Checkpoint for a `model` that is a YAML.
        images: How many images to use, at most.
        imgsz: Image size in pixels; by default that of the training.
        conf: Least score of a detection.
        object: Which detection of an image `cam` and `kernels` look at, 0 for the best.
        device: Where to run; by default where the model is.

    Returns:
        Figures and data frames.

    Raises:
        UsageError: A model or image cannot be read, or an analysis that was asked for does not apply.
    """
    many = list(model) if isinstance(model, (list, tuple)) else [model]
    if not many:
        raise UsageError("model= is empty; give a checkpoint.")
    models = _named([*many, *([against] if against is not None else [])], weights, device)
    other = models.popitem() if against is not None else None
    net: Any = next(iter(models.values()))
    wanted = [what] if isinstance(what, str) else what
    for name in wanted or ():
        if name not in ANALYSES:
            raise UsageError(f"what={name}: no such analysis.{suggest(name, ANALYSES)} Choices: {', '.join(ANALYSES)}.")
        if reason := _missing(models, name):
            raise UsageError(f"what={name} does not apply to this model: {reason}.")
    shown = Shown()
    with ExitStack() as stack:
        for m in (*models.values(), *([other[1]] if other else [])):
            stack.enter_context(inputs.evaluating(m))
        loaded = tuple(Image(name, x_1CHW) for name, x_1CHW in inputs.named_images(net, source, images, imgsz))
        subject = Subject(models, loaded, other, conf, object)
        for name, analysis in ANALYSES.items():
            if wanted is not None and name not in wanted:
                continue
            if reason := _missing(models, name):
                shown.skipped[name] = reason
                continue
            try:
                found = analysis.compute(subject)
            except UsageError as e:
                if wanted is not None:
                    raise UsageError(f"what={name}: {e}") from e
                shown.skipped[name] = str(e).rstrip(".")
                continue
            shown.figures[name] = analysis.draw(found)
            shown.tables[name], shown.headlines[name] = found.table, found.headline
            shown.captions[name] = f"{analysis.caption} {_setup(subject)}"
    if out is not None:
        shown.write(out)
    return shown


def _missing(models: Mapping[str, nn.Module], name: str) -> str:
    """Why an analysis does not apply to one of the models."""
    return next((reason for net in models.values() if (reason := ANALYSES[name].missing(net))), "")


def _named(models: Sequence[Any], weights: str | Path | None, device: Any) -> dict[str, nn.Module]:
    """Name -> network; names are made unique."""
    from ultralytics import YOLO

    found: dict[str, nn.Module] = {}
    for model in models:
        name = ""
        if isinstance(model, (str, Path)):
            path, name = Path(model), inputs.short_name(Path(model))
            if path.suffix in (".yaml", ".yml"):
                if weights is None:
                    raise UsageError(
                        f"model={name!r} has random weights: give weights=best.pt, or the checkpoint itself."
                    )
                if not Path(weights).is_file():
                    raise UsageError(f"weights={str(weights)!r}: no such file.")
                model = YOLO(str(path)).load(str(weights))
        net: Any = inputs.network(model, device)
        name = name or Path(str(net.yaml.get("yaml_file") or type(net).__name__)).stem
        count = sum(n == name or n.startswith(f"{name} (") for n in found)
        found[f"{name} ({count + 1})" if count else name] = net
    return found


def _setup(subject: Subject) -> str:
    """Models, images and their size, in one sentence for the caption."""
    models = ", ".join(subject.models) + (f", compared with {subject.against[0]}" if subject.against else "")
    names = ", ".join(i.name for i in subject.images[:3]) + (", ..." if len(subject.images) > 3 else "")
    height, width = subject.images[0].x_1CHW.shape[2:]
    return f"Model: {models}. Images: {len(subject.images)} ({names}), {width} x {height} pixels."
