"""`what=rates`: attention against convolution in ACmix, by depth.

Source  Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022, https://arxiv.org/abs/2111.14556,
        section 5.5 and its figure: the learned rates alpha and beta by depth
"""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from torch import nn

from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..gates import row_of
from ..watching import label_of, recording, watched


def missing(net: nn.Module) -> str:
    """Why there are no rates."""
    return "" if watched(net, "att", "conv") else "it has no ACmix"


def compute(subject: Subject) -> Found:
    """One line per ACmix and model: both rates, and the attention path's part of the sum of both norms."""
    lines = []
    for name, net in subject.models.items():
        operators = watched(net, "att", "conv")
        paths = {f"{path}.{part}": getattr(m, part) for path, m in operators.items() for part in ("att", "conv")}
        shares: dict[str, list[float]] = {path: [] for path in operators}
        with recording(paths) as passages:
            for image in subject.images:
                net(image.x_1CHW)
                for path, found in shares.items():
                    att, conv = (float(passages[f"{path}.{part}"].y.float().norm()) for part in ("att", "conv"))
                    found.append(att / (att + conv))
        for depth, (path, module) in enumerate(operators.items()):
            line = {"model": name, "depth": depth, "row": row_of(net, path)[0], "block": label_of(net, path)}
            line |= {"alpha": float(module.rate_att), "beta": float(module.rate_conv)}
            lines.append(line | {"attention": sum(shares[path]) / len(shares[path])})
    table = pl.DataFrame(lines)
    mean = table.group_by("depth", maintain_order=True).agg(
        pl.col("attention").mean().alias("mean"), pl.col("attention").std().alias("std")
    )
    first, last = mean["mean"][0], mean["mean"][-1]
    return Found(
        table, f"the attention path is {100 * first:.0f} % of the sum at the first row, {100 * last:.0f} % at the last"
    )


def draw(found: Found) -> Figure:
    """The share by depth: a thin line per model, and their mean where there are several."""
    figure, ax = canvas.plot(2.4)
    models = found.table["model"].unique(maintain_order=True).to_list()
    for k, model in enumerate(models):
        rows = found.table.filter(pl.col("model") == model)
        colour = canvas.PALETTE[k % len(canvas.PALETTE)]
        ax.plot(rows["depth"], 100 * rows["attention"], "o-", color=colour, linewidth=1, markersize=3, label=model)
        ax.set_xticks(rows["depth"].to_list(), rows["block"].to_list(), rotation=20)
    if len(models) > 1:
        mean = found.table.group_by("depth", maintain_order=True).agg(pl.col("attention").mean()).sort("depth")
        ax.plot(mean["depth"], 100 * mean["attention"], color="black", linewidth=2, label="mean")
        ax.legend(frameon=False)
    ax.axhline(50, color=canvas.GREY, linestyle="--", linewidth=0.8)
    ax.set(ylabel="attention, % of the sum", ylim=(0, 100))
    return figure


ANALYSIS = Analysis(
    "rates",
    "Attention or convolution?",
    missing,
    compute,
    draw,
    "||alpha att|| / (||alpha att|| + ||beta conv||) of each ACmix, mean over images, by depth. Only this ratio has"
    " a meaning, not alpha and beta themselves: a BatchNorm follows.",
)
