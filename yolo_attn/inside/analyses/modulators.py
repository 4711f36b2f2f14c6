"""`what=modulator`: what SMT's modulator holds before and after its aggregation, and each head's context.

Source  Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, section 3
        and the figures of the modulators
Shapes  C channels, H W height and width of a map, h heads
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..detections import energy_inside, positions_in
from ..gates import row_of
from ..watching import label_of, recording, watched

#: Blocks that are drawn, at most.
DRAWN = 6


def missing(net: nn.Module) -> str:
    """Why there is no modulator."""
    return "" if watched(net, "modulator", "mixed_conv") else "it has no scale-aware modulation (SAM)"


def head_contexts(mixed_1CHW: Tensor, heads: int) -> list[Tensor]:
    """Mean magnitude of each head's context, (H, W) each; channel g * heads + i belongs to head i."""
    return [mixed_1CHW[0, i::heads].float().abs().mean(0) for i in range(heads)]


def compute(subject: Subject) -> Found:
    """One line per block: share of the magnitude inside the detected boxes before and after the aggregation."""
    net = subject.net
    operators: dict[str, Any] = watched(net, "modulator", "mixed_conv")
    paths = {
        f"{path}.{part}": getattr(m, part) for path, m in operators.items() for part in ("modulator", "mixed_conv")
    }
    shares: dict[str, list[tuple[float, ...]]] = {path: [] for path in operators}
    pictures: dict[str, Any] = {}
    with recording(paths) as passages:
        for k, image in enumerate(subject.images):
            net(image.x_1CHW)
            boxes, size = subject.detections[k], (image.x_1CHW.shape[2], image.x_1CHW.shape[3])
            maps = {
                path: [passages[f"{path}.{part}"].y[0].float().abs().mean(0) for part in ("mixed_conv", "modulator")]
                for path in operators
            }
            for path, (before_HW, after_HW) in maps.items():
                area = float(positions_in(boxes, tuple(before_HW.shape), size).float().mean())
                if 0 < area < 1:
                    found = tuple(energy_inside(m, boxes, size) for m in (before_HW, after_HW))
                    shares[path].append((area, *found))
            if not pictures or (boxes and "boxes" not in pictures):
                pictures = {"image": image.picture} | ({"boxes": True} if boxes else {})
                for path, (before_HW, after_HW) in maps.items():
                    heads = len(operators[path].mixed_conv.heads)
                    context = head_contexts(passages[f"{path}.mixed_conv"].y, heads)
                    pictures[label_of(net, path)] = [m.cpu().numpy() for m in (*context, before_HW, after_HW)]
    lines = []
    for path, values in shares.items():
        means = [sum(column) / len(values) for column in zip(*values, strict=True)] if values else [math.nan] * 3
        line = dict(zip(("boxes_area", "inside_before", "inside_after"), means, strict=True))
        lines.append({"row": row_of(net, path)[0], "block": label_of(net, path), **line, "images": len(values)})
    table = pl.DataFrame(lines)
    known = table.filter(pl.col("images") > 0).select("boxes_area", "inside_before", "inside_after")
    headline = "nothing was detected, so no share inside boxes was measured"
    if known.height:
        area, before, after = (100 * share for share in known.mean().row(0))
        headline = f"inside boxes, which cover {area:.0f} % of the image: {before:.0f} % of the magnitude before the "
        headline += f"aggregation, {after:.0f} % after it (mean over blocks)"
    return Found(table, headline, pictures)


def draw(found: Found) -> Figure:
    """The first image with detections; per block the context of each head, then both stages."""
    blocks = canvas.spread(found.table["block"].to_list(), DRAWN)
    most = max(len(found.pictures[block]) for block in blocks) - 2
    shown = []
    for block in blocks:
        *heads, before, after = found.pictures[block]
        shown.append([found.pictures["image"], *heads, *[None] * (most - len(heads)), before, after])
    columns = ["image", *(f"head {i}: {3 + 2 * i} x {3 + 2 * i}" for i in range(most)), "before", "after"]
    return canvas.pictures(shown, blocks, columns, cmap="viridis")


ANALYSIS = Analysis(
    "modulator",
    "What does the modulator respond to?",
    missing,
    compute,
    draw,
    "Mean magnitude over channels of the context of each head, of all heads together (before the scale-aware "
    "aggregation) and of the modulator (after it), each in its own colour range (Lin et al. 2023).",
)
