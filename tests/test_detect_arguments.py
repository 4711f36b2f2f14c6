"""`bench detect` and `bench places`: what their arguments mean, and errors before anything is written."""

from __future__ import annotations

import importlib
import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import request_of

from yolo_attn import commands, registry
from yolo_attn.commands import bench_detect
from yolo_attn.detect import arguments
from yolo_attn.detect.plan import CANDIDATE
from yolo_attn.errors import UsageError


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["models=yolov8n"], "data=… is missing"),
        (["data={data}"], "models=… is missing"),
        (["models=yolov8n-sma", "data={data}"], "nor one of yolo_attn. Did you mean"),
        (["models=nothing-like-it", "data={data}"], "does not begin with a stock model's"),
        (["models=yolov8n,yolov8n-sam,yolov8n-sam", "data={data}"], "names 'yolov8n-sam' twice"),
        (
            ["models=yolov8n,yolov8n-sam-seg", "data={data}"],
            "has task segment, but the stock model yolov8n has task detect",
        ),
        (["models=yolov8n-sk,yolov8s-sk", "data={data}"], "yolov8s-sk has scale s, but the stock model yolov8n has sc"),
        (["models=yolov8-sk", "data={data}"], "Add one to all names, as in yolov8n."),
        (["models=yolov8n,hilo@", "data={data}"], "hilo@ is no insertion; write block@place"),
        (["models=yolov8n,hilo@attic", "data={data}"], "models=hilo@attic: "),
        (["models=yolov8n,nosuch@neck", "data={data}"], "models=nosuch@neck: "),
        (["models=yolov8n.pt", "data={data}"], "holds weights"),
        (["models=yolov8n", "data=nothing.yaml"], "data=nothing.yaml: "),
        (["models=yolov8n", "data=coco128"], "a dataset's YAML is required"),
        (["models=yolov8n", "data={data},{data}"], "names "),
        (["models=yolov8n", "data={data}", "executor=rai"], "no such executor. Did you mean ray?"),
        (["models=yolov8n", "data={data}", "ray_address=a:1"], "ray_address= requires executor=ray"),
        (["models=yolov8n", "data={data}", "metric=map"], "no such metric for detect. Did you mean"),
        (["models=yolov8n", "data={data}", "metric=top1"], "no such metric for detect"),
        (["models=yolov8n", "data={data}", "metric=test mAP50-95"], "with test=1 also 'test mAP50-95'"),
        (["models=yolov8n", "data={data}", "test=1"], "has no test split"),
        (["models=yolov8n-cls", "data={data}", "resplit=1"], "resplit=1 is for datasets with label files"),
        (["models=yolov8n,yolov8-sk", "data={data}"], "its name has no scale letter. Write yolov8n-sk."),
        (["models=yolov8n", "data={data}", "seeds=-1"], "seeds=-1 must be how many seeds"),
        (["models=yolov8n", "data={data}", "seeds=2,2"], "names a seed twice"),
        (["models=yolov8n", "data={data}", "seeds=20260101"], "over 1000"),
        (["models=yolov8n", "data={data}", "seeds=auto"], "seeds=auto needs the difference to be found, effect=0.01"),
        (["models=yolov8n", "data={data}", "seeds=auto", "effect=0.01"], "has no comparison of 3 seeds"),
        (["models=yolov8n", "data={data}", "budget=2"], "budget=2 must be a time such as 90min"),
        (["models=yolov8n", "data={data}", "jobs=0"], "jobs=0 must be a whole number of at least 1"),
        (["models=yolov8n", "data={data}", "epochs=0"], "epochs=0 is an invalid value"),
        (["models=yolov8n", "data={data}", "epohcs=3"], "no argument 'epohcs'. Did you mean"),
        (["models=yolov8n", "data={data}", "lr0=high"], "lr0=high"),
        (["models=yolov8n", "data={data}", "seed=3"], "seeds=5 runs seeds 0 to 4"),
        (["models=yolov8n", "data={data}", "project=x"], "results go to out="),
        (["models=yolov8n", "data={data}", "split=test"], "scores are those of the val split"),
        (["models=yolov8n", "data={data}", "pretrained=gone.pt"], "these weights do not load: FileNotFoundError"),
        (["models=yolov8n", "data={data}", "pretrained=True"], "does not name the weights"),
        (["models=yolov8n", "data={data}", "device=gpu"], "device=gpu must be cpu or numbers"),
        (["models=yolov8n", "data={data}", "executor=ray", "device=1"], "device=1: Ray gives each run its GPU"),
        (["models=yolov8n", "data={data}", "dry=yes"], "dry=yes must be 0 or 1"),
        (["models=yolov8n", "data={data}", "batch=-1"], "batch=-1 must be a whole number"),
        (["models=yolov8n", "data={data}", "batch=0.6"], "a batch that fits the memory would differ between models"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    argv: list[str], text: str, tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.main(["bench", "detect", *(word.format(data=tiny_data) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_the_table_and_writes_nothing(
    tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["models=yolov8n,yolov8n-sam,sk@neck", f"data={tiny_data}", "seeds=3", "epochs=2", "imgsz=64", "dry=1"]
    assert commands.main(["bench", "detect", *argv]) == 0
    text = capsys.readouterr().out
    assert "yolov8n-sam" in text and "yolov8n-sk@neck" in text and "cost control yolov8n+" in text
    assert "x 1 dataset x 3 seeds" in text and "0 done" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("4,2", (4, 2)), ("7,", (7,)), ("0", ()), ("1", (0,))])
def test_seeds_are_a_number_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert arguments.read_seeds(text) == seeds


@pytest.mark.parametrize(("gpus", "said"), [(0, "PyTorch finds no GPUs here; device=cpu"), (1, "1 GPU here, counted")])
def test_a_gpu_that_does_not_exist_is_refused_before_anything_is_built(
    gpus: int, said: str, tiny_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UsageError, match=f"device=0,1: .*{said}"):
        request_of(tiny_data, "device=0,1")


@pytest.mark.parametrize("executor", ["ray"])
def test_an_executor_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    executor: str, tiny_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == executor else find(n, *a))
    with pytest.raises(UsageError, match=rf"pip install 'yolo-attn\[{executor}\]'"):
        request_of(tiny_data, f"executor={executor}")


def test_values_in_other_forms_and_spelt_out_defaults_are_the_same_cells(tiny_data: str) -> None:
    plain = request_of(tiny_data, "mosaic=0", "degrees=10")
    same = request_of(
        tiny_data, "mosaic=0.0", "degrees=10.0", "epochs=30", "lr0=0.01", "optimizer=auto", "cos_lr=False"
    )
    assert [c.id for c in same.plan.cells] == [c.id for c in plain.plan.cells]
    assert same.folder == plain.folder
    other = request_of(tiny_data, "mosaic=0", "degrees=10", "lr0=0.02")
    assert not {c.id for c in other.plan.cells} & {c.id for c in plain.plan.cells}


def test_freezing_other_layers_in_a_candidate_is_refused(tiny_data: str) -> None:
    with pytest.raises(UsageError, match="freeze=10 counts rows, and yolov8n-sk@backbone has others"):
        request_of(tiny_data, "freeze=10", models="sk@backbone")
    assert request_of(tiny_data, "freeze=10", models="sk@neck,sk@backbone@csp").plan.cells
    with pytest.raises(UsageError, match="counts rows"):
        request_of(tiny_data, "freeze=[0,21]", models="sk@neck")


def test_a_file_cannot_be_the_results_folder(tiny_data: str, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UsageError, match="taken: this is no folder"):
        request_of(tiny_data, f"out={tmp_path / 'taken'}")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b""])
