"""`what=kernels`: the kernel size that SK chooses, against the size of the object.

Source  Li et al., Selective Kernel Networks, CVPR 2019, https://arxiv.org/abs/1903.06586, section 4.4: objects enlarged
        1.0 to 2.0 times. SK's weights are per image, not per object, so the image is cropped around the object.
Shapes  K branches, C channels
"""

from __future__ import annotations

import math
from statistics import linear_regression
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from ...blocks.sknet.operator import SelectiveKernel
from ...errors import UsageError
from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..detections import missing_boxes
from ..gates import row_of
from ..watching import label_of, recording, watched

FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0)


def expected_kernel(module: Any, a_1KC11: Tensor) -> float:
    """Sum over branches of weight times kernel size, mean over channels and images.

    Args:
        module: A `SelectiveKernel`; a dilated kernel counts with the side it covers.
        a_1KC11: Its weights.
    """
    sides = [(conv.conv.kernel_size[0] - 1) * conv.conv.dilation[0] + 1 for conv in module.convs]
    a_K = a_1KC11.float().mean((0, *range(2, a_1KC11.ndim)))
    return float(sum(a * side for a, side in zip(a_K, sides, strict=True)))


def enlarged(x_1CHW: Tensor, centre: tuple[float, float], factor: float) -> Tensor:
    """The image cropped to 1 / factor of its sides and resized to its size.

    Args:
        x_1CHW: The image.
        centre: y and x of the crop, in pixels; moved where the crop would leave the image.
        factor: How much larger objects become.
    """
    height, width = x_1CHW.shape[2:]
    h, w = round(height / factor), round(width / factor)
    top = min(max(round(centre[0] - h / 2), 0), height - h)
    left = min(max(round(centre[1] - w / 2), 0), width - w)
    crop = x_1CHW[:, :, top : top + h, left : left + w]
    return F.interpolate(crop, (height, width), mode="bilinear", align_corners=False) if factor != 1 else x_1CHW


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean of a sample and its 95 % t interval; infinite for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def _blocks(net: nn.Module) -> dict[str, Any]:
    """Path -> SK operator with more than one branch."""
    found = watched(net, "softmax").items()
    return {p: m for p, m in found if isinstance(m, SelectiveKernel) and len(m.convs) > 1}


def missing(net: nn.Module) -> str:
    """Why there are no kernels to choose from."""
    return "" if _blocks(net) else "it has no selective kernels (SK)"


def compute(subject: Subject) -> Found:
    """One line per block and enlargement; the slope is repeated in each of its block's lines."""
    net, blocks = subject.net, _blocks(subject.net)
    curves: dict[str, list[list[float]]] = {path: [] for path in blocks}  # block -> image -> enlargement
    for image, detections in zip(subject.images, subject.detections, strict=True):
        if missing_boxes(net):
            centre = image.x_1CHW.shape[2] / 2, image.x_1CHW.shape[3] / 2
        elif len(detections) > subject.object:
            left, top, right, bottom = detections[subject.object].box
            centre = (top + bottom) / 2, (left + right) / 2
        else:
            continue
        for found in curves.values():
            found.append([])
        for factor in FACTORS:
            with recording({path: m.softmax for path, m in blocks.items()}) as passages:
                net(enlarged(image.x_1CHW, centre, factor))
            for path, m in blocks.items():
                curves[path][-1].append(expected_kernel(m, passages[path].y))
    if not next(iter(curves.values())):
        raise UsageError(
            f"nothing is detected with a score of {subject.conf:g} or more; lower conf= or give other images."
        )
    lines = []
    for depth, (path, found) in enumerate(curves.items()):
        slope, low, high = interval([linear_regression(FACTORS, curve).slope for curve in found])
        for k, factor in enumerate(FACTORS):
            line = {
                "depth": depth,
                "row": row_of(net, path)[0],
                "block": label_of(net, path),
                "enlarged": factor,
                "images": len(found),
            }
            line |= {"expected_kernel": sum(curve[k] for curve in found) / len(found)}
            lines.append(line | {"slope": slope, "slope_low": low, "slope_high": high})
    table = pl.DataFrame(lines)
    slopes = table.unique("depth", maintain_order=True)
    signs = [slopes.filter(condition).height for condition in (pl.col("slope_low") > 0, pl.col("slope_high") < 0)]
    headline = (
        f"the kernel grows with the object in {signs[0]} of {slopes.height} blocks and shrinks in {signs[1]} (95 %)"
    )
    if slopes["images"][0] == 1:
        headline = "slopes from one image have no interval; give more images"
    return Found(table, headline)


def draw(found: Found) -> Figure:
    """Expected kernel by enlargement, a line per block."""
    figure, ax = canvas.plot(2.6)
    for k, ((block,), rows) in enumerate(found.table.group_by(["block"], maintain_order=True)):
        label = f"{block}: {rows['slope'][0]:+.3f} per factor"
        if math.isfinite(rows["slope_low"][0]):
            label += f" [{rows['slope_low'][0]:+.3f}, {rows['slope_high'][0]:+.3f}]"
        colour = canvas.PALETTE[k % len(canvas.PALETTE)]
        ax.plot(rows["enlarged"], rows["expected_kernel"], "o-", color=colour, linewidth=1, markersize=3, label=label)
    ax.set(xlabel="object enlarged by", ylabel="expected kernel size")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


ANALYSIS = Analysis(
    "kernels",
    "Which kernel size is chosen?",
    missing,
    compute,
    draw,
    "Expected kernel size of each SK block, the sum over branches of weight times side, mean over channels, when "
    "the image is cropped around a detected object and enlarged 1 to 2 times (Li et al. 2019, section 4.4); slope "
    "per unit of enlargement with its 95 % t interval over images.",
)
