"""The images and labels of the built-in dataset: they fit together, and are the same on every machine."""

import functools
import hashlib

import cv2
import numpy as np
import pytest
import yaml
from shapes_files import ROOT, YAMLS, contents

from yolo_attn import shapes
from yolo_attn.shapes import labels, scene

TASKS = list(shapes.FOLDERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a task's dataset, small, generated once."""
    parent = tmp_path_factory.mktemp("datasets")
    return functools.cache(lambda task: shapes.make(parent / shapes.FOLDERS[task], task, train=42, val=14))


def read(root, split="train"):
    """(height, width, rows of numbers) of every image."""
    for file in sorted((root / "images" / split).glob("*.png")):
        text = (root / "labels" / split / f"{file.stem}.txt").read_text()
        rows = [[float(v) for v in line.split()] for line in text.splitlines()]
        yield *cv2.imread(str(file)).shape[:2], rows


def points(row, height, width, start=1):
    return np.array(row[start:]).reshape(-1, 2) * (width, height)


@pytest.mark.parametrize("task", YAMLS)
def test_labels_are_well_formed(made, task):
    columns = {"detect": {5}, "obb": {9}, "pose": {5 + 4 * 3}}
    seen = set()
    for split, count in (("train", 42), ("val", 14)):
        images = list(read(made(task), split))
        assert len(images) == count
        for height, width, rows in images:
            assert {height, width} <= {160, 120} and max(height, width) == 160
            assert len({tuple(r) for r in rows}) == len(rows)
            for row in rows:
                seen.add(int(row[0]))
                assert len(row) in columns[task] if task in columns else len(row) >= 7 and len(row) % 2 == 1
                coordinates = row[1:] if task != "pose" else row[1:5] + row[5::3] + row[6::3]
                assert min(coordinates) >= 0 and max(coordinates) <= 1
    assert seen == set(range(len(labels.NAMES[task])))


def test_boxes_are_the_extent_of_the_polygons(made):
    for (height, width, boxes), (_, _, polygons) in zip(read(made("detect")), read(made("segment")), strict=True):
        assert len(boxes) == len(polygons)
        for box, row in zip(boxes, polygons, strict=True):
            assert box[0] == row[0]
            outline = points(row, height, width)
            low, high = outline.min(0), outline.max(0)
            expected = np.array([*(low + high) / 2, *(high - low)])
            assert np.array(box[1:]) * (width, height, width, height) == pytest.approx(expected, abs=0.01)


def test_detect_and_segment_are_the_same_images(made):
    a, b = (contents(made(task) / "images") for task in ("detect", "segment"))
    assert a == b


def test_shapes_are_small_medium_and_large(made):
    sides = np.array([(r[3] * r[4] * h * w) ** 0.5 for h, w, rows in read(made("detect")) for r in rows])
    for low, high in ((0, 28), (28, 52), (52, 160)):
        assert ((low <= sides) & (sides < high)).mean() > 0.15
    assert sides.max() / sides.min() > 6


def test_shapes_overlap_but_none_is_mostly_hidden(made):
    visible = []
    for height, width, rows in read(made("segment")):
        masks = []
        for row in rows:
            mask = np.zeros((height * 4, width * 4), np.uint8)
            cv2.fillPoly(mask, [np.round(points(row, height, width) * 4).astype(np.int32)], 1)
            masks.append(mask.astype(bool))
        for i, mask in enumerate(masks):
            above = np.any(masks[i + 1 :], axis=0) if masks[i + 1 :] else np.zeros_like(mask)
            visible.append((mask & ~above).sum() / mask.sum())
    assert min(visible) > scene.MIN_VISIBLE - 0.05
    assert (np.array(visible) < 0.95).mean() > 0.1


def test_a_ring_has_a_hole(made):
    from ultralytics.data.utils import polygon2mask

    checked = 0
    for height, width, rows in read(made("segment")):
        for row in rows:
            outline = points(row, height, width)
            low, high = outline.min(0), outline.max(0)
            if row[0] == scene.KINDS.index("ring") and low.min() > 1 and high[0] < width - 1 and high[1] < height - 1:
                mask = polygon2mask((height, width), [outline.reshape(-1)])
                x, y = ((low + high) / 2).astype(int)
                assert mask[y, x] == 0 and mask.sum() > 0
                checked += 1
    assert checked > 5


def test_rotated_boxes_are_rectangles_at_all_angles_inside_the_image(made):
    directions = set()
    for height, width, rows in read(made("obb")):
        for row in rows:
            a, b, c, d = points(row, height, width)
            assert a + c == pytest.approx(b + d, abs=0.02)  # the diagonals bisect each other
            assert np.linalg.norm(a - c) == pytest.approx(np.linalg.norm(b - d), abs=0.02)  # and are equally long
            x, y = a - d
            directions.add((x > 0, y > 0, abs(x) > abs(y)))
    assert len(directions) == 8


def test_rotated_boxes_enclose_their_shapes_tightly():
    for seed in range(20):
        for shape in scene.scene(scene.RandomStream(3, seed), 160, 160, inside=True).shapes:
            a, b, _, d = np.array(shape.corners)
            along = np.stack([(b - a) / np.linalg.norm(b - a), (d - a) / np.linalg.norm(d - a)], 1)
            local = (np.array(shape.outline) - a) @ along
            size = [np.linalg.norm(b - a), np.linalg.norm(d - a)]
            assert local.min(0) == pytest.approx([0, 0], abs=1e-3)
            assert local.max(0) == pytest.approx(size, rel=1e-3)


def test_keypoints_belong_to_their_shape(made):
    seen = {}
    for height, width, rows in read(made("pose")):
        for row in rows:
            keypoints = np.array(row[5:]).reshape(4, 3)
            xy, v = keypoints[:, :2] * (width, height), keypoints[:, 2]
            for value in v:
                seen[value] = seen.get(value, 0) + 1
            assert (xy[v == 0] == 0).all()
            low = np.array([row[1] - row[3] / 2, row[2] - row[4] / 2]) * (width, height)
            high = np.array([row[1] + row[3] / 2, row[2] + row[4] / 2]) * (width, height)
            assert (xy[v > 0] > low - 0.02).all() and (xy[v > 0] < high + 0.02).all()
            if (v > 0).all():
                tip, left, right, tail = xy
                assert np.linalg.norm(tip - left) == pytest.approx(np.linalg.norm(tip - right), abs=0.05)
                ahead, aside = tip - tail, right - left
                assert abs(ahead @ aside) < 0.02 * np.linalg.norm(ahead) * np.linalg.norm(aside)
                assert ahead[0] * aside[1] - ahead[1] * aside[0] > 0  # right is on the right, y pointing down
    assert set(seen) == {0, 1, 2} and min(seen.values()) > 3 and seen[2] > seen[1] + seen[0]


def test_covered_keypoints_are_under_a_later_shape():
    checked = 0
    for seed in range(60):
        image = scene.scene(scene.RandomStream(4, seed), 160, 160, kinds=scene.KINDS, tilt=180)
        for i, (shape, hidden) in enumerate(zip(image.shapes, image.hidden, strict=True)):
            for point, covered in zip(shape.keypoints, hidden, strict=True):
                rims = [
                    cv2.pointPolygonTest(np.array(s.outline, np.float32), point, True) for s in image.shapes[i + 1 :]
                ]
                if not any(abs(r) < 1.5 for r in rims) and min(point) >= 0 and max(point) < 160:
                    assert covered == any(r > 0 for r in rims)
                    checked += covered
    assert checked > 5


def test_mirroring_a_shape_swaps_its_left_and_right():
    config = yaml.safe_load((ROOT / "cfg/shapes-pose.yaml").read_text())
    for kind in scene.POINTED:
        local = scene._KEYPOINTS[kind]
        assert [(-local[i][0], local[i][1]) for i in config["flip_idx"]] == local
        assert {(round(-x, 6) + 0.0, y) for x, y in scene._OUTLINES[kind][0]} == set(scene._OUTLINES[kind][0])


@pytest.mark.parametrize("kind", scene.KINDS)
def test_pixels_cover_the_area_of_the_outline(kind):
    """Two ways to the same number: counting samples, and the shoelace formula."""
    for i in range(10):
        shape = scene._place(scene.RandomStream(6, i), kind, 160, 160, longest=20 + 8 * i, tilt=180, inside=True)
        *_, alpha = scene.coverage(shape.outline, 160, 160)
        assert alpha.sum() == pytest.approx(scene.area(shape.outline), rel=0.03)


def test_all_kinds_are_about_equally_frequent(made):
    counts = np.bincount([int(r[0]) for _, _, rows in read(made("detect")) for r in rows])
    assert counts.min() > 0.6 * counts.max()


def contrasts(image, outlines):
    """How far the colour inside of each shape, where visible, is from the one around it; outlines bottom first."""
    height, width = image.shape[:2]
    free = np.ones((height, width), bool)
    kernel = np.ones((3, 3), np.uint8)
    for outline in reversed(outlines):
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(outline - 0.5).astype(np.int32)], 1)
        inner = (cv2.erode(mask, kernel) > 0) & free
        rim = (cv2.dilate(mask, kernel, iterations=4) > 0) & (cv2.dilate(mask, kernel) == 0) & free
        free &= mask == 0
        if inner.sum() > 8 and rim.sum() > 8:
            yield np.abs(image[inner].mean(0) - image[rim].mean(0)).max()


