"""`yolo-attn export`: which block leaves Ultralytics' exporter in which format with equal numbers, as CSV and Markdown.

Each cell of the grid exports the shipped model of one block, runs the exported file by itself (torch.jit, onnxruntime,
openvino: not through Ultralytics) and compares its output with PyTorch's. The gains that start at zero are drawn at
random first, or the blocks would not count.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..yamls import shipped as assets
from .cli import arguments

BLOCKS = ("sam", "hilo", "sk", "attnconv", "acmix")
FORMATS = ("torchscript", "onnx", "openvino")
SHAPES = ("static", "dynamic")
#: Largest difference that counts as equal; see `difference`.
TOLERANCE = 1e-3
FIELDS = ("block", "model", "format", "shape", "inputs", "difference", "blocks_change", "verdict")

PAGE = """# Export: block, format, shape

Made by `yolo-attn export`: this table, and `export.csv` beside it.

{table}

The number is the largest difference from PyTorch over both inputs: boxes in units of the largest coordinate, scores in
units of the largest score. Up to {tolerance} counts as equal. Each model is `yolov8n-<block>.yaml` with random weights
and open gates; switching the blocks off changes the output by the CSV file's `blocks_change`, in the same unit.

* static: one export for each input ({static}).
* dynamic: one export with `dynamic=True`, run with both inputs ({dynamic}).
* TorchScript files are traces. `dynamic=True`, which not every Ultralytics release takes for this format, makes the
  detection head compute its anchors anew; the blocks follow the size of the input either way.

