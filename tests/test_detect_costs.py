"""`bench detect`: costs of models, counted for the plan and measured for the report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import fabricate
from plans import tiny_plan

from yolo_attn.detect import costs, report
from yolo_attn.detect.models import read_yaml
from yolo_attn.detect.plan import CANDIDATE, STOCK, Model, Plan
from yolo_attn.detect.results import gather


def measured(plan: Plan) -> dict[str, Any]:
    row = {**dict.fromkeys(costs.MEASURED, 5.0), "onnx_ms": None}
    rows = {m.name: row for m in plan.models}
    return {"key": costs.key(plan), "rows": rows, "setup": {"device": "cpu X", "threads": 1, "imgsz": 64, "torch": "2"}}


def test_latency_is_measured_once_for_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[Plan] = []
    monkeypatch.setattr(costs, "measure", lambda plan: count.append(plan) or measured(plan))
    store = fabricate(tmp_path, 2, samples=0)
    plan = store.read_plan()
    for _ in range(2):
        report.write_report(store)
    assert len(count) == 1
    assert gather(store)["rows"][1]["cost"]["latency_ms"] == 5.0
    store.write_plan(replace(plan, models=plan.models[:2]).with_cells())
    assert gather(store)["rows"][1]["cost"]["latency_ms"] is None, "that of another table"
    (tmp_path / costs.FILE).write_text("{")
    report.write_report(store)
    assert len(count) == 2


def test_a_report_has_one_figure_for_the_size_of_a_model_on_a_dataset(tmp_path: Path) -> None:
    store = fabricate(tmp_path, 1, datasets=("one", "two"), samples=0)
    plan = store.read_plan()
    other = {"two": [7, 0.5]}
    store.write_plan(replace(plan, models=tuple(replace(m, costs=other) for m in plan.models)))
    results = gather(store)
    for m in results["models"]:
        rows = {r["data"]: r["cost"] for r in results["rows"] if r["model"] == m["name"]}
        assert (rows["one"]["parameters"], rows["one"]["gflops"]) == (m["parameters"], m["gflops"])
        assert (rows["two"]["parameters"], rows["two"]["gflops"]) == (7, 0.5)


def test_models_of_every_task_are_timed() -> None:
    names = ("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls")
    models = tuple(Model(n, STOCK, read_yaml(n)[0], 0, 0.0) for n in names)
    found = costs.measure(replace(tiny_plan(), models=models, arguments={"imgsz": 60}), seconds=0)
    assert [r for r in found["remarks"] if "busy" not in r] == []
    assert found["setup"]["imgsz"] == 64
    for name in names:
        cost = found["rows"][name]
        assert 0 < cost["latency_p10"] <= cost["latency_ms"] <= cost["latency_p90"]
        assert 0 < cost["onnx_p10"] <= cost["onnx_ms"] <= cost["onnx_p90"]


def test_a_model_that_cannot_be_timed_does_not_affect_the_others() -> None:
    d = read_yaml("yolov8n")[0]
    broken = {**d, "backbone": [[-1, 1, "NoSuchModule", [64]], *d["backbone"][1:]]}
    models = (Model("stock", STOCK, d, 0, 0.0), Model("broken", CANDIDATE, broken, 0, 0.0))
    found = costs.measure(replace(tiny_plan(), models=models, arguments={"imgsz": 32}), seconds=0)
    assert found["rows"]["stock"]["latency_ms"] > 0
    assert set(found["rows"]["broken"].values()) == {None}
    assert any("broken was not measured" in remark for remark in found["remarks"])


@pytest.mark.parametrize(("load", "busy"), [(9.0, True), (0.1, False)])
def test_latency_of_a_busy_machine_has_a_remark(load: float, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = costs.measure(replace(tiny_plan(), models=()), seconds=0)
    assert any("load 9.0 on 2 cores" in remark for remark in found["remarks"]) == busy