def test_the_images_show_what_the_labels_say(made):
    images = [cv2.imread(str(f)).astype(float) for f in sorted((made("segment") / "images/train").glob("*.png"))]
    outlines = [[points(row, h, w) for row in rows] for h, w, rows in read(made("segment"))]
    right = [c for image, o in zip(images, outlines, strict=True) for c in contrasts(image, o)]
    wrong = [c for image, o in zip(images[1:], outlines, strict=False) for c in contrasts(image, o)]
    assert np.median(right) > 40
    assert np.mean(np.array(right) > 15) > 0.9
    assert np.median(wrong) < 0.5 * np.median(right)


def test_classification_images_show_their_shape():
    for i in range(21):
        image = scene.single_shape(scene.RandomStream(5, i), 96, scene.KINDS[i % 7])
        (shape,) = image.shapes
        assert shape.kind == scene.KINDS[i % 7]
        (contrast,) = contrasts(image.image.astype(float), [np.array(shape.outline)])
        assert contrast > 15


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_bytes(made, tmp_path, task):
    again = shapes.make(tmp_path / "again", task, train=42, val=14)
    assert contents(again) == contents(made(task))


def test_another_seed_gives_other_images(made, tmp_path):
    other = contents(shapes.make(tmp_path / "other", train=4, val=1, seed=1))
    mine = contents(made("detect"))
    assert all(mine[name] != content for name, content in other.items())


