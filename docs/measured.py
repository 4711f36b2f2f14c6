"""Tables made from the CSV files in benchmarks/."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from yolo_attn.measure.timing import geometric_mean

ROOT = Path(__file__).resolve().parent.parent
RESULTS, AUDIT = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "audit"
Row = Mapping[str, str]
#: Folder of the audit -> dataset and starting weights.
RUNS = {
    "bccd-mini-pretrained": "bccd-mini, from yolov8n.pt",
    "bccd-mini-scratch": "bccd-mini, from scratch",
    "shapes-pretrained": "shapes, from yolov8n.pt",
    "shapes-scratch": "shapes, from scratch",
}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def newest(pattern: str) -> Path:
    """The one file of that kind.

    Raises:
        ValueError: There is none, or several.
    """
    found = sorted(RESULTS.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"benchmarks/results needs one {pattern}, not {len(found)}.")
    return found[0]


def setup(path: Path) -> str:
    """The setup in the name of a result."""
    device, threads, torch = re.fullmatch(r"\w+-(.+)-float32-threads(\d+)-torch(.+)", path.stem).groups()  # type: ignore
    name = device.replace("cpu-", "").replace("-", " ").replace("intel xeon", "Intel Xeon")
    return f"{name}, {threads} thread{'s' * (threads != '1')}, float32, PyTorch {torch.split('+')[0]}"


def blocks() -> str:
    """Operators against the authors' algorithms."""
    path = newest("blocks-*.csv")
    found = rows(path)
    lines = [
        "| operator | forward | forward + backward | activation memory | share of the machine's limit |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["operator"] for r in found):
        own = [r for r in found if r["operator"] == name and r["model"] == "yolov8n"]
        ours = [r for r in own if r["implementation"] == "ours"]
        cells = [f"`{name}`"]
        for phase in ("forward", "forward+backward"):
            of_phase = [r for r in ours if r["phase"] == phase]
            middle, low, high = (
                geometric_mean([float(r[k]) for r in of_phase]) for k in ("ratio", "ratio_p10", "ratio_p90")
            )
            ties = sum(r["intervals"] == "overlap" for r in of_phase)
            note = f"; no difference on {ties} of {len(of_phase)} maps" if ties else ""
            cells.append(f"{middle:.2f} times as fast ({low:.2f}-{high:.2f}{note})")
        memory = {
            r["implementation"]: float(r["saved_x_input"])
            for r in own
            if r["phase"] == "forward+backward" and r["height"] == "80"
        }
        cells.append(f"{memory['ours']:.1f} x input instead of {memory['reference']:.0f} x")
        shares = [float(r["fraction_of_limit"]) for r in ours]
        cells.append(f"{min(shares):.0%}-{max(shares):.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    mean = "geometric mean over P3, P4 and P5 of yolov8n at 640 pixels"
    return "\n".join(
        [
            *lines,
            "",
            f"Time of the reference divided by ours, {mean}",
            f"(p10-p90 of interleaved rounds). {setup(path)}.",
            f"[CSV](../benchmarks/results/{path.name}), [plot](../benchmarks/results/{path.with_suffix('.png').name});",
            "`yolo-attn bench blocks out=benchmarks/results`.",
        ]
    )


def models() -> str:
    """Whole models against stock."""
    path = newest("models-*.csv")
    found = rows(path)
    measures = ("training step", "training peak", "inference", "ONNX inference")
    lines = ["| model | training step | training memory | inference | ONNX Runtime |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(r["model"] for r in found):
        own = {r["measure"]: r for r in found if r["model"] == name}
        first = name == found[0]["model"]
        cells = [name]
        for measure in measures:
            r = own[measure]
            if first:
                cells.append(f"{float(r['median']):.0f} {r['unit']}")
            else:
                cells.append(f"{float(r['ratio']):.2f} x{' (no difference)' if r['intervals'] == 'overlap' else ''}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Relative to stock yolov8n in the same run: 640 pixels, training step of 4 images, inference of one.",
            f"{setup(path)}. [CSV](../benchmarks/results/{path.name});",
            "`yolo-attn bench models out=benchmarks/results`.",
        ]
    )


def cost(sentences: str) -> str:
    """What the five blocks cost, by the ranges of both CSV files.

    Args:
        sentences: With the fields step, memory, inference, onnx (times stock), speed, saved and theirs (times the
            input), each a pair.
    """
    shipped = {f"yolov8n-{name}" for name in ("sam", "hilo", "sk", "attnconv", "acmix")}
    ratios = [(r["measure"], float(r["ratio"])) for r in rows(newest("models-*.csv")) if r["model"] in shipped]
    own = [r for r in rows(newest("blocks-*.csv")) if r["model"] == "yolov8n"]
    speeds = [
        geometric_mean(
            [float(r["ratio"]) for r in own if (r["operator"], r["phase"], r["implementation"]) == (*key, "ours")]
        )
        for key in {(r["operator"], r["phase"]) for r in own}
    ]
    saved: dict[str, list[float]] = {"ours": [], "reference": []}
    for r in own:
        if r["phase"] == "forward+backward" and r["height"] == "80":
            saved[r["implementation"]].append(float(r["saved_x_input"]))
    measures = {"step": "training step", "memory": "training peak", "inference": "inference", "onnx": "ONNX inference"}
    of = {key: [ratio for m, ratio in ratios if m == measure] for key, measure in measures.items()}
    found = {key: [f"{end:.2f}" for end in (min(x), max(x))] for key, x in of.items()}
    found["speed"] = [f"{min(speeds):.1f}", f"{max(speeds):.0f}"]
    found |= {
        key: [f"{min(x):.0f}", f"{max(x):.0f}"] for key, x in zip(("saved", "theirs"), saved.values(), strict=True)
    }
    return sentences.format(**found)


def closed() -> str:
    """Shares of blocks that were trained at the rate of the pretrained layers, in the study."""
    path = RESULTS / "learning.csv"
    found = [r for r in rows(path) if (r["data"], r["recipe"], r["steps"]) == ("shapes", "lr1", "300") and r["lowest"]]
    seeds = len({r["seed"] for r in found})
    low, high = min(float(r["lowest"]) for r in found), max(float(r["highest"]) for r in found)
    return (
        f"Trained like that for {found[0]['steps']} steps, the rows of the five models contribute {low:.1%} to "
        f"{high:.1%} of the signal\n([CSV](../benchmarks/results/{path.name}), {seeds} seed{'s' * (seeds > 1)})"
    )


def audit() -> str:
    """The effect of the blocks on mAP50-95 in the runs of benchmarks/audit."""
    lines = ["| run | model | mAP50-95 against stock | against the stock model of equal cost |", "|---|---|---|---|"]
    links, verdicts = [], []
    for folder, title in RUNS.items():
        path = AUDIT / folder / "results.csv"
        own = [r for r in rows(path) if r["subset"] == "all"]
        stock = next(r for r in own if r["role"] == "stock")
        run = f"{title}: stock has {float(stock['mAP50-95']):.3f}"
        for r in (r for r in own if r["role"] == "candidate"):
            lines.append("| " + " | ".join([run, r["model"], versus(r, "stock"), versus(r, "control")]) + " |")
            verdicts += [r["vs_stock_verdict"], r["vs_control_verdict"]]
            run = ""
        links.append(f"[{title}](../benchmarks/audit/{folder}/report.md)")
    better, worse, same = (verdicts.count(v) for v in ("better", "worse", "not distinguishable"))
    summary = (
        f"Of {len(verdicts)} comparisons over 5 seeds each, {better} were better, {worse} worse and {same} not "
        f"distinguishable;\nabout {len(verdicts) * 0.05:.0f} verdicts are expected by chance alone. The trainings are "
        "short and the datasets small: the reports\nstate how large a difference they could have detected.\n\n"
        "In this first audit the blocks were closed. It trained new blocks at the rate of the pretrained layers.\n"
        f"{closed()}, so the comparisons from\nyolov8n.pt compared stock with stock ([fine-tuning.md](fine-tuning.md))."
    )
    end = f"Mean paired difference, 95 % interval. Reports: {', '.join(links)};\n[command](../benchmarks/audit/run.sh)."
    return "\n".join([summary, "", *lines, "", end])


def versus(r: Row, other: str) -> str:
    """A paired difference with its interval and verdict."""
    if not r[f"vs_{other}_mean"]:
        return ""
    mean, low, high = (float(r[f"vs_{other}_{k}"] or "nan") for k in ("mean", "t_low", "t_high"))
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}): {r[f'vs_{other}_verdict']}"


