"""One image of shapes: outlines, placement and pixels.

A seed gives the same image on every machine: random numbers come from numpy's frozen `RandomState` (unlike that of
`default_rng`, its stream never changes), sines are rounded before use, floats only enter + - * /, and no sum depends on
the order of its terms. The rasteriser is our own for the same reason: OpenCV's changes between releases.

Coordinates are pixels, x to the right and y down, (0, 0) the upper left corner of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]

KINDS = ("ellipse", "ring", "rectangle", "star", "cross", "triangle", "arrow")
POINTED = ("triangle", "arrow")  # the kinds with a front and a back, which the pose task labels
KEYPOINTS = ("tip", "left", "right", "tail")  # left and right as seen by the shape, looking towards its tip

MIN_VISIBLE = 0.5  # shapes with a smaller visible share are omitted from the image and the labels
_SUBSAMPLES = 4  # per pixel and axis: 16 levels of coverage at the edges

# libm's last bit differs between platforms; six decimals do not.
_SIN = [round(math.sin(math.tau * i / 720), 6) for i in range(720 + 180)]


def _turn(degrees: float) -> Point:
    """Return (cosine, sine) of an angle, to half a degree."""
    i = int(degrees * 2) % 720
    return _SIN[i + 180], _SIN[i]


def _circle(n: int, radius: float = 1.0, start: float = 0.0) -> list[Point]:
    turns = [_turn(start + 360 * i / n) for i in range(n)]
    return [(radius * cos, radius * sin) for cos, sin in turns]


def _ring() -> list[Point]:
    """Two circles of opposite directions, joined by a slit: one polygon with a hole."""
    outer, inner = _circle(48), _circle(48, 0.55)
    return [*outer, outer[0], inner[0], *reversed(inner)]


def _star() -> list[Point]:
    tips, notches = _circle(5, 1.0, -90), _circle(5, 0.45, -54)
    points = [p for pair in zip(tips, notches, strict=True) for p in pair]
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in zip(*points, strict=True))
    return [((2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)) for x, y in points]


_ARM = 0.36
_CROSS = [(_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM), (_ARM, 1.0)]
_CROSS = _CROSS + [(-x, -y) for x, y in _CROSS]
_ARROW = [(0.0, -1.0), (1.0, 0.0), (0.4, 0.0), (0.4, 1.0), (-0.4, 1.0), (-0.4, 0.0), (-1.0, 0.0)]

# Outline within the square -1 … 1, tip up, and the range of its aspect ratio (height : width).
_OUTLINES: dict[str, tuple[list[Point], tuple[float, float]]] = {
    "ellipse": (_circle(48), (1.0, 1.5)),
    "ring": (_ring(), (1.0, 1.3)),
    "rectangle": ([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)], (1.2, 2.0)),
    "star": (_star(), (1.0, 1.0)),
    "cross": (_CROSS, (1.0, 1.3)),
    "triangle": ([(0.0, -1.0), (1.0, 1.0), (-1.0, 1.0)], (1.15, 1.7)),
    "arrow": (_ARROW, (1.15, 1.7)),
}
_KEYPOINTS = {
    "triangle": [(0.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (0.0, 1.0)],
    "arrow": [(0.0, -1.0), (-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)],
}
_CORNERS = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]


@dataclass(frozen=True)
class Shape:
    """A placed shape; its points may lie outside the image.

    Attributes:
        kind: One of KINDS.
        outline: The polygon, even-odd rule.
        corners: Its own (rotated) rectangle: front left, front right, back right, back left.
        keypoints: As KEYPOINTS names them; empty unless the kind is one of POINTED.
    """

    kind: str
    outline: list[Point]
    corners: list[Point]
    keypoints: list[Point]


@dataclass(frozen=True)
class Scene:
    """An image and its shapes.

    Attributes:
        image: H x W x 3, uint8, channels in OpenCV's order (B, G, R).
        shapes: Bottom first: a later one covers an earlier one.
        hidden: For each shape, for each of its keypoints: whether a later shape covers it.
    """

    image: np.ndarray
    shapes: list[Shape]
    hidden: list[list[bool]]


class RandomStream:
    """The random numbers of one image."""

    def __init__(self, *seed: int) -> None:
        """Seed the stream; each seed is 0 … 2**32 - 1."""
        self._state = np.random.RandomState(list(seed))

    def uniform(self, low: float, high: float) -> float:
        """Return a float, low <= value < high."""
        return low + (high - low) * self._state.random_sample()

    def integer(self, low: int, high: int) -> int:
        """Return an int, low <= value <= high."""
        return low + int(self._state.random_sample() * (high - low + 1))

    def choice(self, options):
        """Return one of the options."""
        return options[self.integer(0, len(options) - 1)]

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return self._state.random_sample() < share

    def noise(self, *shape: int) -> np.ndarray:
        """Return noise of triangular distribution, about -1 … 1, the sum of two uniform values, mean zero."""
        raw = np.frombuffer(self._state.bytes(2 * math.prod(shape)), np.uint8).reshape(2, *shape)
        return (raw[0].astype(np.float64) + raw[1] - 255) / 255

    def colour(self) -> np.ndarray:
        """Return three channels, 20 … 235."""
        return np.array([self.integer(20, 235) for _ in range(3)], np.float64)


def coverage(outline: list[Point], height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """Rasterise a polygon (even-odd rule).

    Args:
        outline: The polygon's points; it may reach beyond the image.
        height: Of the image.
        width: Of the image.

    Returns:
        Rows and columns of the part of the image that it touches, and the covered share of each pixel there, 0 … 1.
    """
    s = _SUBSAMPLES
    points = np.array(outline)
    (x0, y0), (x1, y1) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    rows, cols = slice(y0, max(y1, y0)), slice(x0, max(x1, x0))
    if x1 <= x0 or y1 <= y0:
        return rows, cols, np.zeros((rows.stop - rows.start, cols.stop - cols.start))
    xa, ya = ((points - (x0, y0)) * s).T[:, :, None]
    xb, yb = np.roll(xa, -1, 0), np.roll(ya, -1, 0)
    y = np.arange((y1 - y0) * s) + 0.5
    edge, line = np.nonzero((ya <= y) != (yb <= y))
    xa, ya, xb, yb = (v[edge, 0] for v in (xa, ya, xb, yb))
    x = xa + (y[line] - ya) * (xb - xa) / (yb - ya)
    first = np.clip(np.ceil(x - 0.5), 0, (x1 - x0) * s).astype(int)  # first sample to the right of the crossing
    crossings = np.zeros(((y1 - y0) * s, (x1 - x0) * s + 1), np.int64)
    np.add.at(crossings, (line, first), 1)
    inside = np.cumsum(crossings, 1)[:, :-1] & 1
    return rows, cols, inside.reshape(y1 - y0, s, x1 - x0, s).sum((1, 3)) / s**2


def area(outline: list[Point]) -> float:
    """Return the area of a polygon; slits have none, and holes are subtracted."""
    ends = [*outline[1:], outline[0]]
    return abs(sum(xa * yb - xb * ya for (xa, ya), (xb, yb) in zip(outline, ends, strict=True))) / 2


def scene(
    rng: RandomStream,
    height: int,
    width: int,
    *,
    kinds: tuple[str, ...] = KINDS,
    first: str = "",
    tilt: int = 30,
    inside=False,
) -> Scene:
    """Draw an image with a few shapes in clutter.

    Args:
        rng: Random numbers of the image.
        height: In pixels.
        width: In pixels.
        kinds: Kinds to draw; one that is named twice is drawn twice as often.
        first: A kind that is always placed (though possibly hidden), so that small datasets contain all kinds.
        tilt: Largest rotation in degrees either way; 180 is any direction.
        inside: Keep the rotated boxes within the image; otherwise its border may cut shapes.
    """
    unit = max(height, width) / 160  # shapes keep their proportion to the image
    image, base = _background(rng, height, width, unit)
    names = [first or rng.choice(kinds)] + [rng.choice(kinds) for _ in range(rng.integer(3, 8))]
    placed = []
    for name in names:
        longest = rng.choice((18, 18, 18, 32, 32, 32, 64, 64)) * rng.uniform(1, 2) * unit
        placed.append(_place(rng, name, height, width, longest, tilt, inside))
    return _compose(rng, image, lambda: _contrasting(rng, base), placed)


def single_shape(rng: RandomStream, side: int, kind: str) -> Scene:
    """Draw a square image of one light shape in dark clutter, for classification.

    Light on dark, because class labels alone train slowly: if shapes were lighter or darker at random, the images of a
    class would have no common mean, and a small network from scratch would stay at chance level for long.
    """
    image, _ = _background(rng, side, side, side / 96)
    shape = _place(rng, kind, side, side, rng.uniform(0.4, 0.7) * side, tilt=30, inside=True)
    return _compose(rng, image * 0.45, lambda: 120 + 0.5 * rng.colour(), [shape])


def _place(rng: RandomStream, kind: str, height: int, width: int, longest: float, tilt: int, inside: bool) -> Shape:
    points, aspects = _OUTLINES[kind]
    longest = min(longest, 0.7 * min(height, width))  # its box then fits at every angle
    half_w, half_h = longest / 2 / rng.uniform(*aspects), longest / 2
    cos, sin = _turn(rng.uniform(-tilt, tilt))
    reach_x, reach_y = half_w * abs(cos) + half_h * abs(sin), half_w * abs(sin) + half_h * abs(cos)
    keep = 1.0 if inside else 0.4
    x0 = rng.uniform(keep * reach_x, width - keep * reach_x)
    y0 = rng.uniform(keep * reach_y, height - keep * reach_y)

    def move(local: list[Point]) -> list[Point]:
        return [(x0 + half_w * x * cos - half_h * y * sin, y0 + half_w * x * sin + half_h * y * cos) for x, y in local]

    return Shape(kind, move(points), move(_CORNERS), move(_KEYPOINTS.get(kind, [])))


def _compose(rng: RandomStream, image: np.ndarray, colour: Callable[[], np.ndarray], placed: list[Shape]) -> Scene:
    """Draw the shapes, large ones first, and determine which shapes and keypoints stay visible."""
    height, width = image.shape[:2]
    placed = sorted(placed, key=lambda shape: -area(shape.outline))
    masks = [coverage(shape.outline, height, width) for shape in placed]
    covered = np.zeros((height, width), bool)
    keep: list[int] = []
    hidden: list[list[bool]] = []
    for i in reversed(range(len(placed))):  # from the top down
        rows, cols, alpha = masks[i]
        solid = alpha >= 0.5
        if int((solid & ~covered[rows, cols]).sum()) < MIN_VISIBLE * area(placed[i].outline):
            continue
        keep.insert(0, i)
        hidden.insert(0, [_value_at(covered, x, y) for x, y in placed[i].keypoints])
        covered[rows, cols] |= solid
    for i in keep:
        rows, cols, alpha = masks[i]
        fill = _surface(rng, colour(), rows.stop - rows.start, cols.stop - cols.start)
        image[rows, cols] += (fill - image[rows, cols]) * alpha[:, :, None]
    return Scene(_camera_effects(rng, image), [placed[i] for i in keep], hidden)


def _value_at(mask: np.ndarray, x: float, y: float) -> bool:
    row, col = math.floor(y), math.floor(x)
    return 0 <= row < mask.shape[0] and 0 <= col < mask.shape[1] and bool(mask[row, col])


def _clouds(rng: RandomStream, height: int, width: int, tiles: int) -> np.ndarray:
    """Return coarse interpolated noise, H x W x 1, about -1 … 1."""
    coarse = rng.noise(tiles + 1, tiles + 1)
    y, x = np.arange(height) * (tiles / height), np.arange(width) * (tiles / width)
    i, j = y.astype(int), x.astype(int)
    y, x = (y - i)[:, None], x - j
    upper = coarse[i][:, j] * (1 - x) + coarse[i][:, j + 1] * x
    lower = coarse[i + 1][:, j] * (1 - x) + coarse[i + 1][:, j + 1] * x
    return (upper * (1 - y) + lower * y)[:, :, None]


def _stripes(rng: RandomStream, height: int, width: int, unit: float) -> np.ndarray:
    """Return stripes of random direction and pitch, H x W x 1, values -1 and 1."""
    cos, sin = _turn(rng.uniform(0, 180))
    pitch = rng.uniform(4, 14) * unit
    phase = (np.arange(height)[:, None] * sin + np.arange(width) * cos) / pitch
    return (2.0 * (np.floor(phase).astype(int) & 1) - 1)[:, :, None]


def _background(rng: RandomStream, height: int, width: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a textured background with unlabelled clutter, and its main colour."""
    base = rng.colour()
    image = base + np.zeros((height, width, 3))
    image += _clouds(rng, height, width, 3) * (rng.colour() - 128) * 0.5
    image += _clouds(rng, height, width, 12) * rng.uniform(5, 30)
    if rng.chance(0.35):
        image += _stripes(rng, height, width, unit) * rng.uniform(4, 16)
    for _ in range(rng.integer(1, 3)):  # irregular blots, unlabelled
        n, radius = rng.integer(5, 9), rng.uniform(5, 25) * unit
        x0, y0 = rng.uniform(0, width), rng.uniform(0, height)
        turns = [_turn(360 * i / n) for i in range(n)]
        radii = [radius * rng.uniform(0.35, 1) for _ in turns]
        blot = [(x0 + r * cos, y0 + r * sin) for r, (cos, sin) in zip(radii, turns, strict=True)]
        _fill(image, blot, base + (rng.colour() - base) * rng.uniform(0.1, 0.4))
    for _ in range(rng.integer(2, 6)):  # lines
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        (cos, sin), length = _turn(rng.uniform(0, 360)), rng.uniform(20, 160) * unit
        half = rng.uniform(0.4, 1.4) * unit
        ends = [(x - half * sin, y + half * cos), (x + half * sin, y - half * cos)]
        _fill(image, ends + [(x + length * cos, y + length * sin) for x, y in reversed(ends)], rng.colour())
    for _ in range(rng.integer(5, 25)):  # specks
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.6, 2.2) * unit
        _fill(image, [(x - r, y), (x, y - r), (x + r, y), (x, y + r)], rng.colour())
    return image, base