{failed}
"""

Row = dict[str, str]


def main(words: list[str]) -> int:
    """Fill the grid and write `export.csv` and `export.md`."""
    given = arguments(words, ("blocks", "formats", "imgsz", "out"))
    blocks = _listed(given.get("blocks"), BLOCKS)
    formats = _listed(given.get("formats"), FORMATS)
    unknown = [f for f in formats if f not in FORMATS]
    if unknown:
        raise ValueError(f"formats={','.join(unknown)}: the formats that can be run here are {', '.join(FORMATS)}.")
    for block in blocks:
        if assets.find(f"yolov8n-{block}.yaml") is None:
            raise ValueError(f"blocks={block}: there is no shipped model yolov8n-{block}.yaml.")
    imgsz = int(given.get("imgsz", 64))
    if imgsz < 32 or imgsz % 32:
        raise ValueError(f"{imgsz=} must be a multiple of 32.")
    out = Path(given.get("out", "docs"))
    out.mkdir(parents=True, exist_ok=True)

    def tell(row: Row) -> None:
        print(f"{row['block']} {row['format']} {row['shape']}: {row['verdict']}", flush=True)

    rows = [row for block in blocks for row in grid(block, formats, imgsz, tell=tell)]
    write(out / "export.csv", rows)
    (out / "export.md").write_text(markdown(rows), encoding="utf-8")
    return 0 if all(r["verdict"] == "equal" for r in rows) else 1


def grid(
    block: str,
    formats: Sequence[str] = FORMATS,
    imgsz: int = 64,
    shapes: Sequence[str] = SHAPES,
    tell: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """The rows of one block.

    Args:
        block: Word in the name of a shipped model, as in yolov8n-WORD.yaml.
        formats: Formats of Ultralytics' exporter, out of `FORMATS`.
        imgsz: Side of the first input; the second is 32 pixels higher.
        shapes: "static": each input has its own export. "dynamic": one export takes both.
        tell: Called with each row when it is known.

    Returns:
        One row per format and shape, with the columns `FIELDS`.
    """
    model, change = counting_model(f"yolov8n-{block}.yaml", imgsz)
    rows: list[Row] = []
    for form in formats:
        for shape in shapes:
            row = dict.fromkeys(FIELDS, "")
            row |= {"block": block, "model": f"yolov8n-{block}.yaml", "format": form, "shape": shape}
            row |= {"blocks_change": f"{change:.2g}"} | _cell(model, form, shape, imgsz)
            rows.append(row)
    for row in rows:
        if row["verdict"] != "equal":
            row["verdict"] += f"; instead: {_alternative(row, rows)}"
        tell(row)
    return rows


def counting_model(name: str, imgsz: int = 64) -> tuple[Any, float]:
    """A model whose blocks matter, with random weights and BatchNorm statistics that suit them.

    Args:
        name: Model YAML, with its scale letter.
        imgsz: Side of the image that shows how much the blocks count.

    Returns:
        The `ultralytics.YOLO`, and the difference that its gated blocks make to the output (as `difference` measures).
    """
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(name)
    net: Any = yolo.model
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    gates = [m for m in norms if not m.weight.any()]
    momenta = [m.momentum for m in norms]
    for m in gates:
        nn.init.uniform_(m.weight, 1.0, 3.0)
    for m in norms:
        m.momentum = None  # the average over the passes below
    with torch.no_grad():
        for branch in net.model[-1].cv3:  # scores all over (0, 1); as initialised they are 2e-4, whatever the map holds
            branch[-1].bias.zero_()
            branch[-1].weight.mul_(4.0)
        net.train()
        for _ in range(3):
            net(_images(4, 256, 256))  # large maps: a deep BatchNorm of few cells magnifies rounding errors
        net.eval()
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        x = _images(1, imgsz, imgsz)
        with_blocks = net(x)[0]
        gains = [m.weight.clone() for m in gates]
        for m in gates:
            m.weight.zero_()
        without = net(x)[0]
        for m, gain in zip(gates, gains, strict=True):
            m.weight.copy_(gain)
    return yolo, difference(without, with_blocks)


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of two detection outputs (B, 4 + classes, cells).

    Boxes in units of the largest wanted coordinate, scores in units of the largest wanted score: in one unit, pixels
    would hide what happens to scores below one.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"the output has the shape {tuple(found.shape)} instead of {tuple(wanted.shape)}")
    parts = ((found[:, :4], wanted[:, :4]), (found[:, 4:], wanted[:, 4:]))
    return float(torch.stack([(f - w).abs().max() / w.abs().max() for f, w in parts]).max())  # NaN if one of them is


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the grid as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[Row]:
    """The grid in a CSV file."""
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def markdown(rows: Sequence[Row]) -> str:
    """The page about a grid."""
    columns = list(dict.fromkeys((r["format"], r["shape"]) for r in rows))
    cells = {(r["block"], r["format"], r["shape"]): r for r in rows}
    table = ["| block | " + " | ".join(f"{f} {s}" for f, s in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for block in dict.fromkeys(r["block"] for r in rows):
        shown = []
        for column in columns:
            r = cells.get((block, *column), {"verdict": "", "difference": ""})
            word = {"equal": "equal", "": ""}.get(r["verdict"], "**no**")
            shown.append(f"{word} {r['difference']}".strip())
        table.append(f"| {block} | " + " | ".join(shown) + " |")
    failed = [f"* {r['block']}, {r['format']} {r['shape']}: {r['verdict']}." for r in rows if r["verdict"] != "equal"]
    inputs = {s: next((r["inputs"] for r in rows if r["shape"] == s), "not run") for s in SHAPES}
    return PAGE.format(
        table="\n".join(table),
        tolerance=f"{TOLERANCE:g}",
        failed="## What cannot be exported\n\n" + "\n".join(failed) if failed else "No cell of the grid fails.",
        **inputs,
    )


def _cell(model: Any, form: str, shape: str, imgsz: int) -> Row:
    """Inputs, difference and verdict of one cell."""
    sides = ((imgsz, imgsz), (imgsz + 32, imgsz))
    images = (1, 1 if shape == "static" else 2)  # a dynamic export takes any number of images too
    inputs = [_images(b, *side) for b, side in zip(images, sides, strict=True)]
    row = {"inputs": " and ".join("x".join(map(str, x.shape)) for x in inputs), "difference": ""}
    if form == "openvino" and importlib.util.find_spec("openvino") is None:
        return row | {"verdict": "openvino is not installed, which the export needs"}
    gaps = []
    try:
        with _workshop(), torch.no_grad():
            file = None
            for x, side in zip(inputs, sides, strict=True):
                if file is None or shape == "static":
                    file = _quietly(lambda: model.export(format=form, imgsz=list(side), dynamic=shape == "dynamic"))  # noqa: B023
                gaps.append(difference(_run(form, str(file), x), model.model.eval()(x)[0]))
    except Exception as e:  # whatever the exporter or the run time says is the finding
        return row | {"verdict": " ".join(f"{type(e).__name__}: {e}".split("\n")[0].split())[:300]}
    worst = max(gaps, key=lambda g: (g != g, g))  # NaN first
    row["difference"] = f"{worst:.1e}"
    return row | {"verdict": "equal" if worst <= TOLERANCE else "the numbers differ from PyTorch's"}


def _run(form: str, file: str, x: Tensor) -> Tensor:
    """The first output of an exported file."""
    out: Any
    if form == "torchscript":
        out = _quietly(lambda: torch.jit.load(file))(x)
        return out[0] if isinstance(out, (tuple, list)) else out
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    import openvino

    path = next(Path(file).glob("*.xml"))
    # Without the hint some processors compute in bfloat16, which is a choice at run time and not the file's doing.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(x.numpy())[0].copy())


def _images(b: int, h: int, w: int) -> Tensor:
    """Random images with patches and grain; of grain alone a BatchNorm magnifies every rounding error."""
    patches = nn.functional.interpolate(torch.rand(b, 3, h // 16, w // 16), (h, w), mode="bicubic").clamp(0, 1)
    return 0.8 * patches + 0.2 * torch.rand(b, 3, h, w)


@contextlib.contextmanager
def _workshop() -> Iterator[None]:
    """An empty working folder, where the exporter leaves its files."""
    before, folder = Path.cwd(), tempfile.mkdtemp()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def _quietly(work: Callable[[], Any]) -> Any:
    """The result of `work` without its prints and logs."""
    import logging
    import warnings

    loggers = [logging.getLogger(name) for name in ("ultralytics", "torch.onnx", "nncf")]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return work()
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def _alternative(row: Row, rows: Sequence[Row]) -> str:
    """The nearest cell of the same block that works."""
    good = [r for r in rows if r["verdict"] == "equal"]
    for r in good:
        if r["format"] == row["format"]:
            return "one static export for each size" if r["shape"] == "static" else "the dynamic export, which works"
    near = sorted(good, key=lambda r: r["shape"] != row["shape"])
    return f"format={near[0]['format']}, {near[0]['shape']}" if near else "PyTorch"


def _listed(given: str | None, default: Sequence[str]) -> list[str]:
    return [w.strip() for w in given.split(",") if w.strip()] if given else list(default)
