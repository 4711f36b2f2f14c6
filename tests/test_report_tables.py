"""The tables of a report: CSV, Markdown and LaTeX against arithmetic on the scores that the folder was made from."""

from __future__ import annotations

import csv
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fabricated import COMPARED, EVIL, KINDS, SCORES, compared, with_latency
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from yolo_attn.detect import report, tables
from yolo_attn.detect.report import text
from yolo_attn.detect.results import gather

#: What `ours` gains on `stock` and on its control, and the t quantile of four degrees of freedom from a table.
GAIN = [a - b for a, b in zip(SCORES["ours"], SCORES["stock"], strict=True)]
OVER_CONTROL = [a - b for a, b in zip(SCORES["ours"], SCORES["stock+2"], strict=True)]
T = 2.7764


def ends(values: list[float]) -> tuple[float, float]:
    """Student's 95% interval of a mean of five."""
    half = T * statistics.stdev(values) / math.sqrt(5)
    return statistics.mean(values) - half, statistics.mean(values) + half


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return with_latency(gather(compared(tmp_path_factory.mktemp("compared"))))


def written(results: dict[str, Any], name: str, folder: Path) -> list[dict[str, str]]:
    """A CSV file, read by Python."""
    tables.frames(results)[name].write_csv(folder / "file.csv")
    with open(folder / "file.csv", newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def table(results: dict[str, Any], title: str) -> tables.Table:
    return next(t for t in tables.of_dataset(results, "shapes") if t.title == title)


def cells(results: dict[str, Any], title: str, row: str) -> list[tables.Cell]:
    """What a table shows in the row that begins with a name."""
    return next([cell for _, cell in line] for line in table(results, title).rows if line[0][0] == row)


# ---------------------------------------------------------------------------------------------------------------- CSV


def test_results_csv_has_full_precision(results: dict[str, Any], tmp_path: Path) -> None:
    rows = written(results, "results", tmp_path)
    subsets = ["all", "small", "medium", "large", *(f"class {k}" for k in KINDS)]
    assert [r["subset"] for r in rows if r["model"] == "ours"] == subsets
    ours = next(r for r in rows if (r["model"], r["subset"]) == ("ours", "all"))
    assert float(ours["mAP50-95"]) == pytest.approx(statistics.mean(SCORES["ours"]), abs=1e-15)
    assert float(ours["mAP50-95 sd"]) == pytest.approx(statistics.stdev(SCORES["ours"]), abs=1e-15)
    assert float(ours["vs_stock_mean"]) == pytest.approx(statistics.mean(GAIN), abs=1e-15)
    low, high = stats.ttest_rel(SCORES["ours"], SCORES["stock"]).confidence_interval(0.95)
    assert (float(ours["vs_stock_t_low"]), float(ours["vs_stock_t_high"])) == pytest.approx((low, high), abs=1e-12)
    assert (ours["vs_stock_verdict"], ours["vs_control_verdict"], ours["control"]) == (
        "better",
        "not distinguishable",
        "stock+2",
    )
    assert (int(ours["parameters"]), float(ours["gflops"]), int(ours["seeds"])) == (3_300_000, 10.0, 5)
    small = next(r for r in rows if (r["model"], r["subset"]) == ("ours", "small"))
    assert (float(small["mAP50-95"]), small["objects"]) == (pytest.approx(0.7 * statistics.mean(SCORES["ours"])), "60")
    assert small["vs_stock_mean"] == small["latency_ms"] == ""


def test_cells_csv_has_every_run(results: dict[str, Any], tmp_path: Path) -> None:
    rows = written(results, "cells", tmp_path)
    assert {(r["model"], int(r["seed"])): float(r["mAP50-95"]) for r in rows} == {
        (name, seed): score for name, found in SCORES.items() for seed, score in enumerate(found)
    }
    assert {(r["state"], r["device"], r["threads"]) for r in rows} == {("done", "AMD EPYC", "1")}


def test_verdicts_of_few_seeds_are_preliminary_in_every_file(tmp_path: Path) -> None:
    found = gather(compared(tmp_path / "four", 4))
    ours = next(r for r in written(found, "results", tmp_path) if (r["model"], r["subset"]) == ("ours", "all"))
    assert ours["vs_stock_verdict"] == ours["vs_control_verdict"] == "preliminary"
    for shown in (table(found, "Models"), table(found, "Comparisons")):
        assert not {"better", "worse"} & {cell.verdict for row in shown.rows for _, cell in row}
    assert r"\textbf" not in text.latex(table(found, "Models"), "caption", "label")


def test_a_folder_without_runs_has_files_with_headers(tmp_path: Path) -> None:
    found = gather(compared(tmp_path / "none", 0))
    assert written(found, "cells", tmp_path) == []
    assert (tmp_path / "file.csv").read_text().startswith("id,data,model,seed,state")
    assert [r["vs_stock_verdict"] for r in written(found, "results", tmp_path)] == ["", *["no verdict"] * 3]


# -------------------------------------------------------------------------------------------------------------- shown


def test_the_main_table_shows_score_differences_and_costs(results: dict[str, Any]) -> None:
    titles = [c.title for c in table(results, "Models").columns]
    assert titles == [
        *("model", "mAP50-95", "difference to stock", "difference to cost control"),
        *("parameters, M", "GFLOPs", "latency, ms"),
    ]
    name, score, stock, control, *costs = cells(results, "Models", "ours")
    assert name == ("ours", "cost control: stock+2", "")
    assert score.text == f"{statistics.mean(SCORES['ours']):.3f} ± {statistics.stdev(SCORES['ours']):.3f}"
    assert stock == (f"{statistics.mean(GAIN):+.3f}", "{:+.3f} to {:+.3f}".format(*ends(GAIN)), "better")
    assert control.text == f"{statistics.mean(OVER_CONTROL):.3f}".replace("-0.000", "0.000")
    assert control.note == "{:+.3f} to {:+.3f}".format(*ends(OVER_CONTROL))
    assert [c.text for c in costs] == ["3.30", "10.00", f"{3.2 * 10.0 + len('ours') / 5:.1f}"]
    assert cells(results, "Models", "stock+2")[0].note == "a control: stock+2: made"
    assert cells(results, "Models", "stock")[0].note == "stock model"
    assert cells(results, "Models", "cheap")[0].note == "at stock's cost"
    assert cells(results, "Models", "cheap")[3].text == ""


def test_the_other_tables_show_intervals_costs_sizes_and_classes(results: dict[str, Any]) -> None:
    comparison = next([cell for _, cell in line] for line in table(results, "Comparisons").rows if line[0][0] == "ours")
    assert [c.text for c in comparison[1:3]] == ["stock", "5"]
    assert comparison[3] == (f"{statistics.mean(GAIN):+.3f}", "{:+.3f} to {:+.3f}".format(*ends(GAIN)), "")
    latency = 3.2 * 8.0 + len("stock") / 5
    assert cells(results, "Costs", "stock")[3] == (
        f"{latency:.1f}",
        f"{latency * 0.96:.1f} to {latency * 1.08:.1f}",
        "",
    )
    assert cells(results, "Costs", "stock")[1].text == "3,000,000"
    assert cells(results, "Sizes of objects", "ours")[1].text == f"{0.7 * statistics.mean(SCORES['ours']):.3f}"
    assert cells(results, "Sizes of objects", "ours")[3].text == tables.NOTHING
    assert cells(results, "Classes", KINDS[1])[3].text == f"{statistics.mean(SCORES['ours']) + 0.02:.3f}"
    mAP50 = [1.6 * score for score in SCORES["ours"]]
    assert cells(results, "Scores", "ours")[3] == (
        f"{statistics.mean(mAP50):.3f}",
        "{:.3f} to {:.3f}".format(*ends(mAP50)),
        "",
    )


def test_missing_seeds_and_intervals_are_explained_below_the_main_table(tmp_path: Path) -> None:
    found = gather(compared(tmp_path / "failed", fail=lambda m, d, s: "x" if (m, s) == ("ours", 1) else ""))
    assert "Not all models have the same seeds" in table(found, "Models").note
    assert cells(found, "Models", "ours")[0].note == "cost control: stock+2; 4 seeds, 1 failed"
    found = gather(compared(tmp_path / "one", 1))
    assert "No interval: one seed has no spread" in table(found, "Models").note
    assert cells(found, "Models", "ours")[2] == ("+0.050", "no interval", "no verdict")


# ----------------------------------------------------------------------------------------------------------- Markdown


def bars(line: str) -> int:
    """Cells of a line of a Markdown table: parts between bars that are not escaped."""
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_markdown_has_the_same_cells(results: dict[str, Any]) -> None:
    lines = text.markdown(table(results, "Models")).splitlines()
    assert lines[1] == "| :-- | --: | --: | --: | --: | --: | --: |"
    low, high = ends(GAIN)
    ours = f"| ours (cost control: stock+2) | 0.462 ± {statistics.stdev(SCORES['ours']):.3f} "
    assert lines[3].startswith(f"{ours}| +0.054 ({low:+.3f} to {high:+.3f}), better |")
    for shown in tables.of_dataset(results, "shapes"):
        assert len({bars(line) for line in text.markdown(shown).splitlines()}) == 1


@given(st.text(max_size=30))
def test_no_name_breaks_a_markdown_table(name: str) -> None:
    line = f"| {text.escaped(name)} | b |"
    assert "\n" not in line and bars(line) == 2
    assert not re.search(r"(?<!\\)[<>*_`$&~]", text.escaped(name).replace("\\\\", ""))


# -------------------------------------------------------------------------------------------------------------- LaTeX


def test_latex_has_the_same_cells_with_verdicts_in_bold(results: dict[str, Any]) -> None:
    found = text.latex(table(results, "Models"), "Models on shapes.", "tab:x")
    low, high = (f"{end:+.3f}".replace("+", "$+$") for end in ends(GAIN))
    assert r"\textbf{$+$0.054} & 0.000 & 3.30 & 10.00 &" in found
    assert rf"\scriptsize cost control: stock+2 &  & \scriptsize {low} to {high} & \scriptsize $-$" in found
    assert rf"0.462 $\pm$ {statistics.stdev(SCORES['ours']):.3f}" in found
    assert found.count(r"\toprule") == found.count(r"\midrule") == found.count(r"\bottomrule") == 1
    assert "Bold: both 95\\% intervals" in found
    columns = len(table(results, "Models").columns) - 1
    body = found[found.index(r"\midrule") : found.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")} == {columns}


@given(st.text(st.characters(max_codepoint=127, exclude_characters="\n\r"), max_size=30))
def test_latex_escapes_whatever_a_name_has(name: str) -> None:
    found = text.tex(name)
    plain = re.sub(r"\\textbackslash\{\}|\\textasci\w+\{\}|\$[<>|+-]\$|\\[&%$#_{}]", "", found)
    assert not re.search(r"[\\&%$#_{}~^<>|]", plain)


def test_the_ablation_table_has_what_was_varied_and_what_it_costs(results: dict[str, Any]) -> None:
    found = tables.ablation(results, "shapes")
    assert found is not None
    ours = next([cell for _, cell in line] for line in found.rows if line[0][0] == "ours")
    assert [c.text for c in ours] == [
        *("ours", "+10.0%", "+25.0%", f"{statistics.mean(SCORES['ours']):.3f}", f"{statistics.mean(GAIN):+.3f}")
    ]
    assert ours[-1].verdict == "better" and ours[-1].note == "{:+.3f} to {:+.3f}".format(*ends(GAIN))
    alone = {**results, "rows": [r for r in results["rows"] if r["model"] != "cheap"]}
    assert tables.ablation(alone, "shapes") is None


def test_comparisons_have_the_sign_flip_test(results: dict[str, Any]) -> None:
    shown = table(results, "Comparisons")
    position = [c.title for c in shown.columns].index("sign-flip p")
    line = next([cell for _, cell in line] for line in shown.rows if line[0][0] == "ours")
    assert line[position].text == f"{2 / 32:.3f}", "all five differences have one sign"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_the_paper_compiles_with_all_its_tables_and_figures(tmp_path: Path) -> None:
    report.write_report(compared(tmp_path, datasets=("shapes", "b_c%")), measure_costs=False)
    written = (tmp_path / "paper" / "paper.tex").read_text(encoding="utf-8")
    for name in ("overall", "shapes-models", "shapes-ablation", "b_c-models", "methods"):
        assert rf"\input{{{name}}}" in written
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path / "paper", capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper" / "paper.pdf").stat().st_size > 30_000


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_with_names_that_are_markup(tmp_path: Path) -> None:
    models = (COMPARED[0], (f"{EVIL}~^\\", *COMPARED[1][1:4], "", 0.0))
    found = gather(compared(tmp_path / "evil", models=COMPARED))
    for row in found["rows"]:
        row["model"] = {COMPARED[1][0]: models[1][0]}.get(row["model"], row["model"])
    for model in found["models"]:
        model["name"] = {COMPARED[1][0]: models[1][0]}.get(model["name"], model["name"])
    body = "\n".join(text.latex(t, t.note, f"tab:{i}") for i, t in enumerate(tables.of_dataset(found, "shapes")))
    preamble = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    methods = text.tex(text.methods(found))
    (tmp_path / "main.tex").write_text(f"{preamble}\n{methods}\n{body}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000
