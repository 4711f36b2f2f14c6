"""Ways to make new blocks learn, and one training with each.

lr<f>          block_lr=f; lr1 is the training without this package's factor
gain<g>        y = x + g BN0(operator(x)), block_lr=1: the factor sits in the carrier, not in the optimizer
gamma<v>       the gains of BN0 start at v instead of 0, block_lr=1; the model then starts away from the stock model
warmup<w>      w epochs of the blocks alone on a frozen trunk, then all layers, block_lr=1; w counts in the epochs
scratch-lr<f>  no pretrained weights; every block parameter counts as new
stock          the stock model without blocks, for orientation
control        the stock model with plain bottlenecks added until it costs what the model with the block costs
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

PATTERN = re.compile(r"(lr|gain|gamma|warmup|scratch-lr)(\d+(?:\.\d+)?)$|stock$|control$")


@dataclass(frozen=True)
class Cell:
    """One training of the study.

    Attributes:
        data: Name of the dataset, for tables.
        block: Short name of the block; the model is yolov8n-<block>.yaml.
        recipe: See the module's docstring.
        epochs: Length of the training.
        seed: Of the training and of the blocks' initial weights.
    """

    data: str
    block: str
    recipe: str
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"{self.data}_{self.block}_{self.recipe}_e{self.epochs}_s{self.seed}"


def check(recipe: str) -> None:
    """Raise a ValueError for an unknown recipe."""
    if not PATTERN.match(recipe):
        raise ValueError(
            f"recipes={recipe}: no such recipe. Recipes: lr10, gain10, gamma0.1, warmup2, scratch-lr10, stock, control."
        )


def train(cell: Cell, data: str, weights: str, folder: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Train one cell.

    Args:
        cell: What to train.
        data: The dataset's YAML.
        weights: Checkpoint of the stock yolov8n.
        folder: Where Ultralytics' files go.
        arguments: Further training arguments.

    Returns:
        The cell, mAP50-95, mAP50, the number of optimizer steps, the share of the signal of every block, and the mean
        share after every epoch.
    """
    import torch
    from ultralytics import YOLO

    import yolo_attn
    from yolo_attn.carriers import Residual
    from yolo_attn.training import gate_log
    from yolo_attn.weights import new_parameters

    match = PATTERN.match(cell.recipe)
    assert match
    kind, value = match.group(1) or cell.recipe, float(match.group(2) or 0)
    yolo_attn.block_lr(value if kind in ("lr", "scratch-lr") else 1)
    if kind == "gain":
        Residual.forward = lambda self, x: x + value * self.bn(self.operator(x))  # type: ignore[method-assign]
    torch.manual_seed(cell.seed)  # the blocks start alike in every recipe
    if kind == "control":
        file, weights = control(cell, weights, Path(folder), arguments["imgsz"])
    else:
        file = "yolov8n.yaml" if kind == "stock" else f"yolov8n-{cell.block}.yaml"
    model = YOLO(file)
    net: Any = model.model
    if kind == "scratch-lr":
        new_parameters.record(net, new_parameters.block_parameters(net))
        model.ckpt = {"model": net}  # otherwise the trainer builds another model from the YAML
    else:
        model.load(weights)
    if kind == "gamma":
        for m in net.modules():
            if isinstance(m, Residual):
                torch.nn.init.constant_(m.bn.weight, value)
    if kind == "warmup":
        model.add_callback("on_train_epoch_start", lambda trainer: freeze_trunk(trainer, trainer.epoch < value))
    start = time.time()
    metrics: Any = model.train(
        data=data, epochs=cell.epochs, seed=cell.seed, project=folder, name=cell.name, exist_ok=True, **arguments
    )
    trainer: Any = model.trainer
    return {
        **asdict(cell),
        "mAP50-95": float(metrics.box.map),
        "mAP50": float(metrics.box.map50),
        "steps": len(trainer.train_loader) * cell.epochs // max(trainer.accumulate, 1),
        "shares": list(gate_log.last_shares(trainer.save_dir).values()),
        "curve": [fmean(v for k, v in row.items() if k != "epoch") for row in gate_log.read(trainer.save_dir)],
        "seconds": round(time.time() - start),
    }


def control(cell: Cell, weights: str, folder: Path, imgsz: int) -> tuple[str, str]:
    """YAML and starting weights of a cell's cost-matched stock model, which computes what the stock model does."""
    import torch
    import yaml
    from ultralytics import YOLO

    from yolo_attn.detect.controls import cost_control, starting_weights
    from yolo_attn.detect.models import Size, read_models

    stock, candidate = read_models([f"yolov8n-{cell.block}"], "yolov8n", Size(imgsz))
    enlarged = cost_control(stock, candidate, Size(imgsz))
    assert enlarged  # yolov8n has C2f rows
    file, start = (folder / f"{cell.name}{suffix}" for suffix in (".yaml", ".pt"))
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(enlarged.d, sort_keys=False))
    net = starting_weights(enlarged.d, YOLO(weights).model)
    torch.save({"model": net, "ema": None, "epoch": -1, "optimizer": None, "train_args": {}}, start)
    return str(file), str(start)


def freeze_trunk(trainer: Any, frozen: bool) -> None:
    """Freeze everything but the blocks, BatchNorm statistics included, or release it again."""
    from yolo_attn.weights import new_parameters

    blocks = set(new_parameters.block_parameters(trainer.model))
    trunk = [k for k, _ in trainer.model.named_parameters() if k not in blocks and ".dfl" not in k]
    for k, p in trainer.model.named_parameters():
        if k in trunk:
            p.requires_grad_(not frozen)
    modules = {k.rpartition(".")[0] for k in trunk} if frozen else set()
    trainer.freeze_layer_names = [".dfl", *sorted(modules)]  # Ultralytics' own list for BatchNorms in eval mode


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    result = train(Cell(**given["cell"]), given["data"], given["weights"], given["folder"], given["arguments"])
    Path(given["out"]).write_text(json.dumps(result, indent=1))