def _fill(image: np.ndarray, outline: list[Point], colour: np.ndarray) -> None:
    rows, cols, alpha = coverage(outline, *image.shape[:2])
    image[rows, cols] += (colour - image[rows, cols]) * alpha[:, :, None]


def _contrasting(rng: RandomStream, base: np.ndarray) -> np.ndarray:
    colour = rng.colour()
    while np.abs(colour - base).max() < 90:  # a maximum, since a sum could depend on its order
        colour = rng.colour()
    return colour


def _surface(rng: RandomStream, colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the texture of a shape: plain, shaded, striped or patchy."""
    surface = colour + np.zeros((height, width, 3))
    style = rng.choice(("plain", "shaded", "striped", "patchy"))
    if style == "shaded":
        (cos, sin), depth = _turn(rng.uniform(0, 360)), rng.uniform(10, 45)
        ramp = np.arange(height)[:, None] * (sin / height) + np.arange(width) * (cos / width)
        surface += ramp[:, :, None] * depth
    elif style == "striped":
        surface += _stripes(rng, height, width, 1.0) * rng.uniform(6, 22)
    elif style == "patchy":
        surface += _clouds(rng, height, width, 6) * rng.uniform(10, 40)
    return surface


def _camera_effects(rng: RandomStream, image: np.ndarray) -> np.ndarray:
    """Return the image with the artefacts of a camera: slight blur at times, random contrast, noise."""
    if rng.chance(0.4):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
        image = (across[:-2] + 2 * across[1:-1] + across[2:]) / 16
    image = (image - 128) * rng.uniform(0.65, 1.1) + 128 + rng.uniform(-15, 15)
    image = image + rng.noise(*image.shape) * rng.uniform(2, 12)
    return np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)