def test_starting_weights_that_do_not_load_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "start.pt").write_bytes(content)
    with pytest.raises(UsageError, match="start.pt: these weights do not load"):
        arguments.read_start(str(tmp_path / "start.pt"))


def test_every_argument_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "detect.md").read_text(encoding="utf-8")
    tables = re.split(r"^\| argument.* \| meaning \| default \|$", text, flags=re.MULTILINE)[1:]
    detect, places, cell = (set(re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.M)) for table in tables)
    assert detect == bench_detect.DETECT.arguments.keys()
    assert places == bench_detect.PLACES.arguments.keys() - {a.name for a in bench_detect.SHARED}
    assert cell == bench_detect.CELL.arguments.keys() - {"out", "cell"}
    refused = text.partition("are refused, with what to use instead")[2].partition("; so are")[0]
    assert set(re.findall(r"`(\w+)`", refused)) == set(arguments.REFUSED)
    assert all(f"`{key}={arguments.DEFAULTS[key]}`" in text for key in ("epochs", "workers", "plots"))


# ---- blocks of other packages ----

BLOCK = """
from torch import nn
import yolo_attn


@yolo_attn.register("{name}", paper="https://example.org", row="{name}Row")
class Own(nn.Module):
    def __init__(self, c1: int):
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1)

    def forward(self, x):
        return self.conv(x)
"""


