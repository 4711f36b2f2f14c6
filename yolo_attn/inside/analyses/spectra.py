"""`what=spectrum`: which frequencies a block's input, output and branches hold.

Source  Pan et al., Fast Vision Transformers with HiLo Attention (LITv2), NeurIPS 2022, https://arxiv.org/abs/2205.13213,
        figure 5
Shapes  C channels, H W height and width of a map
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from ...blocks.cloformer.operator import AttnConv
from ...errors import UsageError
from .. import canvas
from ..analysis import Analysis, Found, Subject
from ..gates import gated, row_of
from ..watching import Passage, label_of, recording, watched

#: Side of a drawn spectrum, and blocks that are drawn, at most.
SIDE, DRAWN = 64, 8


def above_half_nyquist(map_CHW: Tensor) -> float:
    """Share of a map's energy at frequencies above half the Nyquist frequency, 0.25 cycles per position.

    The mean of each channel is left out: it is no variation. White noise has 1 - pi / 16 = 0.80.
    """
    power_HW = _power(map_CHW)
    y_H1 = torch.fft.fftfreq(map_CHW.shape[1], device=power_HW.device)[:, None]
    x_1W = torch.fft.fftfreq(map_CHW.shape[2], device=power_HW.device)[None]
    return float(power_HW[(y_H1.square() + x_1W.square()).sqrt() > 0.25].sum() / power_HW.sum())


def _power(map_CHW: Tensor) -> Tensor:
    """|FFT|^2, mean over channels, without the channels' means, (H, W)."""
    power_HW = torch.fft.fft2(map_CHW.float()).abs().square().mean(0)
    power_HW[0, 0] = 0
    return power_HW


def _log10(power_HW: np.ndarray) -> np.ndarray:
    """For a picture, where the frequency 0 stays empty."""
    floor = 1e-12 * power_HW.max()
    log: np.ndarray = np.log10(np.where(power_HW > floor, power_HW, np.nan))
    return log


def missing(net: nn.Module) -> str:
    """Why there is nothing whose spectrum could be taken."""
    return "" if gated(net) or _branching(net) else "it has no block with an input and output of one size"


def _branching(net: nn.Module) -> dict[str, Any]:
    """The operators with branches that are joined."""
    return watched(net, "h_proj", "l_proj") | watched(net, "proj", "local.0.tanh")


def _branches(module: Any, path: str, passages: dict[str, Passage]) -> dict[str, Tensor]:
    """Branch -> its output before the branches are joined."""
    if isinstance(module, AttnConv):
        joined = passages[f"{path}.proj"].x
        branches: Any = module.local
        local = sum(branch.conv.out_channels // 3 for branch in branches)
        parts = {"local": joined[:, :local], "global": joined[:, local:]}
    else:
        parts = {
            name: passages[f"{path}.{part}"].y
            for name, part in (("Hi-Fi", "h_proj"), ("Lo-Fi", "l_proj"))
            if f"{path}.{part}" in passages
        }
    return {name: part for name, part in parts.items() if part.shape[1]}


def compute(subject: Subject) -> Found:
    """One line per block and part, mean over images."""
    net = subject.net
    rows, operators = gated(net), _branching(net)
    parts = {
        f"{path}.{part}": getattr(m, part)
        for path, m in operators.items()
        for part in ("h_proj", "l_proj", "proj")
        if hasattr(m, part)
    }
    shares: dict[tuple[str, str], list[float]] = {}
    powers: dict[tuple[str, str], Tensor] = {}
    with recording({**rows, **parts}) as passages:
        for image in subject.images:
            net(image.x_1CHW)
            maps = {
                (path, kind): getattr(passages[path], key)
                for path in rows
                for kind, key in (("input", "x"), ("output", "y"))
            }
            for path, module in operators.items():
                maps |= {(path.removesuffix(".operator"), k): v for k, v in _branches(module, path, passages).items()}
            for key, map_1CHW in maps.items():
                if min(map_1CHW.shape[2:]) < 4:  # no frequency lies between 0 and half Nyquist
                    continue
                shares.setdefault(key, []).append(above_half_nyquist(map_1CHW[0]))
                power_HW = torch.fft.fftshift(_power(map_1CHW[0]))
                power_HW = F.interpolate(power_HW[None, None], (SIDE, SIDE), mode="area")[0, 0]
                powers[key] = powers.get(key, 0) + power_HW
    lines, pictures = [], {}
    for (path, kind), values in shares.items():
        known = [v for v in values if v == v]
        share = sum(known) / len(known) if known else float("nan")
        label = label_of(net, path)
        lines.append(
            {
                "row": row_of(net, path)[0],
                "block": label,
                "part": kind,
                "above_half_nyquist": share,
                "images": len(known),
            }
        )
        pictures[f"{label}\n{kind}"] = _log10(powers[path, kind].cpu().numpy())
    if not lines:
        raise UsageError("the maps have fewer than 4 positions on a side; raise imgsz=.")
    table = pl.DataFrame(lines).sort("row", maintain_order=True)
    means = table.group_by("part", maintain_order=True).agg(pl.col("above_half_nyquist").fill_nan(None).mean())
    shares_of = ((part, "none: it is constant" if s is None else f"{100 * s:.0f} %") for part, s in means.iter_rows())
    text = ", ".join(f"{part} {share}" for part, share in shares_of)
    return Found(table, f"mean share of energy above half Nyquist: {text}", pictures)


def draw(found: Found) -> Figure:
    """One row of spectra per block; the frequency 0 is in the middle."""
    blocks = canvas.spread(found.table["block"].unique(maintain_order=True).to_list(), DRAWN)
    kinds = found.table["part"].unique(maintain_order=True).to_list()
    shown = [[found.pictures.get(f"{block}\n{kind}") for kind in kinds] for block in blocks]
    return canvas.pictures(shown, blocks, kinds, cmap="magma")


ANALYSIS = Analysis(
    "spectrum",
    "Which frequencies do the blocks hold?",
    missing,
    compute,
    draw,
    "Log-magnitude spectra, mean over channels and images, without the channels' means; frequency 0 in the middle, "
    "the Nyquist frequency at the edges. Input and output of each block, and its branches before they are joined "
    "(HiLo: LITv2, figure 5; CloFormer's local and global branch).",
)
