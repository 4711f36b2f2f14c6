"""What Ultralytics' GFLOPs leave out: `python benchmarks/gflops.py` writes docs/gflops.md."""

from __future__ import annotations

from pathlib import Path

import thop
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import torch_utils
from yolo_attn.patches import flops as flops_patch

from yolo_attn import registry
from yolo_attn.measure import multiply_adds as flops
from yolo_attn.yamls import shipped as assets

MAPS = ((64, 80), (128, 40), (256, 20))  # P3, P4, P5 of yolov8n at 640 pixels
PAGE = """# GFLOPs

Made by `python benchmarks/gflops.py`. Two operations to each multiply-accumulate, as Ultralytics counts.

Ultralytics' summary counts with ultralytics-thop: layers by their class, matrix products and
`scaled_dot_product_attention` by the function called. For models with our rows the summary, `model.info()` and
`get_flops` add what it does not see:

* products of two tensors element by element: the modulation of SMT, the selection of SKNet, neighbourhoods;
* convolutions and samplings called as functions, on weights that are computed first.

They also run the model at the real size. Ultralytics runs small images and extrapolates, which multiplies convolutions
on pooled maps along: too much for SK, AFF and SENetV2. Stock models get Ultralytics' number, bit for bit.

Nominal work is counted, not that of a faster equivalent: on CPU ACmix multiplies each query with 100 keys, because
tiles are cheaper than 49 single ones, and joined groups multiply zeros. Activations, sums and scaling by a number are
free; BatchNorm, softmax and pooling weigh what ultralytics-thop gives them.

## Operators with their defaults

{operators}

## Shipped detection models, scale n, 640 pixels

| model | Ultralytics' counter | full, as printed | against stock |
|---|---|---|---|
{models}
"""


class Alone(nn.Module):
    """An operator as a model."""

    def __init__(self, operator: nn.Module, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1, bias=False)
        self.operator = operator
        self.yaml = {"channels": channels}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The operator behind one convolution."""
        return self.operator(self.first(x))


def operators() -> list[str]:
    """Table rows: an operator's count by ultralytics-thop and in full, at each map."""
    rows = []
    for block in registry.operators():
        cells = []
        for channels, side in MAPS:
            torch.manual_seed(0)
            model = Alone(block.cls(channels), channels).eval()
            first = 2 * channels * channels * side * side / 1e9
            x = torch.zeros(1, channels, side, side)
            seen = thop.profile(model, inputs=[x], verbose=False)[0] / 1e9 * 2 - first
            full = flops.gflops(model, side) - first
            cells.append(f"{seen:.3f} | {full:.3f}")
        rows.append(f"| {block.name} | " + " | ".join(cells) + " |")
    return rows


def models() -> list[str]:
    """Table rows: the shipped detection models at scale n and 640 pixels."""
    count = flops_patch.PATCH.original()
    stock = count(DetectionModel("yolov8n.yaml", verbose=False), 640)
    rows = [f"| yolov8n.yaml (stock) | {stock:.2f} | {stock:.2f} | |"]
    for path in assets.model_yamls():
        if not path.stem.endswith(("-seg", "-pose", "-obb", "-cls")):
            name = path.name.replace("yolov8", "yolov8n", 1)
            model = DetectionModel(name, verbose=False)
            before, full = count(model, 640), torch_utils.get_flops(model, 640)
            rows.append(f"| {name} | {before:.2f} | {full:.2f} | {full / stock - 1:+.1%} |")
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Write the page."""
    heads = [f"{c} x {s} x {s} thop | full" for c, s in MAPS]
    table = ["| operator | " + " | ".join(heads) + " |", "|---" * (1 + 2 * len(MAPS)) + "|", *operators()]
    page = PAGE.format(operators="\n".join(table), models="\n".join(models()))
    Path(__file__).parent.parent.joinpath("docs/gflops.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
