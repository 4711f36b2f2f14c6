"""Measure whole models against the stock model: training step, inference, memory, ONNX Runtime; see docs/bench.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import registry
from ..errors import UsageError
from ..yamls import shipped
from .cases import memory_errors
from .conditions import Conditions
from .model import cost, folded, onnx_call, quiet
from .peak import PeakMeter
from .table import show
from .timing import Spread, interleave

STOCK = "yolov8n"
#: Columns of the CSV: one row per model and measure.
FIELDS = (
    "model",
    "parameters",
    "gflops",
    "imgsz",
    "measure",
    "batch",
    "unit",
    "median",
    "p10",
    "p90",
    "n",
    "ratio",
    "ratio_p10",
    "ratio_p90",
    "intervals",
)
#: Seconds of measurement for all models together; at least 5 rounds.
TRAIN_SECONDS, SECONDS = 60, 15
#: Format of Ultralytics' exporter -> name of the measure of its files.
NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "ncnn": "ncnn", "mnn": "MNN"}
MEASURES = ("training step", "inference", "ONNX inference", "training peak", "inference peak", *NAMES.values())
BOXES = 8  # per image of the random batch


def default_models() -> list[str]:
    """Stock yolov8n and, for each block, our YAML with that block in backbone and neck."""
    import yaml

    carriers = {b.name for b in registry.list_blocks() if b.carrier}
    found: dict[frozenset[str], str] = {}
    for path in sorted(shipped.model_yamls(), key=lambda p: (len(p.name), p.name)):
        if path.name.startswith("yolov8-"):
            d = yaml.safe_load(path.read_text(encoding="utf-8"))
            backbone, head = ({row[2] for row in d[part]} for part in ("backbone", "head"))
            if carriers & backbone & head and d["head"][-1][2] == "Detect":
                found.setdefault(frozenset(carriers & backbone & head), path.name.replace("yolov8", STOCK, 1))
    return [f"{STOCK}.yaml", *sorted(found.values())]


def check_models(names: Sequence[str]) -> list[str]:
    """The model YAMLs of these names, with suffix.

    Raises:
        UsageError: One is missing, or not a detection model.
    """
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    files = [name if name.endswith((".yaml", ".yml")) else f"{name}.yaml" for name in names]
    for name, file in zip(names, files, strict=True):
        try:
            with quiet():
                last = yaml_model_load(file)["head"][-1][2]
        except (OSError, KeyError, TypeError, IndexError, yaml.YAMLError) as e:
            raise UsageError(f"models={name}: there is no such model YAML.") from e
        if last != "Detect":
            raise UsageError(f"models={name}: its head is {last}; only Detect is measured.")
    return files


@dataclass
class Trainee:
    """A model with everything that a training step and a prediction need.

    Attributes:
        model: In train mode.
        fused: A copy in eval mode with fused layers.
        call_model: `model`, compiled if that is measured.
        call_fused: `fused`, the same.
        batch: A fixed random batch with boxes.
        image: The images of an inference.
        optimizer: For all parameters.
        scaler: Scales the loss in float16.
        conditions: Device, precision, threads, memory layout, compiled or not.
    """

    model: Any
    fused: Any
    call_model: Any
    call_fused: Any
    batch: dict[str, torch.Tensor]
    image: torch.Tensor
    optimizer: torch.optim.Optimizer
    scaler: Any
    conditions: Conditions

    @classmethod
    def build(cls, name: str, imgsz: int, batch: int, conditions: Conditions, images: int = 1) -> Trainee:
        """Build a model from its YAML with the same random weights each time."""
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import DetectionModel

        torch.manual_seed(0)
        with quiet():
            model: Any = conditions.place(DetectionModel(name, verbose=False))
        fused = folded(model)
        model.args = get_cfg()  # gains of the loss
        data = random_batch(batch, imgsz, int(model.yaml["nc"]), conditions)
        image = random_batch(images, imgsz, 1, conditions)["img"]
        # A rate so small that the weights, and with them the cost of the loss, do not change.
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True)
        scaler = torch.amp.GradScaler(conditions.device.type, enabled=conditions.dtype == torch.float16)
        model.train()
        called = conditions.prepare(model), conditions.prepare(fused)
        return cls(model, fused, *called, data, image, optimizer, scaler, conditions)

    def train_step(self) -> None:
        """Forward pass, loss, backward pass, optimizer."""
        with self.conditions.autocast():
            # As Ultralytics trains: a compiled model does not compute the loss.
            if self.conditions.compiled:
                loss, _ = self.model.loss(self.batch, self.call_model(self.batch["img"]))
            else:
                loss, _ = self.model(self.batch)
        self.scaler.scale(loss.sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def predict(self) -> object:
        """The forward pass for the images of an inference, without non-maximum suppression."""
        with torch.inference_mode(), self.conditions.autocast():
            return self.call_fused(self.image)


def random_batch(images: int, imgsz: int, classes: int, conditions: Conditions) -> dict[str, torch.Tensor]:
    """Random images and boxes in the form of Ultralytics' loader; the same each time."""
    random = torch.Generator().manual_seed(0)
    n = images * BOXES
    centre = torch.rand(n, 2, generator=random) * 0.6 + 0.2
    size = torch.rand(n, 2, generator=random) * 0.35 + 0.05
    data = {
        "img": torch.rand(images, 3, imgsz, imgsz, generator=random),
        "cls": torch.randint(classes, (n, 1), generator=random).float(),
        "bboxes": torch.cat([centre, size], 1),
        "batch_idx": torch.arange(images).repeat_interleave(BOXES).float(),
    }
    data = {key: value.to(conditions.device) for key, value in data.items()}
    return {**data, "img": conditions.place(data["img"])}