@pytest.fixture
def own_blocks() -> Iterator[None]:
    before = dict(registry._blocks)
    yield
    registry._blocks.clear()
    registry._blocks.update(before)


@pytest.mark.usefixtures("own_blocks")
def test_a_block_that_only_this_process_knows_is_refused(
    tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_script.py").write_text(BLOCK.format(name="OwnScript"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("own_script")
    with pytest.raises(UsageError, match="OwnScriptRow of own_script is known to this process only.*yolo_attn.blocks"):
        request_of(tiny_data, models="OwnScript@neck")


@pytest.mark.usefixtures("own_blocks")
def test_the_code_of_another_packages_block_identifies_cells(
    tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package.py").write_text(BLOCK.format(name="OwnPackage"))
    (tmp_path / "own_package-1.dist-info").mkdir()
    (tmp_path / "own_package-1.dist-info" / "METADATA").write_text("Name: own-package\nVersion: 1\n")
    (tmp_path / "own_package-1.dist-info" / "entry_points.txt").write_text("[yolo_attn.blocks]\nown = own_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    importlib.import_module("own_package")
    plan = request_of(tiny_data, models="OwnPackage@neck").plan
    with open(tmp_path / "own_package.py", "a") as f:
        f.write("\n# Changed.\n")
    linecache.clearcache()
    changed = request_of(tiny_data, models="OwnPackage@neck").plan
    assert not {c.id for c in plan.cells} & {c.id for c in changed.cells}


# ---- bench places ----


def test_places_contain_every_model_once(capsys: Any, tiny_data: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "places", "block=hilo", f"data={tiny_data}", "imgsz=64", "levels=P4,P5", "forms=csp", "dry=1"]
    assert commands.main(argv) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if CANDIDATE in line]
    names = [line.split()[0] for line in lines]
    backbone, neck = ["backbone.P4", "backbone.P5"], ["neck.P4", "neck.P5"]
    places = [*backbone, *neck, "P4", "P5", *("+".join(parts) for parts in (backbone, neck, backbone + neck))]
    assert sorted(names) == sorted(f"yolov8n-hilo@{place}@csp" for place in places)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["data={data}"], "block=… is missing"),
        (["block=hillo", "data={data}"], "block=hillo: no such block. Did you mean"),
        (["block=hilo", "data={data}", "forms=column"], "forms=column: no such forms. Choices: row, csp"),
        (["block=hilo", "data={data}", "levels=P9"], "levels=P9: no such levels."),
        (["block=hilo", "data={data}", "models=yolov8n"], "no argument 'models'"),
        (["block=hilo", "data={data}", "base=yolov8n-gone"], "neither a model of Ultralytics nor"),
    ],
)
def test_invalid_arguments_of_places_are_refused(
    argv: list[str], text: str, tiny_data: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.main(["bench", "places", *(word.format(data=tiny_data) for word in argv)]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
