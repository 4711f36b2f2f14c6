"""`what=gates`: the share of the signal that each inserted block contributes (`inside.gates`)."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from torch import nn

from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..gates import Meter, gated, ungated
from ..shares import CLOSED


def missing(net: nn.Module) -> str:
    """Why no share can be measured."""
    if gated(net):
        return ""
    return "its blocks have no gate: all of the signal passes through them" if ungated(net) else "it has no blocks"


def compute(subject: Subject) -> Found:
    """One line per gated block and model."""
    lines, sentences = [], []
    for name, net in subject.models.items():
        with Meter(net, len(subject.images)) as meter:
            for image in subject.images:
                net(image.x_1CHW)
        for depth, gate in enumerate(meter.result.rows):
            line = {"model": name, "depth": depth, "row": gate.row, "block": gate.label, "share": gate.share}
            state = "still closed" if gate.share < CLOSED else "used"
            lines.append(line | {"largest_gain": gate.gain, "state": state})
        sentences.append(f"{name}: {meter.result.sentence}: {meter.result.verdict}")
    return Found(pl.DataFrame(lines), "; ".join(sentences))


def draw(found: Found) -> Figure:
    """One bar per block, by depth; a group of bars where there are several models."""
    models = found.table["model"].unique(maintain_order=True).to_list()
    count = found.table.filter(pl.col("model") == models[0]).height
    figure, ax = canvas.plot(0.9 + 0.22 * count * max(1, len(models) / 2))
    thickness = 0.8 / len(models)
    for k, model in enumerate(models):
        rows = found.table.filter(pl.col("model") == model)
        y = [depth + k * thickness for depth in rows["depth"]]
        colour = canvas.PALETTE[k % len(canvas.PALETTE)]
        ax.barh(y, [100 * s for s in rows["share"]], thickness, align="edge", color=colour, label=model)
        ax.set_yticks([d + 0.4 for d in rows["depth"]], rows["block"].to_list())
    ax.axvline(100 * CLOSED, color=canvas.GREY, linestyle="--", linewidth=0.8)
    ax.set(xlabel=f"share of the signal, % (dashed: {CLOSED:.0%}, below which a block counts as closed)")
    ax.invert_yaxis()
    if len(models) > 1:
        ax.legend(frameon=False)
    return figure


ANALYSIS = Analysis(
    "gates",
    "Are the blocks used?",
    missing,
    compute,
    draw,
    "Share of the signal that each inserted block contributes, ||y - x|| / ||x|| for a residual row y = x + "
    "BN(operator(x)), mean over images; rows from the input to the output. A block whose gate never opened does "
    "nothing: the other figures then show the stock model.",
)
