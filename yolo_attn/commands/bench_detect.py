"""`yolo-attn bench detect`, `plan`, `places`, `cell`, `status`, `report`: arguments for `yolo_attn.detect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultralytics.cfg import DEFAULT_CFG_DICT, smart_value

from ..detect import arguments as checks
from ..detect import places
from ..detect.executors import EXECUTORS
from ..detect.planning import plan_seeds
from ..detect.power import PAIRS, read_budget
from ..detect.run import conduct, run_cell
from ..detect.status import print_status
from ..detect.store import open_store
from ..registry import LEVELS
from ..yamls.expression import read_models
from .parser import PATH, SWITCH, Argument, Command, Rest, Type, names, number, whole


def _read_device(text: str) -> str:
    if text != "cpu" and not (text.isascii() and text.isdigit()):
        raise ValueError("must be cpu or the number of a GPU")
    return text


SEEDS = Type("N|N,N,...|auto", checks.read_seeds)
ONE_DEVICE = Type("cpu|N", _read_device)
DEVICE = Argument("device", "cpu, or numbers of GPUs, each run on one of them; by default all GPUs")
THREADS = "CPU threads of a run; by default those of `yolo train`, divided by the runs at a time"
MODELS = Type("MODEL,...", read_models)
MODELS_HELP = (
    "names (yolov8n-sam), YAML files, or blocks with places: hilo@neck, 'sk(kernels=[3,5])@P4&cbam@P5', and "
    "'sk(groups={8,16})@neck' for one model each; in quotes"
)
SHARED = (
    Argument("data", "datasets as for `yolo train`", names, required=True),
    Argument(
        "seeds", "how many (5 means 0 to 4), which (0,7; a single one is 7,), or auto: see effect; by default 5", SEEDS
    ),
    Argument("effect", "the difference to be found; with seeds=auto as many seeds as that needs", number(above=0)),
    Argument("resplit", "1 draws another split into training and validation images for each seed", SWITCH, False),
    Argument("test", "1 also scores the best weights on the test split: metric='test mAP50-95'", SWITCH, False),
    Argument("budget", "time such as 2h; with seeds=auto no more seeds than fit into it", Type("TIME", read_budget)),
    Argument("metric", "what the verdicts rest on; by default mAP50-95, or top1 for classification"),
    Argument("out", "results folder; by default runs/bench/detect-DATA-...", PATH),
    Argument("executor", "where runs take place: this machine or a Ray cluster", default="local", choices=[*EXECUTORS]),
    Argument("ray_address", "host:port of the Ray cluster; requires executor=ray"),
    Argument("jobs", "runs at a time; by default one on each GPU, or one", whole(1)),
    DEVICE,
    Argument("threads", THREADS, whole(1)),
    Argument("keep", "1 keeps the trained weights", SWITCH, False),
    Argument("costs", "0 measures no latency", SWITCH, True),
    Argument("dry", "1 prints the table, and the time left by the runs that are done; writes nothing", SWITCH, False),
    Argument("run", "0 writes the plan only, for `bench cell`", SWITCH, True),
)
TRAINING = Rest(
    "Every other argument is one of `yolo train`, the same for all runs: epochs=30 imgsz=320 pretrained=yolov8n.pt",
    lambda values: DEFAULT_CFG_DICT,
    lambda name, text: smart_value(text),
    checks.REFUSED,
)
FOLDER = Argument("out", "results folder of `bench detect` or `bench places`", PATH, required=True, positional=True)


def _detect(command: str, **values: Any) -> int:
    return conduct(checks.read_request(values, command))


def _plan(command: str, **values: Any) -> int:
    return plan_seeds(values, command)


def _places(command: str, **values: Any) -> int:
    return conduct(places.read_places(values, command))


def _cell(out: Path, cell: int, device: str | None, threads: int | None) -> int:
    return run_cell(out, cell, device, threads)


def _status(out: Path) -> int:
    print_status(*open_store(out))
    return 0


def _report(out: Path, costs: bool, samples: bool) -> int:
    from ..detect.report import write_report

    print(write_report(open_store(out)[0], measure_costs=costs, samples=samples))
    return 0


TABLE = (
    Argument("models", MODELS_HELP, MODELS, required=True),
    Argument("base", "the stock model; by default the one with whose name the first model's name begins"),
    Argument("control", "0 leaves out the cost-matched controls", SWITCH, True),
)
DETECT = Command(
    "bench detect",
    "Compare models over several seeds with the stock model and with a stock model of the same cost.",
    _detect,
    *TABLE,
    *SHARED,
    rest=TRAINING,
    typed=True,
)
PLAN = Command(
    "bench plan",
    "Print how many seeds of a table detect which difference in which time; a short pilot gives the spread.",
    _plan,
    *TABLE,
    Argument("pilot", "seeds of the pilot, where the folder has no results; 0 runs none", whole(0), PAIRS),
    *(a for a in SHARED if a.name not in ("seeds", "keep", "costs", "dry", "run")),
    rest=TRAINING,
    typed=True,
)
PLACES = Command(
    "bench places",
    "Compare the places in which a block can be inserted into a model, by their effect for their cost.",
    _places,
    Argument("block", "a block from `yolo-attn list`", required=True),
    Argument("base", "the stock model", default="yolov8n"),
    Argument("forms", "row (a residual row), csp (inside C2f or C3k2)", names, places.FORMS, choices=places.FORMS),
    Argument("levels", "levels of the pyramid", names, LEVELS, choices=LEVELS),
    Argument("control", "1 adds a cost-matched control for each place that costs more than stock", SWITCH, False),
    *SHARED,
    rest=TRAINING,
    typed=True,
)
CELL = Command(
    "bench cell",
    "Run one cell of the plan in a results folder, unless it is done: for SLURM and other schedulers.",
    _cell,
    FOLDER,
    Argument("cell", "its number, from 0", whole(0), required=True, positional=True),
    Argument("device", "cpu or the number of a GPU; by default the first visible GPU, or cpu", ONE_DEVICE),
    Argument("threads", "CPU threads; by default the cores that the process may use", whole(1)),
    notes="The exit code is 0 where the cell is done, 1 where its run failed, 2 for wrong usage.",
)
STATUS = Command(
    "bench status", "Show how far a benchmark is, which runs take place where, and what failed.", _status, FOLDER
)
REPORT = Command(
    "bench report",
    "Write the report of a results folder again, from whatever is done.",
    _report,
    FOLDER,
    Argument("costs", "0 measures no latency", SWITCH, True),
    Argument("samples", "0 shows no images of the dataset, for a report that is published", SWITCH, True),
)
