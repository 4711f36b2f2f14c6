"""`bench detect`: command line, identities, results folder, controls and the run loop, without training anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import tiny_dataset

from yolo_attn.commands import cli
from yolo_attn.commands.cli import UsageError
from yolo_attn.detect import models, store, words
from yolo_attn.detect.plan import CANDIDATE, CONTROL, STOCK, Dataset, Model, Plan
from yolo_attn.detect.run import TRIES, run
from yolo_attn.detect.store import DONE, FAILED, LOST, OPEN, RUNNING, Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def tiny_plan(seeds: tuple[int, ...] = (0, 1), **changes: Any) -> Plan:
    """Two models that nobody trains."""
    made = (Model("a", STOCK, {"nc": 1}, 1, 1.0), Model("b", CANDIDATE, {"nc": 2}, 2, 1.1))
    sets = (Dataset("d", "/nowhere/d.yaml", "detect", "f" * 64, ("x",), {"train": 1, "val": 1}),)
    given: dict[str, Any] = {"arguments": {"epochs": 1}, "start": {}, "versions": {"torch": "1"}, **changes}
    return Plan("command", "mAP50", seeds=seeds, models=made, datasets=sets, **given).with_cells()


# The command line


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["models=yolov8n"], "data=… is missing"),
        (["data={data}"], "models=… is missing"),
        (["models=yolov8n-sma", "data={data}"], "no such model YAML. Did you mean"),
        (["models=nothing-like-it", "data={data}"], "does not begin with a stock model's"),
        (["models=yolov8n,yolov8n-sam,yolov8n-sam", "data={data}"], "models=yolov8n-sam is given twice"),
        (["models=yolov8n,yolov8n-sam-seg", "data={data}"], "for segment, but the stock model yolov8n is for detect"),
        (["models=yolov8n,hilo@", "data={data}"], "a generator word is block@place"),
        (["models=yolov8n,hilo@attic", "data={data}"], "models=hilo@attic: "),
        (["models=yolov8n,nosuch@neck", "data={data}"], "models=nosuch@neck: "),
        (["models=yolov8n.pt", "data={data}"], "weights are no model YAML"),
        (["models=yolov8n", "data=nothing.yaml"], "data=nothing.yaml: "),
        (["models=yolov8n", "data=coco128"], "a dataset's YAML is needed"),
        (["models=yolov8n", "data={data},{data}"], "another dataset of this run is called"),
        (["models=yolov8n", "data={data}", "executor=slurm"], "no such executor. "),
        (["models=yolov8n", "data={data}", "metric=map"], "no such metric for detect. Did you mean"),
        (["models=yolov8n", "data={data}", "metric=top1"], "no such metric for detect"),
        (["models=yolov8n", "data={data}", "seeds=-1"], "seeds=-1 must be how many seeds"),
        (["models=yolov8n", "data={data}", "seeds=2,2"], "names a seed twice"),
        (["models=yolov8n", "data={data}", "seeds=20260101"], "over 1000"),
        (["models=yolov8n", "data={data}", "jobs=0"], "jobs=0 must be a whole number of at least 1"),
        (["models=yolov8n", "data={data}", "epochs=0"], "epochs=0 is an invalid value"),
        (["models=yolov8n", "data={data}", "epohcs=3"], "no argument 'epohcs'. Did you mean"),
        (["models=yolov8n", "data={data}", "lr0=high"], "lr0=high"),
        (["models=yolov8n", "data={data}", "seed=3"], "seeds=5 runs seeds 0 to 4"),
        (["models=yolov8n", "data={data}", "project=x"], "results go to out="),
        (["models=yolov8n", "data={data}", "pretrained=gone.pt"], "pretrained=gone.pt: there is no such file"),
        (["models=yolov8n", "data={data}", "pretrained=True"], "does not say from which weights"),
        (["models=yolov8n", "data={data}", "device=gpu"], "device=gpu must be cpu or numbers"),
        (["models=yolov8n", "data={data}", "dry=yes"], "dry=yes is neither 0 nor 1"),
        (["models=yolov8n", "data={data}", "epochs"], "'epochs' needs a value"),
        (["models=yolov8n", "data={data}", "seeds=1", "seeds=2"], "'seeds' is given twice"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(
    argv: list[str], text: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "detect", *(word.format(data=data) for word in argv)]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_labels_with_classes_that_the_yaml_does_not_name(tmp_path: Path, capsys: Any) -> None:
    file = Path(tiny_dataset(tmp_path))
    label = next((tmp_path / "tiny-detect" / "labels" / "train").glob("*.txt"))
    label.write_text("9 0.5 0.5 0.1 0.1\n")
    assert cli.main(["bench", "detect", "models=yolov8n", f"data={file}", f"out={tmp_path / 'out'}"]) == 2
    assert f"names 7 classes, but {label} has class 9" in capsys.readouterr().err


def test_a_dry_run_prints_the_matrix_and_writes_nothing(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["models=yolov8n,yolov8n-sam,sk@neck", f"data={data}", "seeds=3", "epochs=2", "imgsz=64", "batch=2", "dry=1"]
    assert cli.main(["bench", "detect", *argv]) == 0
    text = capsys.readouterr().out
    assert "yolov8n-sam" in text and "yolov8n-sk@neck" in text and "cost control yolov8n+" in text
    assert "x 1 dataset x 3 seeds" in text and "0 done" in text
    assert "about " in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "seeds"), [("3", (0, 1, 2)), ("4,2", (4, 2)), ("7,", (7,)), ("0", ()), ("1", (0,))])
def test_seeds(word: str, seeds: tuple[int, ...]) -> None:
    assert words.read_seeds(word) == seeds


def test_the_stock_model_is_found_and_comes_first() -> None:
    made = models.read_models(["yolov8n-sam", "hilo@neck"], "yolov8n", models.Size(64), controls=False)
    assert [(m.name, m.role) for m in made] == [
        ("yolov8n", STOCK),
        ("yolov8n-sam", CANDIDATE),
        ("yolov8n-hilo@neck", CANDIDATE),
    ]


def test_a_task_of_its_own_has_its_own_stock_model() -> None:
    assert models.stock_of(["sk@neck", "yolov8n-sam-seg"]) == "yolov8n-seg"
    assert models.stock_of(["sk@neck"]) == "yolov8n"


# Identities


def test_names_and_paths_do_not_identify_a_cell_but_content_does() -> None:
    plan = tiny_plan()
    ids = {c.id for c in plan.cells}
    assert len(ids) == len(plan.cells) == 4
    renamed = Plan(
        **{
            **vars(plan),
            "models": tuple(Model(**{**vars(m), "name": m.name + "!", "word": "w"}) for m in plan.models),
            "datasets": tuple(Dataset(**{**vars(s), "name": "other", "path": "/else"}) for s in plan.datasets),
        }
    ).with_cells()
    assert [c.id for c in renamed.cells] == [c.id for c in plan.cells]
    start = {"name": "w.pt", "sha256": "1"}
    for change in ({"arguments": {"epochs": 2}}, {"start": start}, {"versions": {"torch": "2"}}):
        assert not ids & {c.id for c in tiny_plan(**change).cells}
    assert not ids & {c.id for c in tiny_plan(seeds=(2, 3)).cells}


def test_a_renamed_copy_of_a_dataset_is_the_same_dataset_and_another_label_is_not(tmp_path: Path) -> None:
    from yolo_attn.detect.data import read_dataset

    prints = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prints.append(read_dataset(tiny_dataset(tmp_path / name), "detect")[0].fingerprint)
    assert prints[0] == prints[1]
    label = next((tmp_path / "two" / "tiny-detect" / "labels" / "val").glob("*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.2 0.2\n")
    changed = read_dataset(str(tmp_path / "two" / "tiny-detect.yaml"), "detect")[0]
    assert changed.fingerprint != prints[0]


def test_a_plan_survives_its_file() -> None:
    plan = tiny_plan()
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


# The results folder


def test_of_many_that_claim_a_cell_one_gets_it(tmp_path: Path) -> None:
    s, won, gate = Store(tmp_path), [], threading.Barrier(8)

    def claim() -> None:
        gate.wait()
        if s.claim("cell"):
            won.append(1)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert s.state("cell").name == RUNNING


def test_a_dead_owner_loses_its_cell_and_a_living_one_does_not(tmp_path: Path) -> None:
    s = Store(tmp_path)
    code = "import sys; from yolo_attn.detect.store import Store; Store(sys.argv[1]).claim('cell')"
    code += "; print('x', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=-1, stdout=-1)
    assert process.stdout and process.stdout.readline()
    assert s.state("cell").name == RUNNING and s.claim("cell") is None
    process.kill()
    process.wait()
    assert s.state("cell").name == LOST
    again = s.claim("cell")
    assert again is not None and again.number == 2


def test_an_owner_on_another_machine_is_lost_when_it_gives_no_sign(tmp_path: Path) -> None:
    s = Store(tmp_path)
    attempt = s.claim("cell")
    assert attempt
    store.write_json(attempt.path / "owner.json", {"host": "elsewhere", "pid": 1, "start": "0"})
    assert s.state("cell").name == RUNNING
    old = time.time() - store.STALE - 60
    os.utime(attempt.path, (old, old))
    assert s.state("cell").name == LOST
    attempt.beat()
    assert s.state("cell").name == RUNNING


def test_results_are_written_once(tmp_path: Path) -> None:
    s = Store(tmp_path)
    assert s.claim("cell")
    assert s.publish("cell", {"values": {"mAP50": 1.0}})
    assert not s.publish("cell", {"values": {"mAP50": 2.0}})
    assert s.result("cell") == {"values": {"mAP50": 1.0}}
    assert s.state("cell").name == DONE and s.claim("cell") is None
    assert {p.name for p in s.cell("cell").iterdir()} == {"result.json", "attempt-1"}


@pytest.mark.parametrize("damage", ["", "{", '{"id": "other", "outcome": {}}', "checksum"])
def test_a_damaged_result_is_set_aside_and_done_again(damage: str, tmp_path: Path) -> None:
    s = Store(tmp_path)
    s.claim("cell")
    s.publish("cell", {"values": {"mAP50": 0.5}})
    path = s.cell("cell") / "result.json"
    text = path.read_text().replace("0.5", "0.6") if damage == "checksum" else damage
    path.write_text(text)
    assert s.result("cell") is None
    assert (s.cell("cell") / "result.json.aside-1").read_text() == text
    assert s.state("cell").name in (LOST, RUNNING)


def test_a_damaged_result_in_a_folder_for_reading_is_not_done(tmp_path: Path, monkeypatch: Any) -> None:
    s = Store(tmp_path)
    s.claim("cell")
    (s.cell("cell") / "result.json").write_text("{")

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", refuse)
    assert s.result("cell") is None
    assert s.state("cell").name == RUNNING
    assert (s.cell("cell") / "result.json").read_text() == "{"


@pytest.mark.parametrize("content", ["not JSON", "{}", '{"format": 0, "cells": []}', "[]"])
def test_a_manifest_that_is_damaged_or_of_another_version_is_set_aside(content: str, tmp_path: Path) -> None:
    s, plan = Store(tmp_path), tiny_plan()
    (tmp_path / "bench.json").write_text(content)
    remark = s.write_plan(plan)
    assert "damaged or of another version" in remark and "bench.json.aside-1" in remark
    assert (tmp_path / "bench.json.aside-1").read_text() == content
    assert s.read_plan() == plan
    assert s.write_plan(plan) == ""


def test_failed_and_released_cells_can_be_claimed_again(tmp_path: Path) -> None:
    s = Store(tmp_path)
    first = s.claim("cell")
    assert first
    s.fail(first, "no luck")
    assert s.state("cell").name == FAILED and s.state("cell").reason == "no luck"
    second = s.claim("cell")
    assert second and second.number == 2 and s.state("cell").name == RUNNING
    s.release(second)
    assert s.state("cell").name == OPEN


# Controls


def test_the_control_costs_what_the_candidate_costs() -> None:
    stock, sam, control = models.read_models(["yolov8n", "yolov8n-sam"], "yolov8n", models.Size(320, 3), controls=True)
    assert control.role == CONTROL and sam.control == control.name
    assert abs(control.gflops / sam.gflops - 1) <= models.MATCH
    assert control.gflops > stock.gflops


def test_candidates_of_like_cost_share_a_control_and_one_that_costs_nothing_has_none() -> None:
    words = ["yolov8n", "yolov8n-sk", "yolov8n-attnconv", "mlca@neck"]
    made = models.read_models(words, "yolov8n", models.Size(320), controls=True)
    names = {m.name: m.control for m in made}
    assert names["yolov8n-sk"] == names["yolov8n-attnconv"] != ""
    assert names["yolov8n-mlca@neck"] == ""
    assert [m.role for m in made].count(CONTROL) == 1


def test_where_no_row_takes_bottlenecks_the_width_is_scaled() -> None:
    d = models.read_yaml("yolov5n")[0]
    stock = Model("s", STOCK, d, *models.cost(d, models.Size(64), "s"))
    candidate = Model("c", CANDIDATE, {}, 0, stock.gflops * 1.2)
    control = models.cost_control(stock, candidate, models.Size(64))
    assert control is not None and not control.grown
    assert "width" in control.recipe
    assert abs(control.gflops / candidate.gflops - 1) < 0.05


def test_a_deeper_control_starts_as_the_stock_model() -> None:
    stock = models.read_yaml("yolov8n")[0]
    source: Any = models.build(stock)
    for m in source.modules():  # statistics that differ from those of a new model
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    deeper = models.starting_weights(models.with_bottlenecks(stock, 5), source)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = deeper.eval()(x)[0], source.eval()(x)[0]
    assert sum(p.numel() for p in deeper.parameters()) > sum(p.numel() for p in source.parameters())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # sums of another length, boxes up to 96 px


# The run loop


class Fake:
    """An executor that answers by a table instead of training."""

    def __init__(self, s: Store, answers: dict[str, list[Any]], slots: int = 2) -> None:
        self.store, self.answers, self.slots, self.under_way, self.log = s, answers, slots, [], []

    def submit(self, task: Any) -> None:
        assert len(self.under_way) < self.slots
        self.under_way.append(task.id)
        self.log.append(task.id)

    def poll(self) -> dict[str, dict[str, Any]]:
        if not self.under_way:
            return {}
        id = self.under_way.pop(0)
        answer = (self.answers.get(id) or [{"state": "done"}]).pop(0)
        if isinstance(answer, BaseException):
            raise answer
        attempt = self.store.claim(id)
        if attempt and answer["state"] == "done":
            self.store.publish(id, {"values": {}})
        elif attempt and answer["state"] == "failed":
            self.store.fail(attempt, answer["reason"])
        elif attempt:
            self.store.release(attempt)
        return {id: answer}

    def close(self) -> None:
        self.under_way.clear()


def test_one_failing_cell_costs_nothing_else_and_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    plan, s = tiny_plan(), Store(tmp_path)
    s.write_plan(plan)
    bad = plan.cells[1].id
    tally = run(plan, s, Fake(s, {bad: [{"state": "failed", "reason": "out of memory"}]}), bar=False)
    assert tally.done == 3 and tally.failed == {bad: "out of memory"}
    again = Fake(s, {})
    tally = run(plan, s, again, bar=False)
    assert again.log == [bad] and tally.done == 4 and not tally.failed


def test_a_lost_cell_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    plan, s = tiny_plan(), Store(tmp_path)
    s.write_plan(plan)
    once, ever = plan.cells[0].id, plan.cells[1].id
    lost = {"state": "lost", "reason": "node gone"}
    executor = Fake(s, {once: [lost, {"state": "done"}], ever: [lost] * 9})
    tally = run(plan, s, executor, bar=False)
    assert tally.done == 3
    assert list(tally.failed) == [ever] and "node gone" in tally.failed[ever]
    assert executor.log.count(ever) == TRIES


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    plan, s = tiny_plan(), Store(tmp_path)
    s.write_plan(plan)
    executor = Fake(s, {plan.cells[1].id: [{"state": "disk full", "reason": "no room"}]}, slots=1)
    tally = run(plan, s, executor, bar=False)
    assert tally.full == "no room" and tally.done == 1 and len(executor.log) == 2
    assert run(plan, s, Fake(s, {}), bar=False).done == 4


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    plan, s = tiny_plan(), Store(tmp_path)
    s.write_plan(plan)
    tally = run(plan, s, Fake(s, {plan.cells[2].id: [KeyboardInterrupt()]}), bar=False)
    assert tally.interrupted and tally.done == 2


def test_cells_that_another_runner_does_are_waited_for_and_not_done(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("yolo_attn.detect.run.LOOK", 0.05)
    plan, s = tiny_plan(), Store(tmp_path)
    s.write_plan(plan)
    theirs = s.claim(plan.cells[0].id)
    assert theirs

    def later() -> None:
        time.sleep(0.5)
        s.publish(theirs.id, {"values": {}})

    thread = threading.Thread(target=later)
    thread.start()
    executor = Fake(s, {})
    tally = run(plan, s, executor, bar=False)
    thread.join()
    assert tally.done == 4 and tally.ran == 3
    assert theirs.id not in executor.log


def test_no_seeds_are_no_cells() -> None:
    assert tiny_plan(seeds=()).cells == ()


def test_wrong_words_raise_usage_errors() -> None:
    with pytest.raises(UsageError, match="neither 0 nor 1"):
        words.switch({"keep": "maybe"}, "keep", False)


# Places


def test_places_name_every_model_once(capsys: Any, data: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "places", "block=hilo", f"data={data}", "imgsz=64", "levels=P4,P5", "dry=1"]
    assert cli.main(argv) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "candidate" in line]
    names = [line.split()[0] for line in lines]
    backbone, neck = ["backbone.P4", "backbone.P5"], ["neck.P4", "neck.P5"]
    places = [*backbone, *neck, "P4", "P5", *("+".join(parts) for parts in (backbone, neck, backbone + neck))]
    assert sorted(names) == sorted(f"yolov8n-hilo@{place}@{form}" for place in places for form in ("row", "csp"))


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["data={data}"], "block=… is missing"),
        (["block=hillo", "data={data}"], "block=hillo: no such block. Did you mean"),
        (["block=hilo", "data={data}", "forms=column"], "forms=column: it is one of row, csp"),
        (["block=hilo", "data={data}", "levels=P9"], "levels=P9: it is one of "),
        (["block=hilo", "data={data}", "models=yolov8n"], "no argument 'models'"),
        (["block=hilo", "data={data}", "base=yolov8n-gone"], "there is no such model YAML"),
    ],
)
def test_wrong_words_of_places(
    argv: list[str], text: str, data: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "places", *(word.format(data=data) for word in argv)]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
