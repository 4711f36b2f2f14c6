"""`what=maps`: the channels that vary most, before and after each block.

Shapes  C channels, H W height and width of a map
"""

from __future__ import annotations

from typing import Any

import polars as pl
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..watching import recording, rows_of_blocks

#: Channels per row, and rows that are drawn, at most.
CHANNELS, DRAWN = 6, 6


def most_varying(map_CHW: Tensor, count: int = CHANNELS) -> list[int]:
    """The channels with the largest variance over positions, largest first."""
    return map_CHW.float().var((1, 2), unbiased=False).argsort(descending=True, stable=True)[:count].tolist()


def missing(net: nn.Module) -> str:
    """Why there are no blocks to look at."""
    return "" if rows_of_blocks(net) else "it has no blocks"


def compute(subject: Subject) -> Found:
    """One line per row and channel of the first image: standard deviation over positions, before and after."""
    net: Any = subject.net
    rows = rows_of_blocks(net)
    with recording({str(i): net.model[i] for i in rows}) as passages:
        net(subject.images[0].x_1CHW)
    lines, pictures = [], {}
    for i in rows:
        x, y = passages[str(i)]
        after_CHW = y[0].float()
        before_CHW = x[0].float() if isinstance(x, Tensor) and x.shape == y.shape else None
        label = f"{i} {type(net.model[i]).__name__}"
        for k, channel in enumerate(most_varying(after_CHW)):
            before = None if before_CHW is None else before_CHW[channel]
            line = {"row": i, "block": label, "channel": channel}
            line |= {"std_before": None if before is None else float(before.std(unbiased=False))}
            lines.append(line | {"std_after": float(after_CHW[channel].std(unbiased=False))})
            for stage, map_HW in (("before", before), ("after", after_CHW[channel])):
                if map_HW is not None:
                    pictures[f"{label}|{stage}|{k}"] = map_HW.cpu().numpy()
    return Found(pl.DataFrame(lines, infer_schema_length=None), f"image {subject.images[0].name}", pictures)


def draw(found: Found) -> Figure:
    """Two rows of channels per block."""
    blocks = canvas.spread(found.table["block"].unique(maintain_order=True).to_list(), DRAWN)
    stages = [(b, s) for b in blocks for s in ("before", "after") if f"{b}|{s}|0" in found.pictures]
    shown = [[found.pictures.get(f"{b}|{s}|{k}") for k in range(CHANNELS)] for b, s in stages]
    return canvas.pictures(
        shown, [f"{b}\n{s}" for b, s in stages], [f"#{k + 1}" for k in range(CHANNELS)], cmap="viridis"
    )


ANALYSIS = Analysis(
    "maps",
    "What do the maps look like?",
    missing,
    compute,
    draw,
    "The channels whose output varies most over the positions of the first image, before and after each block, each"
    " in its own colour range. Blocks that change the size have no map before.",
)
