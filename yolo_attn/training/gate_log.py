"""The blocks' share of the signal, epoch by epoch, in the folder of a training.

    gates.csv    one row per validated epoch, one column per block: its share of the signal (`yolo_attn.inside.gates`)
    gates.png    the same as a figure, unless plots=False

and at the end of the training one line in the log, with a warning if the blocks stayed closed. Measuring costs one pair
of vector norms per block for the first images of a validation. A failure here never ends a training.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..inside.gates import Gates, Meter, gated
from ..inside.shares import CLOSED, contribution, is_closed
from ..weights import new_parameters
from . import block_lr
from .block_lr import unwrapped

FILE = "gates.csv"
FIGURE = "gates.png"
_LOG = "yolo_attn_gate_log"  # attribute of a trainer


@contextlib.contextmanager
def watching(trainer: Any) -> Iterator[None]:
    """Measure the gates of a trainer's model while it is validated, and log them.

    Args:
        trainer: Ultralytics' trainer, about to validate.
    """
    meter = _meter(trainer)
    if meter is None:
        yield
        return
    with meter:
        yield
    _quietly(_record, trainer, meter)


def read(folder: str | Path) -> list[dict[str, float]]:
    """Rows of a training's gates.csv: "epoch", and label of a block -> its share.

    Args:
        folder: The folder of the training.

    Returns:
        The rows in order; none where the file does not exist.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def last_shares(folder: str | Path) -> dict[str, float]:
    """Label of a block -> its share after the last validated epoch of a training; empty where none was logged."""
    last = next(reversed(read(folder)), {})
    return {k: v for k, v in last.items() if k != "epoch" and math.isfinite(v)}


class GateLog:
    """The rows of one training."""

    def __init__(self, folder: Path, resumed: bool) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = read(folder) if resumed else []

    def add(self, epoch: int, gates: Gates) -> None:
        """Append an epoch, or replace it where it is repeated, and write the file."""
        row = {"epoch": float(epoch), **{g.label: g.share for g in gates.rows}}
        self.rows = [r for r in self.rows if r["epoch"] < epoch] + [row]
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [",".join(row), *(",".join(f"{r.get(k, math.nan):.6g}" for k in row) for r in self.rows)]
        write_text(self.folder / FILE, "\n".join(lines) + "\n")

    def draw(self) -> None:
        """Write the figure."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        epochs = [r["epoch"] for r in self.rows]
        for label in list(self.rows[-1])[1:]:
            axes.plot(epochs, [100 * r.get(label, math.nan) for r in self.rows], marker=".", label=label)
        axes.axhline(100 * CLOSED, color="0.6", linestyle=":", label="closed below")
        axes.set(xlabel="epoch", ylabel="share of the signal (%)", ylim=(0, None))
        axes.legend(fontsize="small", ncols=1 + len(self.rows[-1]) // 12)
        FigureCanvasAgg(figure).print_png(self.folder / FIGURE)


def _meter(trainer: Any) -> Meter | None:
    """Hooks for the model that the trainer is about to validate; None where there is nothing to measure."""
    from ultralytics.utils import RANK

    if RANK not in (-1, 0):
        return None
    try:
        model = unwrapped((trainer.ema and trainer.ema.ema) or trainer.model)
        return Meter(model, lenient=True) if gated(model) else None
    except Exception:
        _debug()
        return None


def _record(trainer: Any, meter: Meter) -> None:
    """Add what was measured to the trainer's log."""
    log = trainer.__dict__.get(_LOG)
    if log is None:
        log = trainer.__dict__[_LOG] = GateLog(Path(trainer.save_dir), bool(trainer.resume))
        trainer.add_callback("on_train_end", _finish)
    log.add(trainer.epoch + 1, meter.result)


def _finish(trainer: Any) -> None:
    """The figure, the line, and the warning where it is due."""
    log = trainer.__dict__.pop(_LOG, None)  # once: some releases share the list of callbacks with the next training
    if log is not None:
        if trainer.args.plots:
            _quietly(log.draw)
        _quietly(_conclude, trainer, log.rows[-1]["epoch"])


def _conclude(trainer: Any, epochs: float) -> None:
    from ultralytics.utils import LOGGER

    shares = list(last_shares(trainer.save_dir).values())
    if not shares:
        return
    line = f"yolo_attn: {contribution(shares)} after {epochs:g} epoch{'s' * (epochs != 1)} ({FILE})"
    if not is_closed(shares):
        LOGGER.info(line)
        return
    steps = math.ceil(epochs * len(trainer.train_loader) / max(trainer.accumulate, 1))
    factor, names = block_lr.chosen(trainer)
    parameters = dict(unwrapped(trainer.model).named_parameters())
    frozen = [k for k in new_parameters.block_parameters(unwrapped(trainer.model)) if not parameters[k].requires_grad]
    LOGGER.warning(
        f"{line}. The blocks stayed closed: this model computes nearly what it would without them. "
        f"Remedy: {remedy(factor, bool(names), bool(frozen), steps)} See docs/fine-tuning.md."
    )


def remedy(factor: float, new: bool, frozen: bool, steps: int) -> str:
    """What would open gates that stayed closed.

    Args:
        factor: On the learning rate of new blocks.
        new: Whether there were any.
        frozen: Whether parameters of blocks were frozen.
        steps: Optimizer steps of the training.
    """
    if frozen:
        return "leave the rows of the blocks out of freeze=."
    if not new:
        return (
            f"train for longer than {steps} steps; or start from the weights of a stock model (pretrained=…) rather "
            "than from a checkpoint of this one, so that the blocks are new and train at a higher rate."
        )
    if factor < block_lr.DEFAULT:
        return f"train with block_lr={block_lr.DEFAULT:g} instead of {factor:g}."
    return f"train for longer than {steps} steps, or with a block_lr above {factor:g}."


def _quietly(work: Any, *args: Any) -> None:
    try:
        work(*args)
    except Exception:
        _debug()


def _debug() -> None:
    from ultralytics.utils import LOGGER

    LOGGER.debug("yolo_attn: the blocks' share of the signal was not measured", exc_info=True)
