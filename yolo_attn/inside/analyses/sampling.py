"""`what=points`: where deformable token merging (DTM) samples.

Source  Pan et al., Less is More: Pay Less Attention in Vision Transformers (LIT), AAAI 2022,
        https://arxiv.org/abs/2105.14217, section 3.3 and its figure of sampling points
Shapes  T taps of a patch, O = 2 T offsets, R S rows and columns of patches, N points
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..detections import Detection
from ..gates import row_of
from ..watching import label_of, recording, watched

#: Most points drawn in a picture, and pictures in a row.
DRAWN, COLUMNS = 4000, 3


def missing(net: nn.Module) -> str:
    """Why nothing is sampled."""
    return "" if watched(net, "conv_offset") else "it has no deformable token merging (DTM)"


def points(offset_1ORS: Tensor, patch: tuple[int, int], pixels: tuple[float, float]) -> Tensor:
    """Sampling points, y and x in pixels of the image, (N, 2).

    Args:
        offset_1ORS: Offset (dy, dx) of each tap in steps of the map, taps row by row.
        patch: Height and width of a patch in steps of the map.
        pixels: Pixels per step of the map, down and across.
    """
    kh, kw = patch
    rows, columns = offset_1ORS.shape[2:]
    d_RSKK2 = offset_1ORS[0].float().reshape(kh, kw, 2, rows, columns).permute(3, 4, 0, 1, 2)
    y = torch.arange(rows)[:, None, None, None] * kh + torch.arange(kh)[None, None, :, None]
    x = torch.arange(columns)[None, :, None, None] * kw + torch.arange(kw)
    grid = torch.stack(torch.broadcast_tensors(y, x), -1).to(d_RSKK2)
    return ((grid + d_RSKK2 + 0.5) * torch.tensor(pixels).to(d_RSKK2)).reshape(-1, 2)


def share_inside(points_N2: Tensor, boxes: list[Detection]) -> float:
    """Share of the points that lie in a box."""
    y_N, x_N = points_N2.unbind(1)
    held_N = torch.zeros(len(points_N2), dtype=torch.bool, device=points_N2.device)
    for d in boxes:
        left, top, right, bottom = d.box
        held_N |= (x_N >= left) & (x_N < right) & (y_N >= top) & (y_N < bottom)
    return float(held_N.float().mean())


def compute(subject: Subject) -> Found:
    """One line per DTM: share of its points in boxes, that of the grid without offsets, and the mean offset."""
    net = subject.net
    modules: dict[str, Any] = watched(net, "conv_offset")
    found: dict[str, list[tuple[float, float, float]]] = {path: [] for path in modules}
    pictures: dict[str, Any] = {}
    with recording({path: m.conv_offset for path, m in modules.items()}) as passages:
        for k, image in enumerate(subject.images):
            net(image.x_1CHW)
            boxes, size = subject.detections[k], image.x_1CHW.shape[2:]
            first = not pictures or (boxes and "boxes" not in pictures)
            if first:
                pictures = {"image": image.picture} | ({"boxes": [d.box for d in boxes]} if boxes else {})
            for path, m in modules.items():
                offset_1ORS = passages[path].y
                kh, kw = m.patch_size
                step = (size[0] / (offset_1ORS.shape[2] * kh), size[1] / (offset_1ORS.shape[3] * kw))
                at_N2 = points(offset_1ORS, m.patch_size, step)
                if boxes:
                    grid_N2 = points(torch.zeros_like(offset_1ORS), m.patch_size, step)
                    moved = float(offset_1ORS.float().unflatten(1, (-1, 2)).norm(dim=2).mean())
                    found[path].append((share_inside(at_N2, boxes), share_inside(grid_N2, boxes), moved))
                if first:
                    pictures[label_of(net, path)] = at_N2[:: max(1, len(at_N2) // DRAWN)].cpu().numpy()
    lines = []
    for path, values in found.items():
        means = [sum(column) / len(values) for column in zip(*values, strict=True)] if values else [math.nan] * 3
        line = dict(zip(("inside", "inside_uniform", "mean_offset"), means, strict=True))
        lines.append({"row": row_of(net, path)[0], "block": label_of(net, path), **line, "images": len(values)})
    table = pl.DataFrame(lines)
    headline = "nothing was detected, so no share inside boxes was measured"
    if table["images"].max():
        headline = "points in boxes, and of a uniform grid: " + ", ".join(
            f"{line['block']} {100 * line['inside']:.1f} %, {100 * line['inside_uniform']:.1f} %"
            for line in table.iter_rows(named=True)
        )
    return Found(table, headline, pictures)


def draw(found: Found) -> Figure:
    """The points over the first image with detections, one picture per DTM."""
    blocks, image = found.table["block"].to_list(), found.pictures["image"]
    columns = min(len(blocks), COLUMNS)
    rows = math.ceil(len(blocks) / columns)
    side = canvas.WIDTH / COLUMNS
    figure, grid = canvas.axes(rows, columns, rows * (side * image.shape[0] / image.shape[1] + 0.2), columns * side)
    for ax in grid.flat:
        ax.axis("off")
    for ax, block in zip(grid.flat, blocks, strict=False):
        ax.imshow(image)
        ax.scatter(found.pictures[block][:, 1], found.pictures[block][:, 0], s=1, c=canvas.PALETTE[4], linewidths=0)
        for left, top, right, bottom in found.pictures.get("boxes", ()):
            ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="white", linewidth=0.8)
        ax.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
        ax.set_title(block, fontsize=7)
    return figure


ANALYSIS = Analysis(
    "points",
    "Where does token merging sample?",
    missing,
    compute,
    draw,
    "Points at which deformable token merging reads its input map, in pixels of the image, with the detected boxes;"
    " their share inside the boxes against that of the undeformed grid (Pan et al. 2022, section 3.3).",
)