def reliability() -> str:
    """What was tried, what survived and what was lost, by part of benchmarks/reliability."""
    found = rows(ROOT / "benchmarks" / "reliability" / "results.csv")
    lines = ["| part | tried | survived | lost | |", "|---|---|---|---|---|"]
    for r in found:
        numbers = " | ".join(f"{int(r[column]):,}" for column in ("tried", "survived", "lost"))
        lines.append(f"| {r['part']} | {numbers} | {r['notes']} |")
    dates, versions = sorted(r["date"] for r in found), sorted({(r["ultralytics"], r["torch"]) for r in found})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    used = "; ".join(f"Ultralytics {u}, PyTorch {torch.split('+')[0]}" for u, torch in versions)
    return "\n".join([*lines, "", f"{when}, {used}."])


def claims(blocks: tuple[str, ...] = ()) -> str:
    """The papers' claims and what trained detectors say about them, by set of trainings.

    Args:
        blocks: Only the claims about these blocks, named as in yolov8-<block>.yaml; all by default.
    """
    found = [r for r in rows(ROOT / "benchmarks" / "claims" / "claims.csv") if not blocks or r["block"] in blocks]
    lines = []
    for group in dict.fromkeys(r["group"] for r in found):
        lines += [
            f"Models: {group}.",
            "",
            "| claim | measured | n | share of the signal | verdict |",
            "|---|---|---|---|---|",
        ]
        for r in (r for r in found if r["group"] == group):
            interval = "" if r["low"] == "nan" else f" ({float(r['low']):+.2g} to {float(r['high']):+.2g})"
            measured = f"{r['measured']}: {float(r['statistic']):+.2g}{interval}"
            share = "-" if r["share"] == "nan" else f"{float(r['share']):.0%}"
            verdict = f"**{r['verdict']}**" + (f" ({r['note']})" if r["note"] else "")
            lines.append(f"| {r['text']} ({r['source']}) | {measured} | {r['n']} | {share} | {verdict} |")
        lines.append("")
    return "\n".join(lines).strip() or "Not measured yet."


def study() -> str:
    """The study of learning rates of new blocks (benchmarks/learning), by dataset, and its verdict."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "learning"))
    import report

    results = report.read_table(RESULTS / "learning.csv")
    return report.markdown(results).strip() if results else "Not measured yet."
