"""`what=cam`: which positions of a row speak for the class and for the box of one detection.

Source  Grad-CAM: Selvaraju et al., ICCV 2017, https://arxiv.org/abs/1610.02391
        LayerCAM: Jiang et al., IEEE TIP 2021, https://doi.org/10.1109/TIP.2021.3089943
        EigenCAM: Muhammad and Yeasin, IJCNN 2020, https://arxiv.org/abs/2008.00299
        Check by random weights: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018,
        https://arxiv.org/abs/1810.03292
Shapes  C channels, H W height and width of the row's map
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from .. import canvas
from ..analysis import Analysis, Found, Image, Subject
from ..detections import Detection, energy_inside, evidence, missing_boxes
from ..gates import gated
from ..watching import bypassed, recording, rows_of_blocks

#: A map whose rank correlation with that of a model with random weights is above this says nothing about the model.
UNINFORMATIVE = 0.5
#: Rows that are drawn, at most.
DRAWN = 6


def grad_cam(map_CHW: Tensor, gradient_CHW: Tensor) -> Tensor:
    """ReLU of the channels' sum, weighted by their mean gradients, (H, W)."""
    return (gradient_CHW.mean((1, 2), keepdim=True) * map_CHW).sum(0).relu()


def layer_cam(map_CHW: Tensor, gradient_CHW: Tensor) -> Tensor:
    """ReLU of the channels' sum, each position weighted by its own positive gradient, (H, W)."""
    return (gradient_CHW.relu() * map_CHW).sum(0).relu()


def eigen_cam(map_CHW: Tensor, gradient_CHW: Tensor) -> Tensor:
    """Magnitude of the projection on the channels' first principal axis, (H, W); the gradient plays no part."""
    x_NC = map_CHW.flatten(1).T
    _, _, v_CC = torch.linalg.svd(x_NC - x_NC.mean(0), full_matrices=False)
    return ((x_NC - x_NC.mean(0)) @ v_CC[0]).abs().reshape(map_CHW.shape[1:])


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Grad-CAM": grad_cam,
    "LayerCAM": layer_cam,
    "EigenCAM": eigen_cam,
}


def rank_correlation(a_HW: Tensor, b_HW: Tensor) -> float:
    """Spearman's rank correlation of two maps; 0 where one is constant."""
    ranks = [torch.from_numpy(_ranks(m.flatten().cpu().numpy())) for m in (a_HW, b_HW)]
    a_N, b_N = (r - r.mean() for r in ranks)
    norm = float(a_N.norm() * b_N.norm())
    return float(a_N @ b_N) / norm if norm else 0.0


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """Ranks, with the mean rank for equal values."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    ranks: np.ndarray = ((ends - counts + ends - 1) / 2)[inverse]
    return ranks


def maps(net: Any, rows: list[int], x_1CHW: Tensor, target: Detection) -> dict[tuple[int, str, str], Tensor]:
    """(row, method, "class" or "box") -> map (H, W), for one detection.

    The evidence for the class is its logit at the detection's position; that for the box is the sum of the four
    distances from the position to its sides.

    Args:
        net: A model with a detection head, in evaluation mode.
        rows: Rows of its YAML.
        x_1CHW: The image.
        target: The detection; its level, position and class are used.
    """
    with torch.enable_grad(), recording({str(i): net.model[i] for i in [*rows, len(net.model) - 1]}) as passages:
        net(x_1CHW.detach().requires_grad_())
        logits_cHW, sides_4HW = evidence(net.model[-1], passages[str(len(net.model) - 1)].x)[target.level]
        at = (slice(None), target.row, target.column)
        found = {}
        for kind, value in (("class", logits_cHW[at][target.cls]), ("box", sides_4HW[at].sum())):
            outputs = [passages[str(i)].y for i in rows]
            gradients = torch.autograd.grad(value, outputs, retain_graph=True, allow_unused=True)
            for i, y_1CHW, g_1CHW in zip(rows, outputs, gradients, strict=True):
                map_CHW = y_1CHW[0].detach().float()
                gradient_CHW = torch.zeros_like(map_CHW) if g_1CHW is None else g_1CHW[0].float()
                for method, cam in METHODS.items():
                    found[i, method, kind] = cam(map_CHW, gradient_CHW)
    return found


def randomised(net: Any) -> nn.Module:
    """A copy with every weight drawn anew from a normal distribution of the same mean and spread."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            if p.ndim > 1:
                noise = torch.randn(p.shape, generator=generator).to(p)
                p.copy_(noise * p.std(unbiased=False) + p.mean())
    return other


def missing(net: Any) -> str:
    """Why there is no evidence to follow."""
    return missing_boxes(net)


