"""`yolo-attn bench models`: what a user feels, whole models with attention against the stock one.

    yolo-attn bench models                                        yolov8n and every shipped block in backbone and neck
    yolo-attn bench models models=yolov8s,yolov8s-hilo imgsz=320 batch=8 threads=4 out=results

Writes a CSV whose name carries device, precision, threads and PyTorch's version.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import registry
from ..commands.cli import UsageError, arguments
from ..yamls import shipped as assets
from .arithmetic import count_macs
from .cases import memory_errors_told
from .conditions import Conditions, at_least, read_conditions, read_folder
from .peak import PeakMeter
from .table import show, write_csv
from .timing import Spread, interleave

STOCK = "yolov8n"
WORDS = ("models", "imgsz", "batch", "dtype", "device", "threads", "repeats", "onnx", "out")
USAGE = """usage: yolo-attn bench models [key=value ...]

  models   names or files of detection YAMLs, several with commas; the first is what the others are compared with;
           by default yolov8n and each of ours with a block in backbone and neck
  imgsz    pixels, a multiple of 32; by default 640
  batch    images of a training step; by default 4. Inference takes one image
  dtype    float32, or float16 or bfloat16 for autocast
  device   cpu, cuda, cuda:1
  threads  of the CPU; by default 1
  repeats  rounds; by default what the time allows, 5 to 50
  onnx     0 leaves the exported models out; they need onnx and onnxruntime
  out      folder for the CSV; by default runs/bench"""
#: Columns of the CSV: one row per model and measure.
FIELDS = (
    "model",
    "parameters",
    "gflops",
    "gflops_counted",
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
#: How long to go on, all models together; at least 5 rounds.
TRAIN_SECONDS, SECONDS = 60, 15
MEASURES = ("training step", "inference", "ONNX inference", "training peak", "inference peak")
BOXES = 8  # in each image of the random batch


def main(words: list[str]) -> int:
    """Measure, print, write."""
    if words and words[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    given = arguments(words, WORDS)
    conditions = read_conditions(given)
    imgsz, batch = at_least(given, "imgsz", 640, 32), at_least(given, "batch", 4)
    if imgsz % 32:
        raise UsageError(f"imgsz={imgsz} must be a multiple of 32.")
    repeats = at_least(given, "repeats", None, 2)
    onnx = read_onnx(given)
    names = read_models(given)
    folder = read_folder(given)
    rows = measure(names, conditions, imgsz, batch, repeats, onnx)
    report(rows)
    path = folder / f"{conditions.file_name('models')}.csv"
    write_csv(path, FIELDS, rows)
    print(f"\n{path}")
    return 0


def read_models(given: Mapping[str, str]) -> list[str]:
    """The model YAMLs to compare, stock first.

    Raises:
        UsageError: One is missing, given twice, or no detection model.
    """
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    if "models" not in given:
        return [f"{STOCK}.yaml", *(path.name.replace("yolov8", STOCK, 1) for path in shipped())]
    names = [word if word.endswith((".yaml", ".yml")) else f"{word}.yaml" for word in given["models"].split(",")]
    for name in names:
        try:
            with quiet():
                last = yaml_model_load(name)["head"][-1][2]
        except (OSError, KeyError, TypeError, IndexError, yaml.YAMLError) as e:
            raise UsageError(f"models={name.removesuffix('.yaml')}: there is no such model YAML.") from e
        if last != "Detect":
            raise UsageError(f"models={name.removesuffix('.yaml')}: its last layer is {last}; only Detect is measured.")
        if names.count(name) > 1:
            raise UsageError(f"models={name.removesuffix('.yaml')} is given twice.")
    return names


def shipped() -> list[Path]:
    """Our detection YAMLs with a block in backbone and neck, one for each block."""
    import yaml

    carriers = {b.name for b in registry.list_blocks() if b.carrier}
    found: dict[frozenset[str], Path] = {}
    for path in sorted(assets.model_yamls(), key=lambda p: (len(p.name), p.name)):
        if path.name.startswith("yolov8-"):
            d = yaml.safe_load(path.read_text(encoding="utf-8"))
            backbone, head = ({row[2] for row in d[part]} for part in ("backbone", "head"))
            if carriers & backbone & head and d["head"][-1][2] == "Detect":
                found.setdefault(frozenset(carriers & backbone & head), path)
    return sorted(found.values())


def read_onnx(given: Mapping[str, str]) -> bool:
    """Whether to measure exported models.

    Raises:
        UsageError: The word is neither 0 nor 1, or asks for what is not installed.
    """
    missing = [m for m in ("onnx", "onnxruntime") if importlib.util.find_spec(m) is None]
    word = given.get("onnx", "0" if missing or given.get("device", "cpu") != "cpu" else "1")
    if word not in ("0", "1"):
        raise UsageError(f"onnx={word} is neither 0 nor 1.")
    if word == "1" and missing:
        raise UsageError(f"onnx=1 needs {' and '.join(missing)}: pip install 'yolo-attn[export]'.")
    return word == "1"


@dataclass
class Trainee:
    """A model, and everything that a training step and a prediction need.

    Attributes:
        model: In train mode.
        fused: A copy as Ultralytics predicts with it: layers folded, eval mode.
        batch: A fixed random batch with boxes.
        image: One image.
        optimizer: For all parameters.
        scaler: Of the loss, at work in float16 only.
        conditions: Where and how.
    """

    model: Any
    fused: Any
    batch: dict[str, torch.Tensor]
    image: torch.Tensor
    optimizer: torch.optim.Optimizer
    scaler: Any
    conditions: Conditions

    @classmethod
    def build(cls, name: str, imgsz: int, batch: int, conditions: Conditions) -> Trainee:
        """Build a model from its YAML, with random weights that are the same each time."""
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import DetectionModel

        torch.manual_seed(0)
        with quiet():
            model: Any = DetectionModel(name, verbose=False).to(conditions.device)
        fused = folded(model)
        model.args = get_cfg()  # gains of the loss
        data = random_batch(batch, imgsz, int(model.yaml["nc"]), conditions.device)
        # A rate so small that the weights, and with them the loss's work, stay what they are.
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True)
        scaler = torch.amp.GradScaler(conditions.device.type, enabled=conditions.dtype == torch.float16)
        return cls(model.train(), fused, data, data["img"][:1].clone(), optimizer, scaler, conditions)

    def train_step(self) -> None:
        """Forward pass, loss, backward pass, optimizer."""
        with self.conditions.autocast():
            loss, _ = self.model(self.batch)
        self.scaler.scale(loss.sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def predict(self) -> object:
        """The forward pass for one image, without what follows it (suppression of double boxes)."""
        with torch.inference_mode(), self.conditions.autocast():
            return self.fused(self.image)


def random_batch(images: int, imgsz: int, classes: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Noise with boxes in it, as Ultralytics' loader would hand it over; the same each time."""
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
    return {key: value.to(device) for key, value in data.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks that Ultralytics makes while it builds a model; warnings stay."""
    import logging

    from ultralytics.utils import LOGGER

    before = LOGGER.level
    LOGGER.setLevel(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        LOGGER.setLevel(before)


def peak_step(job: Mapping[str, Any], small: bool) -> Callable[[], object]:
    """A step for the peak meter.

    Args:
        job: model, imgsz, batch, train; device, dtype, threads.
        small: On a small image instead.
    """
    made = Trainee.build(job["model"], 64 if small else job["imgsz"], job["batch"], read_conditions(job))
    if job["train"]:
        del made.fused
        return made.train_step
    del made.model, made.optimizer
    return made.predict


def measure(
    names: Sequence[str],
    conditions: Conditions,
    imgsz: int = 640,
    batch: int = 4,
    repeats: int | None = None,
    onnx: bool = True,
) -> list[dict[str, Any]]:
    """Rows of `FIELDS`.

    Args:
        names: Model YAMLs; the first is what the others are compared with.
        conditions: Where and how.
        imgsz: Side of the images.
        batch: Images of a training step.
        repeats: Rounds; by default what the time allows.
        onnx: Also measure the exported models, in ONNX Runtime on the CPU.
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
            for what, images in (("training peak", batch), ("inference peak", 1)):
                job = {"model": name, "imgsz": imgsz, "batch": images, "train": what.startswith("training")}
                peak = meter.measure(job)
                if peak is not None:
                    found[name][what, images, "MiB"] = Spread((peak / 2**20,))
            stage(f"peak memory of {name}")
    with conditions.applied(), memory_errors_told(f"batch={batch} imgsz={imgsz}"):
        made = {name: Trainee.build(name, imgsz, batch, conditions) for name in names}
        stage("built")
        times = interleave({k: m.train_step for k, m in made.items()}, repeats, TRAIN_SECONDS, wait=conditions.wait)
        add(found, "training step", batch, times)
        stage("training steps")
        costs = {name: (*cost(m.model, imgsz), 2 * count_macs(m.fused, m.image) / 1e9) for name, m in made.items()}
        times = interleave({k: m.predict for k, m in made.items()}, repeats, SECONDS, wait=conditions.wait)
        add(found, "inference", 1, times)
        stage("inference")
        if onnx:
            add(found, "ONNX inference", 1, time_onnx(made, conditions, repeats))
            stage("ONNX inference")
    bar.close()
    rows = []
    for name in names:
        parameters, gflops, counted = costs[name]
        model = {"model": Path(name).stem, "parameters": parameters, "gflops": gflops, "gflops_counted": counted}
        for (what, images, unit), spread in sorted(found[name].items(), key=lambda item: MEASURES.index(item[0][0])):
            row = {**model, "imgsz": imgsz, "measure": what, "batch": images, "unit": unit, "n": spread.n}
            row |= {"median": spread.median, "p10": spread.p10, "p90": spread.p90}
            stock = found[names[0]].get((what, images, unit))
            if name != names[0] and stock:
                ratio = spread.ratio_to(stock)
                row |= {"ratio": ratio.median, "ratio_p10": ratio.p10, "ratio_p90": ratio.p90}
                row["intervals"] = "overlap" if spread.n > 1 and spread.overlaps(stock) else "apart"
            rows.append(row)
    return rows


def add(
    found: dict[str, dict[tuple[str, int, str], Spread]], what: str, images: int, times: Mapping[str, Spread]
) -> None:
    """Note measured times, in milliseconds."""
    for name, spread in times.items():
        found[name][what, images, "ms"] = Spread(tuple(1e3 * v for v in spread.values))


def cost(model: nn.Module, imgsz: int) -> tuple[int, float]:
    """Parameters, and GFLOPs as Ultralytics counts them."""
    from ultralytics.utils.torch_utils import get_flops

    return sum(p.numel() for p in model.parameters()), get_flops(model, imgsz)


def folded(model: Any) -> Any:
    """A copy as Ultralytics predicts with it: layers folded, eval mode."""
    with quiet():
        return copy.deepcopy(model).eval().fuse(verbose=False)


def time_onnx(made: Mapping[str, Trainee], conditions: Conditions, repeats: int | None) -> dict[str, Spread]:
    """Export and time every model, each with the same number of threads."""
    calls = {name: onnx_call(m.fused, m.image, conditions.threads) for name, m in made.items()}
    return interleave(calls, repeats, SECONDS)


def onnx_call(model: Any, image: torch.Tensor, threads: int) -> Callable[[], object]:
    """Export a model; returns its prediction for an image, in ONNX Runtime on the CPU.

    Args:
        model: As `folded` makes it.
        image: (1, 3, H, W).
        threads: Of ONNX Runtime's operators.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        content = export(model, image, Path(folder, "model.onnx")).read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {"images": image.cpu().numpy()})


def export(model: Any, image: torch.Tensor, path: Path) -> Path:
    """Write a fused model of any task as ONNX, the way Ultralytics' exporter sets it up."""
    import inspect
    import logging
    import warnings

    from ultralytics.nn.modules import C2f, Classify, Detect, RTDETRDecoder

    model = copy.deepcopy(model).cpu().eval()
    for m in model.modules():
        if isinstance(m, Detect | RTDETRDecoder | Classify):
            vars(m).update(export=True, format="onnx", dynamic=False)
        elif isinstance(m, C2f):
            vars(m)["forward"] = m.forward_split  # without chunk
    image = image.cpu()
    with torch.no_grad():
        model(image)
    words: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (image,), str(path), opset_version=17, input_names=["images"], output_names=["output0"], **words
        )
    return path


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what was found."""
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
                f"{r['gflops_counted']:.1f}",
                f"{r['measure']}, batch {r['batch']}",
                f"{r['median']:.4g} {r['unit']}",
                f"{r['p10']:.4g}-{r['p90']:.4g}" if r["n"] > 1 else "",
                str(r["n"]),
                ratio,
            )
        )
    header = ("model", "parameters", "GFLOPs", "counted", "measure", "median", "p10-p90", "n", "times the first model")
    show(header, lines)
