"""Predictions side by side on the same pictures: each a drawing over the picture, which is in the page once."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .markup import Html, el, join
from .series import rows_of

#: Of classes, bright on photographs (Okabe and Ito).
CLASS_COLOURS = ("#56b4e9", "#f0e442", "#e69f00", "#00d19a", "#ff7a3d", "#e59acb", "#ffffff", "#4d8dff")
TRUTH = "truth"
#: Boxes of a picture from which on their confidences would hide it.
CROWD = 15


def panels(results: Mapping[str, Any], data: Mapping[str, Any], folder: Path, key: str) -> Html:
    """All pictures of a dataset, each with its truth and what every model saw.

    Args:
        results: Of `gather`.
        data: A dataset of it.
        folder: Where the pictures lie.
        key: Begins the ids of this section.

    Returns:
        Markup; empty where no picture can be read.
    """
    shown = [c for row in rows_of(results, data["name"]) if (c := _first(results, data["name"], row["model"]))]
    figures = []
    classes: set[int] = set()
    for i, sample in enumerate(data.get("samples") or ()):
        try:
            picture = base64.b64encode((folder / sample["file"]).read_bytes()).decode("ascii")
        except OSError:
            continue
        id = f"{key}-picture-{i}"
        truth = [[b[0], None, *b[1:5]] for b in sample["truth"]]
        image = {"id": id, "href": f"data:image/jpeg;base64,{picture}", "preserveAspectRatio": "none"}
        size = {"width": sample["width"], "height": sample["height"]}
        drawings = [_panel(TRUTH, "", truth, sample, data["names"], el("image", **image, **size))]
        for cell in shown:
            boxes = (cell["samples"] or {}).get(sample["image"])
            if boxes is not None:
                classes.update(int(b[0]) for b in boxes)
                note = f"seed {cell['seed']}"
                drawings.append(_panel(cell["model"], note, boxes, sample, data["names"], el("use", href=f"#{id}")))
        classes.update(int(b[0]) for b in truth)
        heading = el("summary", f"Picture {i + 1} of {len(data['samples'])}: {sample['image']}")
        figures.append(el("details", heading, el("div", *drawings, class_="panels"), class_="picture", open=not i))
    if not figures:
        return Html("")
    return join([_key(sorted(classes), data["names"]), *figures])


def crowded(results: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether pictures of a dataset have too many boxes for a word at each."""
    counts = [len(s["truth"]) for s in data.get("samples") or ()]
    counts += [len(b) for c in results["cells"] if c["data"] == data["name"] for b in (c["samples"] or {}).values()]
    return bool(counts) and sorted(counts)[len(counts) // 2] > CROWD


def _first(results: Mapping[str, Any], data: str, model: str) -> Mapping[str, Any] | None:
    """The cell of a model that has predictions and the least seed."""
    cells = [c for c in results["cells"] if c["data"] == data and c["model"] == model and c.get("samples")]
    return min(cells, key=lambda c: c["seed"], default=None)


def _named(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else f"class {number}"


def colour(number: int) -> str:
    """Of a class."""
    return CLASS_COLOURS[number % len(CLASS_COLOURS)]


def _key(classes: Sequence[int], names: Sequence[str]) -> Html:
    swatch = "swatch"
    items = [el("li", el("span", class_=swatch, style=f"background:{colour(c)}"), _named(names, c)) for c in classes]
    return el("ul", *items, class_="classes", aria_label="colours of classes")


def _panel(
    title: str,
    note: str,
    boxes: Sequence[Sequence[Any]],
    sample: Mapping[str, Any],
    names: Sequence[str],
    picture: Html,
) -> Html:
    """One drawing: the picture, its boxes with class and confidence, and a caption."""
    width, height = sample["width"], sample["height"]
    drawn = []
    for number, confidence, left, top, right, bottom in boxes:
        number, name = int(number), _named(names, int(number))
        said = "" if confidence is None else f"{confidence:.2f}".removeprefix("0")
        look = {"x": _r(left), "y": _r(top), "width": _r(right - left), "height": _r(bottom - top)}
        place = {"x": _r(left), "y": _r(top), "dx": ".15em", "dy": "1em", "fill": colour(number)}
        label = el("text", el("tspan", f"{name} ", class_="name"), said, **place)
        tip = el("title", f"{name} {said}".strip())
        faint = None if confidence is None else f"{0.3 + 0.7 * confidence:.2f}"  # what is unsure is faint
        drawn.append(el("g", tip, el("rect", **look, stroke=colour(number), stroke_opacity=faint), label))
    kinds = [_named(names, int(b[0])) for b in boxes]
    counts = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)) or "no box"
    drawing = el(
        "svg",
        picture,
        el("g", *drawn, class_="boxes"),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{title}, {sample['image']}: {counts}",
        style=f"--u:{max(width, height)}px",
    )
    button = el("button", drawing, type="button", class_="zoom", title="enlarge")
    caption = el(
        "figcaption",
        el("b", title),
        " ",
        el("span", f"{note} · " if note else "", f"{len(boxes)} box{'es' * (len(boxes) != 1)}"),
    )
    return el("figure", button, caption)


def _r(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