def compute(subject: Subject) -> Found:
    """One line per row, method and evidence for one detection of the first image that has it."""
    image, target = _target(subject)
    size = (image.x_1CHW.shape[2], image.x_1CHW.shape[3])
    rows = rows_of_blocks(subject.net) or [i for i in subject.net.model[-1].f if i >= 0]
    variants: list[tuple[str, Any, list[int], Any]] = [(subject.name, subject.net, rows, contextlib.nullcontext())]
    if gated(subject.net):
        variants.append(("blocks bypassed", subject.net, rows, bypassed(subject.net)))
    if subject.against and not missing_boxes(subject.against[1]):
        name, stock = subject.against
        variants.append((name, stock, _same_rows(subject.net, stock, rows), contextlib.nullcontext()))
    random = maps(randomised(subject.net), rows, image.x_1CHW, target)
    lines, pictures = [], {"image": image.picture, "box": target.box}
    for name, net, places, context in variants:
        if name != subject.name and target.cls >= net.model[-1].nc:
            continue  # other classes
        with context:
            found = maps(net, places, image.x_1CHW, target)
        for row, place in zip(rows, places, strict=True):
            label = f"{row} {type(subject.net.model[row]).__name__}"
            for method in METHODS:
                for kind in ("class", "box"):
                    map_HW = found[place, method, kind]
                    share = energy_inside(map_HW, [target], size) if map_HW.sum() > 0 else math.nan
                    line = {"model": name, "row": row, "block": label, "method": method, "evidence": kind}
                    line |= {"inside_box": share, "random_weights_correlation": math.nan, "uninformative": None}
                    if name == subject.name:
                        similar = rank_correlation(map_HW, random[row, method, kind])
                        line |= {"random_weights_correlation": similar, "uninformative": similar > UNINFORMATIVE}
                    lines.append(line)
                pictures[f"{name}|{label}|{method}|class"] = found[place, method, "class"].cpu().numpy()
                pictures[f"{name}|{label}|{method}|box"] = found[place, method, "box"].cpu().numpy()
    table = pl.DataFrame(lines, infer_schema_length=None)
    own = table.filter((pl.col("model") == subject.name) & (pl.col("method") == "LayerCAM"))
    shares = own.group_by("evidence", maintain_order=True).agg(pl.col("inside_box").fill_nan(None).mean()).rows()
    text = ", ".join(f"{kind} {100 * s:.0f} %" for kind, s in shares if s is not None)
    marked = table.filter(pl.col("uninformative").fill_null(False)).height
    left, top, right, bottom = target.box
    area = (right - left) * (bottom - top) / (size[0] * size[1])
    checked = table.filter(pl.col("model") == subject.name).height
    headline = (
        f"LayerCAM's energy inside the box, which covers {100 * area:.0f} % of the image: {text}; "
        f"{marked} of {checked} maps survive random weights and are marked as uninformative; "
        f"image {image.name}, class {target.cls}, score {target.score:.2f}"
    )
    return Found(table, headline, pictures)


def _target(subject: Subject) -> tuple[Image, Detection]:
    for image, detections in zip(subject.images, subject.detections, strict=True):
        if len(detections) > subject.object:
            return image, detections[subject.object]
    most = max((len(d) for d in subject.detections), default=0)
    wanted = f"object={subject.object}: " if most else ""
    raise UsageError(
        f"{wanted}at most {most} objects are detected in an image with a score of {subject.conf:g} or more; "
        "lower conf= or give other images."
    )


def _same_rows(net: Any, other: Any, rows: list[int]) -> list[int]:
    """The rows of another model at the places of `rows`: before each of them as many rows that are no inserted ones."""
    inserted = [i for i, row in enumerate(net.model) if row in gated(net).values()]
    places = [i - sum(j <= i for j in inserted) for i in rows]
    return [min(max(p, 0), len(other.model) - 2) for p in places]


def draw(found: Found) -> Figure:
    """LayerCAM over the image, per row: class and box of each model; the title marks uninformative maps."""
    image, (left, top, right, bottom) = found.pictures["image"], found.pictures["box"]
    blocks = canvas.spread(found.table["block"].unique(maintain_order=True).to_list(), DRAWN)
    models = found.table["model"].unique(maintain_order=True).to_list()
    columns = [(m, kind) for m in models for kind in ("class", "box")]
    shown = [[_overlay(image, found.pictures[f"{m}|{b}|LayerCAM|{kind}"]) for m, kind in columns] for b in blocks]
    figure = canvas.pictures(shown, blocks, [f"{m}\n{kind}" for m, kind in columns])
    marked = found.table.filter((pl.col("method") == "LayerCAM") & pl.col("uninformative").fill_null(False))
    uninformative = set(marked.select("model", "block", "evidence").rows())
    for ax, (b, (m, kind)) in zip(figure.axes, [(b, c) for b in blocks for c in columns], strict=True):
        ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="white", linewidth=0.8)
        ax.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
        if (m, b, kind) in uninformative:
            ax.text(3, image.shape[0] - 5, "uninformative", color="white", fontsize=6, backgroundcolor="#c91c30")
    return figure


def _overlay(image_HWC: np.ndarray, map_HW: np.ndarray) -> np.ndarray:
    """The map in colours over the image."""
    from matplotlib import colormaps

    size = image_HWC.shape[:2]
    heat_HW = F.interpolate(torch.from_numpy(map_HW)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    heat = colormaps["turbo"]((heat_HW / heat_HW.max().clamp_min(1e-30)).numpy())[..., :3]
    mixed: np.ndarray = (0.5 * image_HWC + 0.5 * 255 * heat).astype(np.uint8)
    return mixed


ANALYSIS = Analysis(
    "cam",
    "What speaks for a detection?",
    missing,
    compute,
    draw,
    "LayerCAM (Jiang et al. 2021) of one detection at each block's row: evidence for the class (its logit at the "
    "position that detects) and for the box (the sum of its four distances), with the box in white. The table adds "
    "Grad-CAM and EigenCAM. A map whose rank correlation with the map of a model with random weights is above "
    f"{UNINFORMATIVE:g} is marked as uninformative (Adebayo et al. 2018). Oriented boxes are drawn without their "
    "angle.",
)
