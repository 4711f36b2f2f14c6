"""Draw docs/shapes.jpg, labelled samples of every task: `python docs/shapes_sheet.py docs/shapes.jpg`.

Images and labels are read from the files of a generated dataset, as in training.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from yolo_attn.shapes import FOLDERS, make
from yolo_attn.shapes.labels import NAMES

_Colour = tuple[int, int, int]

_TILE = 220  # side in pixels
_COLUMNS = 6
_COLOURS: list[_Colour] = [
    (60, 60, 255),
    (0, 200, 255),
    (255, 160, 0),
    (80, 220, 80),
    (255, 90, 220),
    (255, 255, 0),
    (255, 255, 255),
]


def sheet() -> np.ndarray:
    """Return the image: a row of samples for each task."""
    with tempfile.TemporaryDirectory() as folder:
        return np.vstack([_row(make(f"{folder}/{task}", task, train=7, val=1), task) for task in FOLDERS])


def _row(root: Path, task: str) -> np.ndarray:
    files = sorted((root / "train").rglob("*.png") if task == "classify" else (root / "images/train").glob("*.png"))
    tiles = []
    for file in files[:_COLUMNS]:
        image = np.asarray(cv2.imread(str(file)))
        factor = _TILE / max(image.shape)
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        height, width = image.shape[:2]
        if task == "classify":
            _write(image, file.parent.name, (6, 18), (255, 255, 255))
        else:
            for line in (root / "labels/train" / f"{file.stem}.txt").read_text(encoding="utf-8").splitlines():
                _draw(image, task, [float(v) for v in line.split()])
        tile = np.full((_TILE, _TILE, 3), 40, np.uint8)
        tile[:height, :width] = image
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(40, 40, 40)))
    row = np.hstack(tiles)
    _write(row, task, (6, row.shape[0] - 10), (0, 255, 255), 0.6)
    return row


def _draw(image: np.ndarray, task: str, row: list[float]) -> None:
    height, width = image.shape[:2]
    name = NAMES[task][int(row[0])]
    colour = _COLOURS[NAMES["detect"].index(name)]
    if task in ("detect", "pose"):
        x, y, w, h = row[1:5]
        x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        outline = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    else:
        outline = np.array(row[1:]).reshape(-1, 2)
    outline = np.round(outline * (width, height)).astype(np.int32)
    if task == "segment":
        tinted = image.copy()
        cv2.fillPoly(tinted, [outline], colour)
        cv2.addWeighted(tinted, 0.35, image, 0.65, 0, dst=image)
    cv2.polylines(image, [outline], True, colour, 1, cv2.LINE_AA)
    if task == "pose":
        for i, (x, y, v) in enumerate(np.array(row[5:]).reshape(-1, 3)):
            if v:
                centre = round(x * width), round(y * height)
                cv2.circle(image, centre, 4, (0, 0, 0), -1, cv2.LINE_AA)
                cv2.circle(image, centre, 3, _COLOURS[i], -1 if v == 2 else 1, cv2.LINE_AA)
    else:
        _write(image, name, (int(outline[:, 0].min()) + 2, int(outline[:, 1].min()) + 11), (255, 255, 255), 0.36)


def _write(image: np.ndarray, text: str, at: tuple[int, int], colour: _Colour, scale: float = 0.45) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/shapes_sheet.py FILE.jpg")
    if not cv2.imwrite(sys.argv[1], sheet(), [cv2.IMWRITE_JPEG_QUALITY, 62]):
        sys.exit(f"cannot write {sys.argv[1]}")
