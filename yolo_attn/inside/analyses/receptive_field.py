"""`what=reach`: the effective receptive field of the maps that enter the head.

Source  Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, NeurIPS 2016,
        https://arxiv.org/abs/1701.04128, section 3
Shapes  H W height and width of the model's input
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import polars as pl
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor, nn

from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..gates import gated
from ..watching import bypassed, head_inputs

#: Shares of the gradient's energy whose radius is given.
SHARES = (0.5, 0.9)


def energy(maps_of: Callable[[Tensor], list[Tensor]], x_1CHW: Tensor) -> list[Tensor]:
    """Squared gradient of the centre of each map with respect to the input, summed over the input's channels.

    Args:
        maps_of: From an image to its maps, (1, C, H', W') each. The gradient is that of the sum over the channels at
            position (H' // 2, W' // 2).
        x_1CHW: The image.

    Returns:
        One (H, W) per map.
    """
    with torch.enable_grad():
        x_1CHW = x_1CHW.detach().requires_grad_()
        maps = maps_of(x_1CHW)
        found = []
        for k, y_1CHW in enumerate(maps):
            centre = y_1CHW[..., y_1CHW.shape[2] // 2, y_1CHW.shape[3] // 2].sum()
            (gradient,) = torch.autograd.grad(centre, x_1CHW, retain_graph=k + 1 < len(maps))
            found.append(gradient[0].square().sum(0))
    return found


def centre_of(size: tuple[int, int], of_map: tuple[int, int]) -> tuple[float, float]:
    """Where the position (H' // 2, W' // 2) of a map lies in the input, y and x in pixels."""
    y, x = ((n // 2 + 0.5) * pixels / n - 0.5 for pixels, n in zip(size, of_map, strict=True))
    return y, x


def radius(energy_HW: Tensor, centre: tuple[float, float], share: float) -> float:
    """Radius of the disc around `centre` that holds a share of the energy, in pixels; NaN where there is none."""
    height, width = energy_HW.shape
    y_H1 = torch.arange(height, device=energy_HW.device)[:, None] - centre[0]
    x_1W = torch.arange(width, device=energy_HW.device)[None] - centre[1]
    distance, order = (y_H1.square() + x_1W.square()).sqrt().flatten().sort()
    held = energy_HW.flatten()[order].double().cumsum(0)
    if not held[-1] > 0:
        return math.nan
    return float(distance[min(int((held < share * held[-1]).sum()), len(held) - 1)])


def missing(net: nn.Module) -> str:
    """It applies to every model."""
    return ""


def compute(subject: Subject) -> Found:
    """One line per model and level: with the blocks, with the blocks bypassed, and the model to compare with."""
    variants: list[tuple[str, Any, Any]] = [(subject.name, subject.net, contextlib.nullcontext)]
    if gated(subject.net):
        variants.append(("blocks bypassed", subject.net, lambda: bypassed(subject.net)))
    if subject.against:
        variants.append((*subject.against, contextlib.nullcontext))
    lines, pictures = [], {}
    for name, net, context in variants:
        totals: list[Tensor] = []
        with context(), _frozen(net):
            for image in subject.images:
                shapes: list[torch.Size] = []

                def maps_of(x: Tensor, net: Any = net, shapes: list[torch.Size] = shapes) -> list[Tensor]:
                    maps = head_inputs(net, x)
                    shapes[:] = [m.shape for m in maps]
                    return maps

                found = energy(maps_of, image.x_1CHW)
                found = [e / e.sum().clamp_min(1e-30) for e in found]  # every image counts the same
                if totals and totals[0].shape != found[0].shape:
                    continue  # an image of another size has another centre
                totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
                kept = list(shapes)
        for energy_HW, shape in zip(totals, kept, strict=True):
            size = (int(energy_HW.shape[0]), int(energy_HW.shape[1]))
            centre = centre_of(size, (shape[2], shape[3]))
            stride = size[0] // shape[2]
            level = f"P{round(math.log2(stride))}"
            r50, r90 = (radius(energy_HW, centre, share) for share in SHARES)
            lines.append({"model": name, "level": level, "stride": stride, "r50_pixels": r50, "r90_pixels": r90})
            pictures[f"{name}\n{level}"] = (energy_HW.float().cpu().numpy(), centre, (r50, r90))
    table = pl.DataFrame(lines)
    own = table.filter(pl.col("model") == subject.name)
    radii = ", ".join(f"{line['level']} {line['r90_pixels']:.0f}" for line in own.iter_rows(named=True))
    return Found(table, f"radius that holds 90 % of the gradient's energy, in pixels: {radii}", pictures)


@contextlib.contextmanager
def _frozen(net: nn.Module) -> Any:
    """The parameters need no gradients meanwhile."""
    needing = [p for p in net.parameters() if p.requires_grad]
    for p in needing:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in needing:
            p.requires_grad_(True)


def draw(found: Found) -> Figure:
    """The energies, fourth root for visibility, with a circle for each share."""
    models = found.table["model"].unique(maintain_order=True).to_list()
    levels = found.table["level"].unique(maintain_order=True).to_list()
    at = [[found.pictures.get(f"{m}\n{level}") for level in levels] for m in models]
    shown = [[(p[0] / max(p[0].max(), 1e-30)) ** 0.25 if p else None for p in row] for row in at]
    figure = canvas.pictures(shown, models, levels, cmap="Greys")
    for ax, place in zip(figure.axes, [p for row in at for p in row], strict=True):
        if place:
            (y, x), radii = place[1:]
            for r, colour in zip(radii, canvas.PALETTE, strict=False):
                ax.add_patch(Circle((x, y), r, fill=False, edgecolor=colour, linewidth=0.9))
    return figure


ANALYSIS = Analysis(
    "reach",
    "How far do the head's inputs see?",
    missing,
    compute,
    draw,
    "Effective receptive field (Luo et al. 2016): squared gradient of the centre position of each map that enters "
    "the head, summed over its channels, with respect to the image, mean over images (fourth root, for visibility)."
    " Circles hold 50 % and 90 % of the energy.",
)