def peak_step(job: Mapping[str, Any], small: bool) -> Callable[[], object]:
    """A step for the peak meter.

    Args:
        job: model, imgsz, batch, train; the conditions.
        small: Use a small image instead.
    """
    conditions = Conditions.of(**job)
    images = {"batch": job["batch"]} if job["train"] else {"batch": 1, "images": job["batch"]}
    made = Trainee.build(job["model"], 64 if small else job["imgsz"], conditions=conditions, **images)
    if job["train"]:
        del made.fused, made.call_fused
        return made.train_step
    del made.model, made.call_model, made.optimizer
    return made.predict


def measure(
    names: Sequence[str],
    conditions: Conditions,
    imgsz: int = 640,
    batch: int = 4,
    repeats: int | None = None,
    onnx: bool = True,
    images: int = 1,
) -> list[dict[str, Any]]:
    """Rows of `FIELDS`.

    Args:
        names: Model YAMLs; the others are compared with the first.
        conditions: Device, precision, threads.
        imgsz: Height and width of the images.
        batch: Images of a training step.
        repeats: Rounds; by default as many as the time allows.
        onnx: Also measure the exported models, in ONNX Runtime on the CPU.
        images: Images of an inference.
    """
    from ultralytics.utils import TQDM

    stages = ["build", *["peak memory"] * len(names), "training step", "inference", *["ONNX"] * onnx]
    bar = TQDM(total=len(stages), unit="stage")

    def stage(text: str) -> None:
        bar.set_description(text)
        bar.update(1)

    found: dict[str, dict[tuple[str, int, str], Spread]] = {name: {} for name in names}
    with conditions.applied(), PeakMeter(conditions, "yolo_attn.measure.whole_models:peak_step") as meter:
        for name in names:
            for what, several in (("training peak", batch), ("inference peak", images)):
                job = {"model": name, "imgsz": imgsz, "batch": several, "train": what.startswith("training")}
                peak = meter.measure(job)
                if peak is not None:
                    found[name][what, several, "MiB"] = Spread((peak / 2**20,))
            stage(f"peak memory of {name}")
    with conditions.applied(), memory_errors(f"batch={batch} imgsz={imgsz}"):
        made = {name: Trainee.build(name, imgsz, batch, conditions, images) for name in names}
        stage("built")
        times = interleave({k: m.train_step for k, m in made.items()}, repeats, TRAIN_SECONDS, wait=conditions.wait)
        add(found, "training step", batch, times)
        stage("training steps")
        costs = {name: cost(m.model, imgsz) for name, m in made.items()}
        times = interleave({k: m.predict for k, m in made.items()}, repeats, SECONDS, wait=conditions.wait)
        add(found, "inference", images, times)
        stage("inference")
        if onnx:
            add(found, "ONNX inference", images, time_onnx(made, conditions, repeats))
            stage("ONNX inference")
    bar.close()
    return table(names, found, costs, imgsz)


def table(
    names: Sequence[str],
    found: Mapping[str, Mapping[tuple[str, int, str], Spread]],
    costs: Mapping[str, tuple[int, float]],
    imgsz: int,
) -> list[dict[str, Any]]:
    """Rows of `FIELDS`, with ratios to the first model.

    Args:
        names: Model YAMLs.
        found: Model -> measure, images and unit -> values.
        costs: Model -> parameters, GFLOPs.
        imgsz: Height and width of the images.
    """
    rows = []
    for name in names:
        parameters, gflops = costs[name]
        model = {"model": Path(name).stem, "parameters": parameters, "gflops": gflops}
        for (what, several, unit), spread in sorted(found[name].items(), key=lambda item: MEASURES.index(item[0][0])):
            row = {**model, "imgsz": imgsz, "measure": what, "batch": several, "unit": unit, "n": spread.n}
            row |= {"median": spread.median, "p10": spread.p10, "p90": spread.p90}
            stock = found[names[0]].get((what, several, unit))
            if name != names[0] and stock:
                ratio = spread.ratio_to(stock)
                row |= {"ratio": ratio.median, "ratio_p10": ratio.p10, "ratio_p90": ratio.p90}
                row["intervals"] = "overlap" if spread.n > 1 and spread.overlaps(stock) else "apart"
            rows.append(row)
    return rows


def add(
    found: dict[str, dict[tuple[str, int, str], Spread]], what: str, images: int, times: Mapping[str, Spread]
) -> None:
    """Add measured times, in milliseconds."""
    for name, spread in times.items():
        found[name][what, images, "ms"] = Spread(tuple(1e3 * v for v in spread.values))


def time_onnx(made: Mapping[str, Trainee], conditions: Conditions, repeats: int | None) -> dict[str, Spread]:
    """Export and time every model with the same number of threads."""
    calls = {name: onnx_call(m.fused, m.image, conditions.threads) for name, m in made.items()}
    return interleave(calls, repeats, SECONDS)


def print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows."""
    lines = []
    for r in rows:
        ratio = f"{r['ratio']:.2f}" if r.get("ratio") else ""
        if ratio and r["n"] > 1:
            ratio += f" ({r['ratio_p10']:.2f}-{r['ratio_p90']:.2f})"
            ratio += ", intervals overlap" if r["intervals"] == "overlap" else ""
        lines.append(
            (
                r["model"],
                f"{r['parameters'] / 1e6:.2f}M",
                f"{r['gflops']:.1f}",
                f"{r['measure']}, batch {r['batch']}",
                f"{r['median']:.4g} {r['unit']}",
                f"{r['p10']:.4g}-{r['p90']:.4g}" if r["n"] > 1 else "",
                str(r["n"]),
                ratio,
            )
        )
    header = ("model", "parameters", "GFLOPs", "measure", "median", "p10-p90", "n", "ratio to the first")
    show(header, lines)
