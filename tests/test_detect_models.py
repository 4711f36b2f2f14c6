"""`bench detect`: the models that users name, and the controls of the same cost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_attn.detect import controls, models
from yolo_attn.detect.plan import CANDIDATE, CONTROL, STOCK, Dataset, Model
from yolo_attn.errors import UsageError
from yolo_attn.yamls import shipped as assets


def with_controls(names: list[str], base: str, size: models.Size) -> list[Model]:
    return controls.with_controls(models.read_models(names, base, size), size)


def test_the_stock_model_is_found_and_comes_first() -> None:
    made = models.read_models(["yolov8n-sam", "hilo@neck"], "yolov8n", models.Size(64))
    assert [(m.name, m.role) for m in made] == [
        ("yolov8n", STOCK),
        ("yolov8n-sam", CANDIDATE),
        ("yolov8n-hilo@neck", CANDIDATE),
    ]


def test_each_task_has_its_own_stock_model() -> None:
    assert models.stock_of(["sk@neck", "yolov8n-sam-seg"]) == "yolov8n-seg"
    assert models.stock_of(["sk@neck"]) == "yolov8n"


@pytest.mark.parametrize(
    ("names", "base", "said"),
    [
        (["yolov8n-sk", "yolov8s-sk"], "yolov8n", "yolov8s-sk has scale s, but the stock model yolov8n has scale n"),
        (["yolov8-sk"], "yolov8n", "its name has no scale letter. Write yolov8n-sk."),
        (["yolov8-sk"], "yolov8", "the stock model yolov8 has the scales n, s, m, l, x, and its name no scale letter"),
    ],
)
def test_scales_that_do_not_match_are_refused_before_anything_is_built(
    names: list[str], base: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "build", None)
    with pytest.raises(UsageError, match=said):
        with_controls(names, base, models.Size(64))


def test_costs_are_those_of_each_datasets_number_of_classes() -> None:
    made = models.read_models(["yolov8n"], "yolov8n", models.Size(64, 1))
    sets = [Dataset(str(n), "", "detect", "", tuple("abcde"[:n]), {}) for n in (1, 3, 1)]
    (stock,) = models.with_costs(made, sets, models.Size(64, 1))
    assert stock.parameters == 3_011_043  # as Ultralytics prints it for one class
    assert list(stock.costs) == ["3"] and stock.costs["3"][0] == 3_011_433


def test_a_base_with_another_kind_of_c2f_has_a_control() -> None:
    made = with_controls(["sk@neck"], "yolo12n", models.Size(64))
    assert [m.role for m in made] == ["stock", "candidate", "control"]
    assert abs(made[2].gflops / made[1].gflops - 1) <= models.MATCH


def test_a_file_whose_name_has_no_scale_has_that_of_the_base(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    shutil.copy(assets.folder() / "yolov8-sam.yaml", file)
    _, candidate = models.read_models([str(file)], "yolov8s", models.Size(64))
    assert candidate.d["scale"] == "s"
    (named,) = (m for m in models.read_models(["yolov8s-sam"], "yolov8s", models.Size(64)) if m.role != "stock")
    assert models.same(candidate, named)


def test_a_scale_letter_need_not_be_in_the_name_of_the_file(tmp_path: Path) -> None:
    shutil.copy(assets.folder() / "yolov8-sam.yaml", tmp_path / "yolov8-mine.yaml")
    d, name = models.read_yaml(str(tmp_path / "yolov8s-mine.yaml"))
    assert (d["scale"], list(d["scales"]), name) == ("s", ["s"], "yolov8s-mine")


def test_a_file_without_the_scale_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "yolov8x-mine.yaml"
    text = (assets.folder() / "yolov8-sam.yaml").read_text()
    file.write_text("".join(line for line in text.splitlines(True) if not line.strip().startswith("x: ")))
    with pytest.raises(UsageError, match="it has no scale x; it has n"):
        models.read_yaml(str(file))


@pytest.mark.parametrize("name", ["yolov10n", "yolov9s", "yolov9t", "yolo11m", "yolov8n-p2", "yolov8x-seg", "rtdetr-l"])
def test_every_stock_model_is_its_own_base(name: str) -> None:
    assert models.stock_of([name]) == name
    assert models.stock_of([f"{name}-mine"]) == name


@pytest.mark.parametrize(("base", "imgsz", "trained"), [("yolov8n", 100, 128), ("yolov8n-p6", 96, 128)])
def test_costs_are_counted_at_the_size_that_is_trained(base: str, imgsz: int, trained: int) -> None:
    at = [with_controls(["sk@neck"], base, models.Size(size)) for size in (imgsz, trained)]
    assert [m.gflops for m in at[0]] == [m.gflops for m in at[1]]
    assert [m.role for m in at[0]] == ["stock", "candidate", "control"]


# ---- controls ----


def test_the_control_costs_what_the_candidate_costs() -> None:
    stock, sam, control = with_controls(["yolov8n", "yolov8n-sam"], "yolov8n", models.Size(320, 3))
    assert control.role == CONTROL and sam.control == control.name
    assert abs(control.gflops / sam.gflops - 1) <= models.MATCH
    assert control.gflops > stock.gflops


def test_candidates_of_like_cost_share_a_control_and_one_that_costs_nothing_has_none() -> None:
    named = ["yolov8n", "yolov8n-sk", "yolov8n-attnconv", "mlca@neck"]
    made = with_controls(named, "yolov8n", models.Size(320))
    names = {m.name: m.control for m in made}
    assert names["yolov8n-sk"] == names["yolov8n-attnconv"] != ""
    assert names["yolov8n-mlca@neck"] == ""
    assert [m.role for m in made].count(CONTROL) == 1


def test_where_no_row_takes_bottlenecks_there_is_no_control() -> None:
    made = with_controls(["sk@neck"], "yolov5n", models.Size(64))
    assert [(m.role, m.control) for m in made] == [(STOCK, ""), (CANDIDATE, "")]


def test_a_deeper_control_starts_as_the_stock_model() -> None:
    stock = models.read_yaml("yolov8n")[0]
    source: Any = models.build(stock)
    for m in source.modules():  # statistics that differ from those of a new model
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    deeper = controls.starting_weights(controls.with_bottlenecks(stock, 5), source)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = deeper.eval()(x)[0], source.eval()(x)[0]
    assert sum(p.numel() for p in deeper.parameters()) > sum(p.numel() for p in source.parameters())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # sums of another length, boxes up to 96 px
