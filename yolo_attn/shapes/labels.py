"""The labels of an image, as lines of an Ultralytics label file."""

from __future__ import annotations

from yolo_attn.shapes.scene import KINDS, POINTED, Point, Scene, Shape

# Classes of each task; classification has folders instead.
NAMES: dict[str, tuple[str, ...]] = {"detect": KINDS, "segment": KINDS, "pose": POINTED, "obb": KINDS}


def lines(scene: Scene, task: str) -> list[str]:
    """Return the labels of an image, one line per shape, with coordinates relative to width and height.

    Boxes and polygons describe the part of a shape inside the image, including what another shape covers: shapes are
    drawn from large to small, and Ultralytics assigns a pixel under several masks to the smallest one, too.

    Args:
        scene: The image.
        task: detect (class x y w h), segment (class and polygon), pose (class, box, then x y v for each of KEYPOINTS:
            v is 2 for visible, 1 for covered, 0 for outside the image) or obb (class and four corners).
    """
    height, width = scene.image.shape[:2]
    rows = []
    for shape, hidden in zip(scene.shapes, scene.hidden, strict=True):
        if shape.kind not in NAMES[task]:
            continue
        if task == "obb":
            numbers = _shares(shape.corners, width, height)
        elif task == "segment":
            numbers = _shares(clip(shape.outline, width, height), width, height)
        else:
            numbers = _box(shape, width, height)
        texts = [f"{min(max(v, 0.0), 1.0):.5f}" for v in numbers]
        if task == "pose":
            texts += _keypoints(shape, hidden, width, height)
        rows.append(" ".join([str(NAMES[task].index(shape.kind)), *texts]))
    return rows


def clip(outline: list[Point], width: float, height: float) -> list[Point]:
    """Clip a polygon to the image (Sutherland and Hodgman)."""
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        result: list[Point] = []
        for a, b in zip([outline[-1], *outline[:-1]], outline, strict=True):
            depth_a, depth_b = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if (depth_a < 0) != (depth_b < 0):
                t = depth_a / (depth_a - depth_b)
                result.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
            if depth_b >= 0:
                result.append(b)
        if not result:
            return []
        outline = result
    return outline


def _shares(points: list[Point], width: int, height: int) -> list[float]:
    return [v for x, y in points for v in (x / width, y / height)]


def _box(shape: Shape, width: int, height: int) -> list[float]:
    xs, ys = zip(*clip(shape.outline, width, height), strict=True)
    left, right, top, bottom = min(xs) / width, max(xs) / width, min(ys) / height, max(ys) / height
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _keypoints(shape: Shape, hidden: list[bool], width: int, height: int) -> list[str]:
    texts = []
    for (x, y), covered in zip(shape.keypoints, hidden, strict=True):
        if 0 <= x <= width and 0 <= y <= height:
            texts += [f"{x / width:.5f}", f"{y / height:.5f}", "1" if covered else "2"]
        else:
            texts += ["0.00000", "0.00000", "0"]
    return texts
