"""`yolo_attn.compare`: what two or more trained models get right differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import write_text
from ..detect.report import NEEDED, check_installed
from ..errors import UsageError
from ..inside.gallery import Section, write
from .entries import Files, check_data, image_size, read_entries

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

#: Packages that this needs, of the extra `bench`.
PACKAGES = {name: NEEDED[name] for name in ("polars", "pycocotools")} | {"tidecv": "tidecv"}
TITLE = "Comparison of models"


@dataclass(frozen=True)
class Compared:
    """What `compare` found.

    Attributes:
        sections: Figures with their numbers, in the order of the page.
        skipped: Name of a section -> why it was left out.
        runs: One line for each checkpoint.
        outcomes: One line for each image and model.
        paper: The table of a paper in LaTeX.
        bibtex: Entries for the papers of all blocks in the models.
    """

    sections: tuple[Section, ...]
    skipped: dict[str, str]
    runs: pl.DataFrame
    outcomes: pl.DataFrame
    paper: str
    bibtex: str

    @property
    def figures(self) -> dict[str, Figure]:
        """Matplotlib figures by name."""
        return {s.name: s.figure for s in self.sections}

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """Their numbers."""
        return {s.name: s.table for s in self.sections}

    @property
    def headlines(self) -> dict[str, str]:
        """The most important number of each in one sentence."""
        return {s.name: s.headline for s in self.sections}

    def write(self, folder: str | Path) -> list[Path]:
        """Write the page with its figures and tables, runs.csv, outcomes.csv, paper.tex and blocks.bib.

        Args:
            folder: Created if missing; files of the same names are replaced.

        Returns:
            The paths, that of the page first.
        """
        written = write(folder, TITLE, self.sections, self.skipped)
        files = {"runs.csv": self.runs.write_csv(), "outcomes.csv": self.outcomes.write_csv()}
        for name, text in {**files, "paper.tex": self.paper, "blocks.bib": self.bibtex}.items():
            written.append(Path(folder, name))
            write_text(written[-1], text)
        return written


def compare(
    models: Mapping[str, Files] | Sequence[str | Path],
    data: str | Path,
    split: str = "val",
    out: str | Path | None = None,
    *,
    imgsz: int | None = None,
    batch: int = 16,
    conf: float = 0.25,
    images: int = 6,
    device: str = "cpu",
    seconds: float = 5.0,
) -> Compared:
    """Compare trained models: scores by class and size, curves, kinds of errors, images, and costs.

    Args:
        models: Two checkpoints or more; "name=a.pt+b.pt" is a model with several seeds. Or a dict: name -> checkpoint,
            or a list of them. The models must have the same task and classes.
        data: The dataset's YAML.
        split: train, val or test. The best epoch was chosen on val; test is the honest choice.
        out: Folder for the files; nothing is written without it.
        imgsz: Size of the longer side of images in pixels; by default that of the training.
        batch: Images in a batch of the validation.
        conf: Least confidence of predictions in the confusion matrix and on the images.
        images: How many images to show, at most.
        device: Where to validate and to measure latency, such as cpu or cuda:0.
        seconds: Time to fill with latency measurements; at least 5 rounds.

    Returns:
        Figures, data frames and LaTeX.

    Raises:
        UsageError: A model or the dataset cannot be read or does not fit the others, or a package is missing.
    """
    check_installed("compare", PACKAGES)
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"out={out}: a file of this name exists; name a folder.")
    from ..detect.report.text import bibtex
    from ..detect.tables import frame_of
    from ..measure.conditions import read_device
    from . import changes, latency, paper, sections
    from .scores import Scores
    from .validation import validate

    entries = read_entries(models)
    where = str(read_device(str(device)))
    check_data(data, split, entries[0].models[0])
    size = image_size(entries, imgsz)
    costs, conditions = latency.measure({e.name: e.nets[0] for e in entries}, size, where, seconds)
    arguments = {"batch": batch, "device": where}
    runs = {e.name: [validate(m, str(data), split, size, **arguments) for m in e.models] for e in entries}
    scores = Scores(tuple(entries), runs, costs, conditions, str(data), split, size, conf)
    found, skipped = sections.of(scores, images)
    compared = Compared(
        tuple(found),
        skipped,
        frame_of(scores.of_runs()),
        frame_of(changes.counts(scores.outcomes, scores.first_boxes)),
        paper.tex(scores.means(), f"{paper.NOTE} {scores.setup} FPS: {conditions}."),
        bibtex(net.yaml for entry in entries for net in entry.nets),
    )
    if out is not None:
        compared.write(out)
    return compared
