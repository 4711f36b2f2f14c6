"""`write_report`: which files it writes, of finished and unfinished folders, and what a paper takes over."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import EVIL_MODELS, MODELS, compared, fabricate, row_of
from PIL import Image

from yolo_attn import registry
from yolo_attn.detect import costs, report
from yolo_attn.detect.models import read_yaml
from yolo_attn.detect.plan import Plan
from yolo_attn.detect.report import plots, text
from yolo_attn.detect.results import gather
from yolo_attn.errors import UsageError


@pytest.mark.parametrize("kind", ("unfinished", "no seed"))
def test_a_report_is_written_of_whatever_there_is(kind: str, tmp_path: Path) -> None:
    seeds = 2 if kind == "unfinished" else 0
    store = compared(tmp_path, seeds, todo=lambda m, d, s: "open" if kind == "unfinished" and s > m.count("o") else "")
    said = report.write_report(store, measure_costs=False)
    for name in ("report.html", "report.md", "results.csv", "cells.csv", "paper"):
        assert str(tmp_path / name) in said.splitlines()
        assert (tmp_path / name).stat().st_size
    assert not (tmp_path / "places.csv").exists() and not (tmp_path / costs.FILE).exists()
    results = gather(store)
    assert said.strip().startswith(results["summary"][0])
    assert all(line in said for line in (*results["summary"], *results["warnings"]))
    assert ("| ours | stock |" in said) == (seeds > 0)


def test_every_plot_is_a_png_an_svg_and_a_pdf(tmp_path: Path) -> None:
    options: dict[str, Any] = {"models": EVIL_MODELS, "samples": 0, "epochs": 3}
    report.write_report(fabricate(tmp_path, 2, datasets=("a/b", "a b", "§"), **options), measure_costs=False)
    names = [f"{stem}-{kind}" for stem in ("a-b", "a-b-1", "data") for kind in ("curves", "differences", "gflops")]
    assert sorted(p.stem for p in tmp_path.glob("*.png")) == sorted(names)
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert 2 * plots.WIDTH - 9 <= image.width <= 2 * plots.WIDTH + 9
        assert (tmp_path / "paper" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (tmp_path / "paper" / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
        assert f"![{name}]({name}.png)" in (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")


def test_report_md_has_the_answer_first_and_every_table(tmp_path: Path) -> None:
    report.write_report(compared(tmp_path), measure_costs=False)
    found = (tmp_path / "report.md").read_text(encoding="utf-8")
    lines = found.splitlines()
    assert lines[0] == "# Does it help?" and lines[2].startswith("**No candidate was shown to be better")
    headings = [line for line in lines if line.startswith("### ")]
    assert headings == [f"### {t}" for t in ("Models", "Comparisons", "Costs", "Scores", "Sizes of objects", "Classes")]
    assert "![shapes-differences](shapes-differences.png)" in found
    assert "31e20dde" * 8 in found and "yolo-attn bench detect models=" in found and "None" not in found
    assert "\n\n\n" not in found


def test_the_paper_folder_has_tables_methods_and_the_papers_of_the_blocks(tmp_path: Path) -> None:
    store = fabricate(tmp_path, 2, MODELS[:3], epochs=3, samples=0)
    plan, yamls = store.read_plan(), ("yolov8n", "yolov8n-sam", "yolov8n-hilo")
    models = tuple(replace(m, d=read_yaml(y)[0]) for m, y in zip(plan.models, yamls, strict=True))
    store.write_plan(replace(plan, models=models))
    report.write_report(store, measure_costs=False)
    paper = tmp_path / "paper"
    assert {p.name for p in paper.glob("*.tex")} == {
        *("methods.tex", "overall.tex", "paper.tex"),
        *(f"bccd-{t}.tex" for t in ("models", "comparisons", "costs", "scores", "sizes", "classes", "ablation")),
    }
    methods = (paper / "methods.tex").read_text(encoding="utf-8")
    for part in ("yolov8n-smtsam", "imgsz=320", "ultralytics 8.4.190", "seeds: 0 and 1"):
        assert part in methods
    bib = (paper / "blocks.bib").read_text(encoding="utf-8")
    assert bib.count("@") == 2
    for part in (
        "Scale-Aware Modulation Meet Transformer",
        "Lin, Weifeng and Wu",
        "{HiLo} Attention",
        "Pan, Zizheng and",
    ):
        assert part in bib


def test_every_paper_has_an_entry_with_authors_which_the_documentation_shows() -> None:
    papers = {b.paper: b.name for b in registry.list_blocks() if b.title}
    d = {"backbone": [[-1, 1, name, []] for name in papers.values()]}
    entries = text.bibtex([d]).strip().split("\n\n")
    assert len(entries) == len(papers) and all(re.search(r"^  author +=", entry, re.MULTILINE) for entry in entries)
    docs = "\n".join(f.read_text(encoding="utf-8") for f in (Path(__file__).parents[1] / "docs").glob("*.md"))
    assert [e for e in entries if e not in docs] == []


def test_a_block_of_another_package_has_its_title_and_link(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(registry.get("SAM"), name="Own", title="A 100% Paper, X 2026", paper="https://example.org/a")
    monkeypatch.setattr(registry, "get", lambda name: own)
    assert text.bibtex([{"backbone": [[-1, 1, "Own", []]]}]) == (
        "@misc{Own,\n  title = {A 100\\% Paper, X 2026},\n  url = {https://example.org/a}\n}\n"
    )


def test_files_of_datasets_with_equal_stems_do_not_overwrite_one_another() -> None:
    names = ["a/b", "a b", "a-b", "§", "?"]
    assert text.stems(names) == ["a-b", "a-b-1", "a-b-2", "data", "data-4"]


def test_without_samples_no_image_of_a_dataset_is_in_the_report(tmp_path: Path) -> None:
    store = fabricate(tmp_path, 1, MODELS[:2], epochs=3, samples=1)
    report.write_report(store, measure_costs=False)
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    report.write_report(store, measure_costs=False, samples=False)
    assert "data:image/jpeg" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def measured(plan: Plan) -> dict[str, Any]:
    row = {**dict.fromkeys(costs.MEASURED, 5.0), "onnx_ms": None}
    rows = {m.name: row for m in plan.models}
    return {"key": costs.key(plan), "rows": rows, "setup": {"device": "cpu X", "threads": 1, "imgsz": 64, "torch": "2"}}


def test_latency_is_measured_once_and_not_while_something_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[Plan] = []
    monkeypatch.setattr(costs, "measure", lambda plan: count.append(plan) or measured(plan))
    store = compared(tmp_path, 1, todo=lambda *_: "open")
    attempt = store.claim(store.read_plan().cells[0].id)
    assert attempt
    report.write_report(store)
    assert len(count) == 0
    store.release(attempt)
    for _ in range(2):
        report.write_report(store)
    assert len(count) == 1
    assert row_of(gather(store), "ours")["cost"]["latency_ms"] == 5.0
    assert "5.0 (5.0 to 5.0)" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "NEEDED", {"scipy": "scipy", "no_such_module": "no-such-package"})
    with pytest.raises(UsageError, match=r"bench detect needs no-such-package: pip install 'yolo-attn\[bench\]'"):
        report.check_installed()


def test_a_folder_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    store = compared(tmp_path, 0)
    (tmp_path / "paper").write_text("in the way")
    with pytest.raises(UsageError, match=rf"{tmp_path / 'paper'}: .*; the report is not complete"):
        report.write_report(store, measure_costs=False)
