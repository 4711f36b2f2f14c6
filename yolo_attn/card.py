"""Model card: a README.md for sharing a trained checkpoint.

Everything comes from the folder of the run: the checkpoint (architecture, classes, arguments, versions), results.csv
(metrics) and gates.csv (how much the blocks contribute). What only the author knows is marked TODO.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import __version__, registry
from .errors import UsageError
from .registry import Block
from .training.gate_log import last_shares

__all__ = ["card"]

#: Training arguments that a reader needs to repeat the run.
ARGUMENTS = ("epochs", "imgsz", "batch", "optimizer", "lr0", "seed", "pretrained")


def card(run: str | Path) -> str:
    """The model card of a training.

    Args:
        run: Folder of the run, with weights/best.pt, or the checkpoint itself.

    Raises:
        UsageError: There is no checkpoint, or it cannot be read.
    """
    run = Path(run)
    file = run if run.suffix == ".pt" else next((f for f in _checkpoints(run) if f.is_file()), None)
    if file is None or not file.is_file():
        raise UsageError(f"run={run}: there is no weights/best.pt or weights/last.pt; name the folder of a training.")
    from ultralytics.nn.tasks import torch_safe_load

    checkpoint, _ = torch_safe_load(str(file))
    model = (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, dict) else None
    if not hasattr(model, "yaml"):
        raise UsageError(f"{file} is no checkpoint of an Ultralytics training.")
    folder = file.parent.parent if file.parent.name == "weights" else file.parent
    blocks = _blocks(model)
    sections = [
        _head(model, checkpoint, blocks),
        _training(checkpoint),
        _metrics(folder, checkpoint),
        _citations(blocks, folder),
        _loading(file, checkpoint, blocks),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _checkpoints(run: Path) -> list[Path]:
    return [run / "weights" / name for name in ("best.pt", "last.pt")]


def _blocks(model: Any) -> dict[str, Block]:
    """Registered rows of a model by name."""
    rows = (row[2] for part in ("backbone", "head") for row in model.yaml.get(part, ()))
    return {name: b for name in rows if isinstance(name, str) and (b := registry.get(name)) is not None}


def _head(model: Any, checkpoint: Mapping[str, Any], blocks: Iterable[str]) -> str:
    name = Path(str(model.yaml.get("yaml_file", checkpoint.get("train_args", {}).get("model", "model")))).stem
    names = list(model.names.values()) if isinstance(model.names, dict) else list(model.names)
    shown = ", ".join(map(str, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    task = getattr(model, "task", None) or checkpoint.get("train_args", {}).get("task", "detect")
    return (
        f"# {name}\n\n"
        f"TODO: one sentence on what the model is for, and on what it is not for.\n\n"
        f"* Architecture: Ultralytics `{name}`, task {task}, {parameters:.2f} M parameters\n"
        f"* Attention blocks: {', '.join(f'`{b}`' for b in blocks) or 'none'}\n"
        f"* Classes ({len(names)}): {shown}"
    )


def _training(checkpoint: Mapping[str, Any]) -> str:
    arguments = checkpoint.get("train_args") or {}
    data = Path(str(arguments.get("data") or "TODO")).name
    given = ", ".join(f"{k}={arguments[k]}" for k in ARGUMENTS if arguments.get(k) not in (None, ""))
    text = f"## Training\n\n* Data: `{data}`. TODO: source, licence, and how train and val were split.\n"
    text += f"* Arguments: `{given or 'unknown'}`\n"
    return (
        text
        + f"* Date: {str(checkpoint.get('date') or 'unknown')[:10]}, Ultralytics {checkpoint.get('version', 'unknown')}"
    )


def _metrics(folder: Path, checkpoint: Mapping[str, Any]) -> str:
    """The metrics of the checkpoint, of the seed that it was trained with."""
    found = {k: v for k, v in (checkpoint.get("train_metrics") or {}).items() if k.startswith("metrics/")}
    source = "of the checkpoint on its validation set"
    if not found and (rows := _table(folder / "results.csv")):
        found = {k: float(v) for k, v in rows[-1].items() if k.startswith("metrics/")}
        source = "of the last epoch"
    if not found:
        return "## Metrics\n\nTODO: no metrics in the checkpoint, and no results.csv beside it."
    lines = [f"| {k.removeprefix('metrics/')} | {float(v):.4f} |" for k, v in found.items()]
    seed = (checkpoint.get("train_args") or {}).get("seed", "unknown")
    return "\n".join(
        [
            "## Metrics",
            "",
            f"Values {source}; one training (seed {seed}). Differences between seeds are often larger than those",
            "between models; `yolo-attn bench detect` compares models over several seeds.",
            "",
            "| metric | value |",
            "|---|---|",
            *lines,
        ]
    )


def _table(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV, with names stripped as older Ultralytics releases pad them."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as f:
        return [{k.strip(): v.strip() for k, v in row.items() if k and v} for row in csv.DictReader(f)]


def _citations(blocks: Mapping[str, Block], folder: Path) -> str:
    if not blocks:
        return ""
    lines = ["## Blocks", "", "Please cite the papers of the blocks:", ""]
    for paper in dict.fromkeys(b.paper for b in blocks.values() if b.paper):
        block = next(b for b in blocks.values() if b.paper == paper)
        rows = ", ".join(f"`{name}`" for name, b in blocks.items() if b.paper == paper)
        code = f"; authors' code: <{block.code}>" if block.code else ""
        lines.append(f"* {rows}: {block.title or 'TODO: title'}, <{paper}>{code}")
    if shares := last_shares(folder).values():
        lines += [
            "",
            f"The blocks contribute {min(shares):.1%} to {max(shares):.1%} of the signal at their rows (gates.csv).",
        ]
    return "\n".join(lines)


def _loading(file: Path, checkpoint: Mapping[str, Any], blocks: Mapping[str, Block]) -> str:
    version = checkpoint.get("version")
    ultralytics = f" ultralytics=={version}" if version else ""
    foreign = sorted({b.cls.__module__.partition(".")[0] for b in blocks.values() if not b.is_shipped})
    lines = ["## Loading", ""]
    if blocks:
        lines += [
            f"The checkpoint needs the package yolo-attn, {__version__} or later; without it, Ultralytics stops with",
            "`No module named 'yolo_attn'`. No import is needed after the installation.",
        ]
    if foreign:
        lines.append(
            f"It also needs the author's module {', '.join(f'`{m}`' for m in foreign)}. TODO: where to get it."
        )
    extras = ",".join(sorted({b.requires for b in blocks.values() if b.requires and b.is_shipped}))
    package = f' "yolo-attn{extras and f"[{extras}]"}>={__version__}"' if blocks else ""
    lines += [
        "",
        "```bash",
        f"pip install{package}{ultralytics or ' ultralytics'}",
        f"yolo predict model={file.name} source=image.jpg",
        "```",
        "",
        "A checkpoint is a pickle: open only files that you trust.",
        "",
        "## Licence",
        "",
        "AGPL-3.0, as Ultralytics and yolo_attn, unless you have an Ultralytics Enterprise licence.",
        "TODO: licence of the data.",
    ]
    return "\n".join(lines)
