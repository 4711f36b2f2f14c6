"""`what=modulator`: SMT's modulator before and after its aggregation, each head's context, and how far blocks reach.

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
from . import attention_reach
from .spectra import above_half_nyquist

#: Stage of the modulator -> submodule whose output it is.
STAGES = {"before": "mixed_conv", "after": "modulator"}
#: What is measured; means over images in the table.
COLUMNS = (
    "boxes_area",
    *(f"{what}_{stage}" for what in ("inside", "above_half_nyquist") for stage in STAGES),
    "relative_receptive_field",
)
#: Blocks that are drawn, at most.
DRAWN = 6
#: Characters of a block's name in the figure, at most; a longer one begins with dots.
LABEL = 24


def missing(net: nn.Module) -> str:
    """Why there is no modulator."""
    return "" if watched(net, "modulator", "mixed_conv") else "it has no scale-aware modulation (SAM)"


def head_contexts(mixed_1CHW: Tensor, heads: int) -> list[Tensor]:
    """Mean magnitude of each head's context, (H, W) each; channel g * heads + i belongs to head i."""
    return [mixed_1CHW[0, i::heads].float().abs().mean(0) for i in range(heads)]


def compute(subject: Subject) -> Found:
    """One line per block, before and after the aggregation: magnitude inside the detected boxes, frequencies; and r.

    SMT's attention blocks have r only.
    """
    net = subject.net
    operators: dict[str, Any] = watched(net, "modulator", "mixed_conv")
    paths = {f"{path}.{part}": getattr(m, part) for path, m in operators.items() for part in STAGES.values()}
    attentions: dict[str, Any] = watched(net, "attended", "local_conv")
    values: dict[str, dict[str, list[float]]] = {
        path: {column: [] for column in COLUMNS} for path in (*operators, *attentions)
    }
    pictures: dict[str, Any] = {}
    for image, boxes in zip(subject.images, subject.detections, strict=True):
        with recording(paths | attentions) as passages:
            net(image.x_1CHW)
        size = image.x_1CHW.shape[2], image.x_1CHW.shape[3]
        magnitudes = {}
        for path, m in operators.items():
            stages = {stage: passages[f"{path}.{part}"].y[0].float() for stage, part in STAGES.items()}
            found = {f"above_half_nyquist_{stage}": above_half_nyquist(y_CHW) for stage, y_CHW in stages.items()}
            found["relative_receptive_field"] = attention_reach.of_modulator(m, passages[f"{path}.mixed_conv"].x)
            magnitudes[path] = {stage: y_CHW.abs().mean(0) for stage, y_CHW in stages.items()}
            area = float(positions_in(boxes, tuple(stages["before"].shape[1:]), size).float().mean())
            if 0 < area < 1:
                found["boxes_area"] = area
                found |= {f"inside_{k}": energy_inside(v_HW, boxes, size) for k, v_HW in magnitudes[path].items()}
            for column, value in found.items():
                values[path][column].append(value)
        for path, m in attentions.items():
            values[path]["relative_receptive_field"].append(attention_reach.of_attention(m, passages[path].x))
        if not pictures or (boxes and "boxes" not in pictures):
            pictures = {"image": image.picture} | ({"boxes": True} if boxes else {})
            for path, m in operators.items():
                context = head_contexts(passages[f"{path}.mixed_conv"].y, len(m.mixed_conv.heads))
                maps = (*context, *magnitudes[path].values())
                pictures[label_of(net, path)] = [m_HW.cpu().numpy() for m_HW in maps]
    lines = []
    for path, columns in values.items():
        kind = "modulation" if path in operators else "attention"
        line = {"row": row_of(net, path)[0], "block": label_of(net, path), "kind": kind}
        line |= {column: sum(x) / len(x) if x else math.nan for column, x in columns.items()}
        lines.append(line | {"images": len(columns["boxes_area"])})
    order = {path: i for i, (path, _) in enumerate(net.named_modules())}
    lines = [line for _, line in sorted(zip(values, lines, strict=True), key=lambda pair: order[pair[0]])]
    table = pl.DataFrame(lines)
    known = table.filter(pl.col("images") > 0).select("boxes_area", "inside_before", "inside_after")
    headline = "nothing was detected, so no share inside boxes was measured"
    if known.height:
        area, before, after = (100 * share for share in known.mean().row(0))
        headline = f"inside boxes, which cover {area:.0f} % of the image: {before:.0f} % of the magnitude before the "
        headline += f"aggregation, {after:.0f} % after it (mean over blocks)"
    reach = table.filter(pl.col("relative_receptive_field").is_not_nan())["relative_receptive_field"].to_list()
    if reach:
        headline += f"; relative receptive field {reach[0]:.3f} in the first block, {reach[-1]:.3f} in the last"
    return Found(table, headline, pictures)


def draw(found: Found) -> Figure:
    """The first image with detections; per block the context of each head, then both stages."""
    modulations = found.table.filter(pl.col("kind") == "modulation")
    reach = dict(modulations.select("block", "relative_receptive_field").iter_rows())
    blocks = canvas.spread(list(reach), DRAWN)
    most = max(len(found.pictures[block]) for block in blocks) - 2
    shown = []
    for block in blocks:
        *heads, before, after = found.pictures[block]
        shown.append([found.pictures["image"], *heads, *[None] * (most - len(heads)), before, after])
    columns = ["image", *(f"head {i}: {3 + 2 * i} x {3 + 2 * i}" for i in range(most)), "before", "after"]
    short = [block if len(block) <= LABEL else f"...{block[3 - LABEL :]}" for block in blocks]
    rows = [f"{name}\nr = {reach[block]:.3f}" for name, block in zip(short, blocks, strict=True)]
    return canvas.pictures(shown, rows, columns, cmap="viridis")


ANALYSIS = Analysis(
    "modulator",
    "What does the modulator respond to?",
    missing,
    compute,
    draw,
    "Mean magnitude over channels of the context of each head, of all heads together (before the scale-aware "
    "aggregation) and of the modulator (after it), each in its own colour range; r is the relative receptive "
    "field: mean distance that a position gathers from, by the diagonal of the map (Lin et al. 2023).",
)
