"""How much of the signal the inserted blocks contribute.

A residual row computes y = x + BN0(operator(x)), and the gain of BN0 starts at zero. Whether the block takes part in
the trained model is therefore one number per row, its share of the signal:

    share = mean over images of ||y - x|| / ||x||          norms over C H W of one image

0 means a closed gate: the model computes what it would without the block. The forms inside C2f and C3k2 hold one such
row per bottleneck; there x is the bottleneck's output. y - x is measured, rather than BN0's output, so the definition
holds for fused models and whatever kernel computes the sum.

Blocks that are no residual rows have no gate: those that replace a row (AFF, iAFF, DTM), the papers' backbones and
users' own ungated blocks. All of the signal passes through them from the first step, so a share says nothing there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..carriers import Residual
from .shares import contribution, is_closed, percent, verdict

#: Images per measurement: the mean over 32 is steady, and costs nothing beside a validation.
IMAGES = 32


@dataclass(frozen=True)
class Gate:
    """One gated block of a model.

    Attributes:
        row: Row of the model's YAML that holds it; -1 outside the rows.
        name: Name of that row, such as SK or C2fSK.
        path: The module, as in `model.get_submodule(path)`.
        share: Its share of the signal; NaN where nothing was measured.
        gain: Largest absolute gain of its last BatchNorm; NaN in a fused model.
    """

    row: int
    name: str
    path: str
    share: float
    gain: float

    @property
    def label(self) -> str:
        """Row and name; inside a C2f or C3k2 form also which bottleneck."""
        inner = self.path.partition(".attn.")[2]
        return f"{self.row} {self.name}" + (f".{inner}" if inner else "")


@dataclass(frozen=True)
class Gates:
    """What `gates` measured; `str(...)` is a table.

    Attributes:
        rows: The gated blocks, in the model's order.
        ungated: Label of each block without a gate -> why no share applies to it.
        images: Number of images.
    """

    rows: tuple[Gate, ...]
    ungated: dict[str, str]
    images: int

    @property
    def shares(self) -> tuple[float, ...]:
        """The measured shares."""
        return tuple(g.share for g in self.rows if math.isfinite(g.share))

    @property
    def mean(self) -> float:
        """Mean share over the rows; NaN where there is none."""
        return sum(self.shares) / len(self.shares) if self.shares else math.nan

    @property
    def closed(self) -> bool:
        """Whether the rows contribute less than `shares.CLOSED` on average; False for models without a gate."""
        return is_closed(self.shares)

    @property
    def sentence(self) -> str:
        """What the blocks contribute, in one clause."""
        return contribution(self.shares)

    @property
    def verdict(self) -> str:
        """What a comparison of this model with the stock model is worth."""
        return verdict(self.shares) if self.shares or self.ungated else "no blocks"

    def __str__(self) -> str:
        """One line per block."""
        table = [("block", "share", "largest gain")]
        table += [(g.label, percent(g.share), "fused" if math.isnan(g.gain) else f"{g.gain:.3f}") for g in self.rows]
        widths = [max(len(line[i]) for line in table) for i in range(3)]
        lines = ["  ".join([a.ljust(widths[0]), b.rjust(widths[1]), c.rjust(widths[2])]) for a, b, c in table]
        lines = lines if self.rows else []
        for why in dict.fromkeys(self.ungated.values()):
            lines.append(f"{', '.join(k for k, v in self.ungated.items() if v == why)}: not applicable: {why}")
        lines.append(f"{self.sentence} ({self.images} images): {self.verdict}" if self.rows else self.verdict)
        return "\n".join(lines)


class Meter:
    """Measures the shares while it is entered, on whatever images pass through the model.

    Forward hooks on the residual rows only, none inside an operator: what is computed, and by which kernel, stays the
    same. The hooks are removed on exit.

    Args:
        model: The model that will run, not compiled.
        images: Measure the first so many.
        lenient: Whether a failure to measure, such as a lack of memory, is logged and otherwise ignored.
    """

    def __init__(self, model: nn.Module, images: int = IMAGES, lenient: bool = False) -> None:
        self._model, self._limit, self._lenient = model, images, lenient
        self._gated = gated(model)
        self._ratios: dict[str, list[Tensor]] = {path: [] for path in self._gated}
        self._handles: list[Any] = []

    def __enter__(self) -> Meter:
        """Install the hooks."""
        for path, module in self._gated.items():
            self._handles.append(module.register_forward_hook(self._hook(self._ratios[path])))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, ratios: list[Tensor]) -> Any:
        def measure(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
            try:
                if sum(map(len, ratios)) < self._limit:
                    ratios.append(share(inputs[0], y)[: self._limit])
            except Exception:
                if not self._lenient:
                    raise
                from ultralytics.utils import LOGGER

                LOGGER.debug("yolo_attn: a share of the signal was not measured", exc_info=True)

        return measure

    @property
    def result(self) -> Gates:
        """What was measured so far."""
        found = []
        for path, module in self._gated.items():
            row, name = row_of(self._model, path)
            ratios_N = torch.cat(self._ratios[path])[: self._limit].cpu() if self._ratios[path] else torch.empty(0)
            known_N = ratios_N[ratios_N.isfinite()]
            weight = getattr(module.bn, "weight", None) if isinstance(module.bn, nn.BatchNorm2d) else None
            gain = math.nan if weight is None else float(weight.detach().abs().max())
            found.append(Gate(row, name, path, float(known_N.mean()) if len(known_N) else math.nan, gain))
        count = max((sum(map(len, r)) for r in self._ratios.values()), default=0)
        return Gates(tuple(found), ungated(self._model), min(count, self._limit))


@torch.no_grad()
def share(x: Tensor, y: Tensor) -> Tensor:
    """||y - x|| / ||x|| of each image.

    Args:
        x: A residual row's input, (B, C, H, W).
        y: Its output, (B, C, H, W).

    Returns:
        (B,), float32 or float64; NaN or infinite for images whose x is zero.
    """
    x_BN, y_BN = x.detach().flatten(1), y.detach().flatten(1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    of_branch_B, of_input_B = (torch.linalg.vector_norm(z, dim=1, dtype=dtype) for z in (y_BN - x_BN, x_BN))
    return of_branch_B / of_input_B


def gated(model: nn.Module) -> dict[str, Residual]:
    """Path -> residual row, for every gated block of a model."""
    return {path: m for path, m in model.named_modules() if isinstance(m, Residual)}


def ungated(model: nn.Module) -> dict[str, str]:
    """Label of each block without a gate -> why no share applies to it."""
    found = {}
    for i, row in enumerate(getattr(model, "model", ())):
        blocks = [m for m in row.modules() if registry.is_ours(m)]
        learns = any(True for _ in row.parameters())
        if blocks and learns and not any(isinstance(m, Residual) for m in blocks):
            found[f"{i} {type(blocks[0]).__name__}"] = "no gate; all of the signal passes through it from the start"
    return found


def row_of(model: nn.Module, path: str) -> tuple[int, str]:
    """Row of a module and that row's name."""
    head, _, rest = path.partition(".")
    index = rest.partition(".")[0]
    if head != "model" or not index.isdigit():
        return -1, type(model.get_submodule(path)).__name__
    names = [type(m).__name__ for m in model.get_submodule(f"model.{index}").modules() if registry.is_ours(m)]
    return int(index), names[0]


def gates(model: Any, source: Any = None, images: int = IMAGES, imgsz: int | None = None, device: Any = None) -> Gates:
    """Measure how much of the signal each inserted block of a model contributes.

    Args:
        model: A checkpoint's path, a `YOLO`, or the Ultralytics model inside one.
        source: Images: a file, folder, pattern, array or list of them, as for `YOLO.predict`. By default the validation
            images of the dataset that the checkpoint was trained on.
        images: How many to use, at most.
        imgsz: Image size in pixels; by default that of the training.
        device: Where to run; by default where the model is.

    Returns:
        The share of every gated block, and which blocks have no gate.

    Raises:
        UsageError: The model is no PyTorch model of Ultralytics, or there are no images.
    """
    from . import inputs

    net = inputs.network(model, device)
    if not gated(net):
        return Gates((), ungated(net), 0)
    with inputs.evaluating(net), Meter(net, images) as meter:
        for image_1CHW in inputs.images(net, source, images, imgsz):
            net(image_1CHW)
    return meter.result