def test_a_image_does_not_depend_on_how_many_there_are(made, tmp_path):
    few = contents(shapes.make(tmp_path / "few", "pose", train=3, val=2))
    many = contents(made("pose"))
    del few["shapes.json"]
    assert len(few) == 10 and few.items() <= many.items()


def test_training_and_validation_images_differ(made):
    files = contents(made("detect") / "images")
    assert len({hashlib.sha256(c).digest() for c in files.values()}) == len(files)


@pytest.mark.parametrize(
    ("task", "digest"),
    {
        "detect": "5a58d426199d195b",
        "segment": "d2ea02881111199f",
        "pose": "ffbfdc17e1547c8e",
        "obb": "6986f6c4156626c2",
        "classify": "a4a6f0c35e4079f8",
    }.items(),
)
def test_version_1_is_exactly_these_pixels_and_labels(made, task, digest):
    """A digest is the only full description of a version; where it changes on purpose, VERSION must, too."""
    assert shapes.VERSION == 1
    total = hashlib.sha256()
    for name, content in contents(made(task)).items():
        if name.endswith(".png"):  # pixels: compression may differ between releases of OpenCV
            content = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).tobytes()
        if name.endswith((".png", ".txt")):
            total.update(name.encode() + content)
    assert total.hexdigest()[:16] == digest


def test_larger_images_hold_the_same_shapes_in_proportion(made, tmp_path):
    root = shapes.make(tmp_path / "large", train=1, val=1, size=320)
    assert max(cv2.imread(str(root / "images/train/000000.png")).shape) == 320
    large, small = (np.loadtxt(r / "labels/train/000000.txt") for r in (root, made("detect")))
    assert large == pytest.approx(small, abs=0.02)
