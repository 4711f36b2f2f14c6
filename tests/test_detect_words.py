"""`bench detect`: arguments of a training that are the same in other words, or that would let cells differ unseen."""

from __future__ import annotations

import importlib
import linecache
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import tiny_dataset

from yolo_attn import registry
from yolo_attn.commands.cli import UsageError
from yolo_attn.detect import words
from yolo_attn.detect.estimate import estimate
from yolo_attn.detect.store import Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def request_of(data: str, *more: str, models: str = "yolov8n") -> words.Request:
    return words.read_request([f"models={models}", f"data={data}", "control=0", "imgsz=64", "dry=1", *more])


def test_defaults_that_are_said_and_numbers_in_other_forms_are_the_same_cells(data: str) -> None:
    plain = request_of(data, "mosaic=0", "degrees=10")
    said = request_of(data, "mosaic=0.0", "degrees=10.0", "epochs=30", "lr0=0.01", "optimizer=auto", "cos_lr=False")
    assert [c.id for c in said.plan.cells] == [c.id for c in plain.plan.cells]
    assert said.folder == plain.folder
    other = request_of(data, "mosaic=0", "degrees=10", "lr0=0.02")
    assert not {c.id for c in other.plan.cells} & {c.id for c in plain.plan.cells}


@pytest.mark.parametrize("word", ["batch=-1", "batch=0.6", "batch=0"])
def test_a_batch_that_each_model_would_choose_for_itself_is_refused(word: str, data: str) -> None:
    with pytest.raises(UsageError, match=f"{word} "):
        request_of(data, word)


def test_scores_of_another_split_are_refused(data: str) -> None:
    with pytest.raises(UsageError, match="scores are those of the val split"):
        request_of(data, "split=test")


def test_freezing_rows_that_are_others_in_a_candidate_is_refused(data: str) -> None:
    with pytest.raises(UsageError, match="freeze=10 counts rows, and yolov8n-sk@backbone has others"):
        request_of(data, "freeze=10", models="sk@backbone")
    assert request_of(data, "freeze=10", models="sk@neck,sk@backbone@csp").plan.cells
    with pytest.raises(UsageError, match="counts rows"):
        request_of(data, "freeze=[0,21]", models="sk@neck")


def test_a_file_is_no_results_folder(data: str, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UsageError, match="taken: this is no folder"):
        request_of(data, f"out={tmp_path / 'taken'}")


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
def test_a_block_that_only_this_process_knows_is_refused_before_any_cell(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_script.py").write_text(BLOCK.format(name="OwnScript"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("own_script")
    with pytest.raises(UsageError, match="OwnScriptRow of own_script is known to this process only.*yolo_attn.blocks"):
        request_of(data, models="OwnScript@neck")


@pytest.mark.usefixtures("own_blocks")
def test_the_code_of_a_package_s_block_identifies_cells(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package.py").write_text(BLOCK.format(name="OwnPackage"))
    (tmp_path / "own_package-1.dist-info").mkdir()
    (tmp_path / "own_package-1.dist-info" / "METADATA").write_text("Name: own-package\nVersion: 1\n")
    (tmp_path / "own_package-1.dist-info" / "entry_points.txt").write_text("[yolo_attn.blocks]\nown = own_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    importlib.import_module("own_package")
    plan = request_of(data, models="OwnPackage@neck").plan
    with open(tmp_path / "own_package.py", "a") as f:
        f.write("\n# Changed.\n")
    linecache.clearcache()
    changed = request_of(data, models="OwnPackage@neck").plan
    assert not {c.id for c in plan.cells} & {c.id for c in changed.cells}


@pytest.mark.parametrize("content", [b"<html>not found</html>", b""])
def test_starting_weights_that_do_not_load(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "start.pt").write_bytes(content)
    with pytest.raises(UsageError, match="start.pt: these are no weights that load"):
        words.read_start(str(tmp_path / "start.pt"))


def test_a_results_folder_in_which_nothing_can_be_made(tmp_path: Path) -> None:
    root = tiny_dataset(tmp_path, "classify")  # which has no pictures to write
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cells").touch()
    with pytest.raises(UsageError, match="out: File exists"):
        words.read_request(["models=yolov8n-cls", f"data={root}", "control=0", "imgsz=64", f"out={tmp_path / 'out'}"])


@pytest.mark.parametrize("more", [("imgsz=100",), ("imgsz=32", "batch=1")])
def test_a_dry_run_estimates_any_size(more: tuple[str, ...], data: str) -> None:
    words_ = ["models=yolov8n", f"data={data}", "control=0", "dry=1", *more]
    request = words.read_request(words_)
    assert "about " in estimate(request, Store(request.folder))
