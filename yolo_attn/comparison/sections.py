"""The sections of the page: each is a function from the scores to a figure, its numbers and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ..detect.sentences import listed, plural, signed
from ..detect.statistics import ENOUGH
from ..detect.tables import frame_of
from ..inside.gallery import Section
from . import changes, figures, outcomes
from .paper import NOTE, SCORES
from .scores import METRIC, Scores
from .validation import CURVES

#: Classes in the figure, at most: those that differ most. The table has all.
CLASSES = 30
OVER_RECALL = "precision over recall"


def of(scores: Scores, images: int) -> tuple[list[Section], dict[str, str]]:
    """The sections, in the order of the page; and name -> reason of those that are left out.

    Args:
        scores: The validations.
        images: How many images are shown, at most.
    """
    found = [make(scores) for make in (_models, _classes, _sizes, _curves, _confusion, _errors)]
    shown = changes.most_changed(scores.outcomes, images)
    if shown:
        return [*found, _images(scores, shown)], {}
    return found, {"images": "the models find the same objects with the same number of wrong predictions"}


def _models(scores: Scores) -> Section:
    lines = scores.means()
    order = sorted(lines, key=lambda line: -line[METRIC])
    ranking = ", ".join(f"{line['model']} {line[METRIC]:.3f}" for line in order)
    headline = f"{METRIC}: {ranking}."
    for name, found in scores.differences().items():
        against = f" {name} against {scores.names[0]}"
        if found["t_low"] is None:
            known = all(entry.seeds for entry in scores.entries)
            why = found["why"] if known else "the checkpoints of a model do not have different seeds"
            headline += f"{against}: no interval ({why})."
        else:
            interval = f"{signed(found['t_low'])} to {signed(found['t_high'])}"
            few = f", preliminary with {plural(found['n'], 'seed')}" if found["n"] < ENOUGH else ""
            headline += f"{against}: {signed(found['mean'])} (95 % interval {interval}{few})."
    runs = scores.of_runs()
    values = {
        key: {n: [r[key] for r in runs if r["model"] == n and r[key] is not None] for n in scores.names}
        for key in SCORES
    }
    caption = f"Marks: means, small dots: checkpoints. {NOTE.partition(' The best')[0]} Intervals are those of the "
    caption += f"mean difference, paired by seed. Latency: {scores.conditions}. {scores.setup}"
    figure = figures.dots({"": values}, scores.names, "score")
    return Section("models", "Scores and costs", headline, figure, caption, frame_of(lines), unfolded=True)


def _classes(scores: Scores) -> Section:
    values = {
        name: {model: [run.classes[name][METRIC] for run in runs] for model, runs in scores.runs.items()}
        for name in scores.runs[scores.names[0]][0].classes
    }
    objects: dict[str, int] = dict.fromkeys(values, 0)
    names = scores.entries[0].models[0].names
    for label in scores.first_boxes.labels:
        objects[names[label["category_id"] - 1]] += 1
    lines = [
        {"class": name, "objects": objects[name], "model": model}
        | {metric: fmean(run.classes[name][metric] for run in runs) for metric in runs[0].classes[name]}
        for name in values
        for model, runs in scores.runs.items()
    ]

    def range_of(name: str) -> float:
        means = [fmean(v) for v in values[name].values()]
        return max(means) - min(means)

    largest = max(values, key=range_of)
    best = max(values[largest], key=lambda model: fmean(values[largest][model]))
    headline = f"largest difference: {largest}, by {range_of(largest):.3f}; {best} is best there"
    if range_of(largest) == 0:
        headline = "no class has a difference"
    chosen = sorted(sorted(values, key=range_of, reverse=True)[:CLASSES], key=list(values).index)
    shown = {f"{name} ({objects[name]})": values[name] for name in chosen}
    caption = f"{METRIC} by class, with the number of objects. "
    caption += f"The {CLASSES} classes that differ most. " if len(values) > CLASSES else ""
    figure = figures.dots({"": shown}, scores.names, METRIC)
    return Section("classes", "Classes", headline, figure, caption + scores.setup, frame_of(lines))


def _sizes(scores: Scores) -> Section:
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    lines = []
    for kind, of_first in scores.runs[scores.names[0]][0].sizes.items():
        panels[kind] = {size: {} for size in of_first}
        for size in of_first:
            for model, runs in scores.runs.items():
                line: dict[str, Any] = {"pixels": kind, "size": size, "objects": int(of_first[size]["objects"])}
                for metric in ("mAP50-95", "mAP50"):
                    found = [v for run in runs if (v := run.sizes[kind][size].get(metric)) is not None]
                    line |= {"model": model, metric: fmean(found) if found else None}
                    if metric == METRIC:
                        panels[kind][size][model] = found
                lines.append(line)
    counts = {line["size"]: line["objects"] for line in lines if line["pixels"] == "image pixels"}
    headline = "objects: " + ", ".join(f"{n} {size}" for size, n in counts.items())
    caption = (
        f"{METRIC} by area, small under 32², large from 96², by pycocotools: in pixels of the image file, as COCO "
        f"defines it, and in pixels of the model's input, to whose {scores.imgsz} pixels images are resized. "
        f"{scores.setup}"
    )
    return Section("sizes", "Sizes", headline, figures.dots(panels, scores.names, METRIC), caption, frame_of(lines))


def _curves(scores: Scores) -> Section:
    kinds = (*CURVES, OVER_RECALL)
    found = {
        model: {kind: np.mean([run.curves[kind] for run in runs], 0) for kind in ("x", *kinds)}
        for model, runs in scores.runs.items()
    }
    peaks = []
    for model, values in found.items():
        at = int(values["F1"].argmax())
        peaks.append(f"{model} {values['F1'][at]:.3f} at {values['x'][at]:.2f}")
    lines = [
        {"model": model, "x": round(float(values["x"][i]), 3), **{kind: float(values[kind][i]) for kind in kinds}}
        for model, values in found.items()
        for i in np.linspace(0, len(values["x"]) - 1, 101).round().astype(int)
    ]
    caption = (
        "Precision, recall and F1 over the confidence, and precision over recall, at IoU 0.5 by Ultralytics: means "
        "over classes and checkpoints. In the table, x is the confidence, and the recall of the last column. "
        f"{scores.setup}"
    )
    headline = f"highest F1 and its confidence: {'; '.join(peaks)}"
    return Section("curves", "Curves", headline, figures.curves(found, CURVES, OVER_RECALL), caption, frame_of(lines))


def _confusion(scores: Scores) -> Section:
    names = scores.entries[0].models[0].names
    labels = [*names.values(), "background"]
    matrices = {
        model: np.sum([outcomes.confusion(run.boxes, scores.conf, names) for run in runs], 0)
        for model, runs in scores.runs.items()
    }
    lines = [
        {"model": model, "predicted": labels[i], "true": labels[j], "count": int(matrix[i, j])}
        for model, matrix in matrices.items()
        for i, j in zip(*np.nonzero(matrix), strict=True)
    ]
    swapped = [x for x in lines if x["predicted"] != x["true"] and labels[-1] not in (x["predicted"], x["true"])]
    headline = "no class is taken for another"
    if swapped:
        most = max(swapped, key=lambda line: line["count"])
        headline = f"most frequent confusion: {most['true']} taken for {most['predicted']}, "
        headline += f"{plural(most['count'], 'time')} ({most['model']})"
    caption = (
        f"Predictions of confidence {scores.conf:g} or more, matched at IoU {outcomes.OVERLAP:g} by Ultralytics; "
        f"counts of all checkpoints of a model, each column divided by its sum. {scores.setup}"
    )
    figure = figures.confusion(matrices, labels)
    return Section("confusion", "Confusion of classes", headline, figure, caption, frame_of(lines))


def _errors(scores: Scores) -> Section:
    types = {**outcomes.TYPES, **outcomes.TOTALS}
    gains = {model: [outcomes.error_types(run.boxes) for run in runs] for model, runs in scores.runs.items()}
    values = {f"{key}: {types[key]}": {m: [g[key] for g in of_model] for m, of_model in gains.items()} for key in types}
    lines = []
    for key in types:
        for model, of_model in gains.items():
            count = sum(list(o.wrong.values()).count(key) for o in scores.outcomes[model])
            count = sum(len(o.missed) for o in scores.outcomes[model]) if key in ("Miss", "FalseNeg") else count
            count = sum(len(o.wrong) for o in scores.outcomes[model]) if key == "FalsePos" else count
            lines.append({"error": key, "model": model, "AP50 gain": fmean(g[key] for g in of_model), "count": count})
    worst = []
    for model, of_model in gains.items():
        key = max(outcomes.TYPES, key=lambda k: fmean(g[k] for g in of_model))
        worst.append(f"{model}: {types[key]} ({fmean(g[key] for g in of_model):.3f})")
    caption = (
        "AP50 that each model would gain if its errors of one type were corrected (TIDE, Bolya et al. 2020), at IoU "
        f"{outcomes.OVERLAP:g}, background below 0.1; the last two rows correct all false positives or all misses. "
        f"Counts in the table: first checkpoint, confidence {scores.conf:g} or more. {scores.setup}"
    )
    headline = f"costs most AP50: {'; '.join(worst)}"
    figure = figures.dots({"": values}, scores.names, "gain in AP50")
    return Section("errors", "Types of errors", headline, figure, caption, frame_of(lines))


def _images(scores: Scores, shown: Sequence[int]) -> Section:
    lines = changes.counts(scores.outcomes, scores.first_boxes)

    def total(model: str, key: str) -> int:
        return sum(line[key] for line in lines if line["model"] == model)

    first, *others = scores.names
    headline = f"{first}: {total(first, 'right')} right, {total(first, 'wrong')} wrong, {total(first, 'missed')} missed"
    for model in others:
        headline += (
            f"; {model} finds {total(model, 'gained')} that {first} misses, misses {total(model, 'lost')} that {first} "
            f"finds, and has {total(model, 'wrong')} wrong"
        )
    count = len(scores.names)
    lines = [line for i in shown for line in lines[i * count : (i + 1) * count]]
    caption = (
        "The images with most differences. Solid blue: right; dashed orange: wrong; dotted purple: missed. "
        f"Predictions of confidence {scores.conf:g} or more, IoU {outcomes.OVERLAP:g}, first checkpoint of "
        f"{listed(scores.names)}; outcomes.csv has all images. {scores.setup}"
    )
    figure = changes.draw(scores.outcomes, {m: runs[0].boxes for m, runs in scores.runs.items()}, shown)
    return Section("images", "Images that differ most", headline, figure, caption, frame_of(lines))
