"""`bench detect`: identities of cells, and a results folder that survives every interruption."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import tiny_plan, tiny_store

from yolo_attn.detect import store
from yolo_attn.detect.plan import Plan
from yolo_attn.detect.store import DONE, FAILED, OPEN, RUNNING, Store
from yolo_attn.errors import UsageError

# ---- identities ----


def test_content_identifies_a_cell_and_names_and_paths_do_not() -> None:
    plan = tiny_plan()
    ids = {c.id for c in plan.cells}
    assert len(ids) == len(plan.cells) == 4
    renamed = replace(
        plan,
        models=tuple(replace(m, name=m.name + "!", entry="w") for m in plan.models),
        datasets=tuple(replace(s, name="other", path="/else", root="/else") for s in plan.datasets),
    ).with_cells()
    assert [c.id for c in renamed.cells] == [c.id for c in plan.cells]
    start = {"name": "w.pt", "sha256": "1"}
    for change in ({"arguments": {"epochs": 2}}, {"start": start}, {"versions": {"torch": "2"}}, {"seeds": (2, 3)}):
        assert not ids & {c.id for c in tiny_plan(**change).cells}


def test_a_plan_survives_its_file() -> None:
    plan = tiny_plan(local={"start": "/w.pt", "keep": True})
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_no_seeds_are_no_cells() -> None:
    assert tiny_plan(seeds=()).cells == ()


# ---- the plan's file ----


@pytest.mark.parametrize("content", ["not JSON", "{}", '{"format": 0, "cells": []}', "[]"])
def test_a_plan_that_is_damaged_or_of_another_version_is_moved_to_a_backup(content: str, tmp_path: Path) -> None:
    s, plan = Store(tmp_path), tiny_plan()
    (tmp_path / "bench.json").write_text(content)
    remark = s.write_plan(plan)
    assert "damaged or of another version" in remark and "bench.json.backup" in remark
    assert (tmp_path / "bench.json.backup").read_text() == content
    assert s.read_plan() == plan
    assert s.write_plan(plan) == ""


def test_one_process_at_a_time_drives_a_folder(tmp_path: Path) -> None:
    with Store(tmp_path).driver():
        with pytest.raises(UsageError, match="another process runs a benchmark in this folder.*bench status"):
            Store(tmp_path).driver().__enter__()
        with Store(tmp_path / "other").driver():
            pass
    with Store(tmp_path).driver():
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells").touch()
    with pytest.raises(UsageError, match=f"out={tmp_path}: File exists"), Store(tmp_path).driver():
        pass


# ---- cells ----


def test_one_of_many_that_claim_a_cell_gets_it(tmp_path: Path) -> None:
    won, gate = [], threading.Barrier(8)

    def claim() -> None:
        gate.wait()
        won.append(Store(tmp_path).claim("cell"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(attempt is not None for attempt in won) == 1
    assert Store(tmp_path).state("cell").name == RUNNING


def test_the_cell_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    s = Store(tmp_path)
    code = "import sys; from yolo_attn.detect.store import Store; a = Store(sys.argv[1]).claim('cell')"
    code += "; (a.path / 'last.pt').touch(); print('x', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=-1, stdout=-1)
    assert process.stdout and process.stdout.readline()
    assert s.state("cell").name == RUNNING and s.claim("cell") is None
    process.kill()
    process.wait()
    assert s.state("cell") == store.State(OPEN, s.cell("cell") / "attempt-1")
    again = s.claim("cell")
    assert again is not None and again.path.name == "attempt-2"
    assert not list(tmp_path.rglob("*.pt")), "weights of interrupted runs would fill the disk"


def test_a_cell_is_done_failed_or_to_do_again(tmp_path: Path) -> None:
    s = Store(tmp_path)
    assert s.state("cell").name == OPEN
    first = s.claim("cell")
    assert first
    s.fail(first, "no luck")
    s.release(first)
    assert s.state("cell") == store.State(FAILED, first.path, "no luck")
    second = s.claim("cell")
    assert second and second.path.name == "attempt-2" and s.state("cell").name == RUNNING
    s.release(second)
    assert s.state("cell") == store.State(OPEN, second.path)
    third = s.claim("cell")
    assert third
    (third.path / "best.pt").touch()
    s.publish("cell", {"values": {"mAP50": 1.0}})
    s.release(third)
    assert s.state("cell").name == DONE and s.claim("cell") is None
    assert s.result("cell") == {"values": {"mAP50": 1.0}}
    assert (third.path / "best.pt").exists()
    assert not (s.cell("cell") / "failed.json").exists()


@pytest.mark.parametrize("damage", ["", "{", '{"id": "other", "outcome": {}}', "checksum"])
def test_a_damaged_result_is_moved_to_a_backup_and_its_cell_is_to_do(damage: str, tmp_path: Path) -> None:
    s = Store(tmp_path)
    attempt = s.claim("cell")
    assert attempt
    s.publish("cell", {"values": {"mAP50": 0.5}})
    s.release(attempt)
    path = s.cell("cell") / "result.json"
    text = path.read_text().replace("0.5", "0.6") if damage == "checksum" else damage
    path.write_text(text)
    assert s.result("cell") is None
    assert (s.cell("cell") / "result.json.backup").read_text() == text
    assert s.state("cell").name == OPEN


def test_a_damaged_result_in_a_read_only_folder_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells" / "cell").mkdir(parents=True)
    path = tmp_path / "cells" / "cell" / "result.json"
    path.write_text("{")

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    assert Store(tmp_path).result("cell") is None
    assert path.read_text() == "{"


def test_files_that_a_power_failure_cut_short_do_not_count(tmp_path: Path) -> None:
    plan, s = tiny_store(tmp_path)
    first, second, third, fourth = (c.id for c in plan.cells)
    for id in (first, second, third):
        attempt = s.claim(id)
        assert attempt
        s.release(attempt)
        (attempt.path / "progress.json").write_text('{"sha')
    (s.cell(first) / "result.json").write_text('{"id": "')
    (s.cell(second) / "failed.json").write_text("")
    (s.cell(third) / ".result-0123abcd.part.json").write_text('{"id": "')
    s.cell(fourth).mkdir()
    assert {s.state(c.id).name for c in plan.cells} == {OPEN}
    assert all(s.progress(c.id) == {} for c in plan.cells)
    for cell in plan.cells:
        s.publish(cell.id, {"values": {}})
    assert {s.state(c.id).name for c in plan.cells} == {DONE}
    assert not list(tmp_path.rglob("*.part.*"))


def test_a_full_disk_leaves_a_cell_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(id: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    s = Store(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(s, "_remove_weights", full)
        with pytest.raises(OSError, match="No space"):
            s.claim("cell")
    assert s.state("cell").name == OPEN
    assert s.claim("cell") is not None
