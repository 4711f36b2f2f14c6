"""`bench detect`: datasets as users have them, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jobs import tiny_dataset
from plans import request_of

from yolo_attn import commands
from yolo_attn.detect import data
from yolo_attn.detect.data import read_dataset
from yolo_attn.errors import UsageError


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The YAML of a dataset of its own for each test."""
    return Path(tiny_dataset(tmp_path))


def test_a_dataset_is_identified_by_its_content(tmp_path: Path) -> None:
    prints = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prints.append(read_dataset(tiny_dataset(tmp_path / name), "detect")[0].fingerprint)
    assert prints[0] == prints[1], "a copy under another name is the same dataset"
    label = next((tmp_path / "two" / "tiny-detect" / "labels" / "val").glob("*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.2 0.2\n")
    changed = read_dataset(str(tmp_path / "two" / "tiny-detect.yaml"), "detect")[0]
    assert changed.fingerprint != prints[0]


def test_images_and_objects_are_those_that_the_trainings_use(tiny: Path) -> None:
    whole = read_dataset(str(tiny), "detect")[0]
    assert whole.images == {"train": 8, "val": 4} and len(whole.names) == 7
    half = read_dataset(str(tiny), "detect", {"fraction": 0.5})[0]
    assert half.images == {"train": 4, "val": 4}
    assert sum(half.objects["train"]) < sum(whole.objects["train"]) and half.objects["val"] == whole.objects["val"]
    single = read_dataset(str(tiny), "detect", {"single_cls": True})[0]
    assert single.names == ("item",) and single.objects == {k: [sum(v)] for k, v in whole.objects.items()}


def test_a_relative_path_means_the_folder_where_the_command_was_given(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yamls").mkdir()
    d = yaml.safe_load(tiny.read_text())
    (tmp_path / "yamls" / "mine.yaml").write_text(yaml.safe_dump({**d, "path": "tiny-detect"}))
    monkeypatch.chdir(tmp_path)
    plan = request_of("yamls/mine.yaml").plan
    job = plan.job(plan.cells[0])
    assert (job["data"], job["root"]) == (str(tmp_path / "yamls" / "mine.yaml"), str(tmp_path / "tiny-detect"))


def test_images_for_the_report_are_those_of_the_dataset_as_it_is_now(tiny: Path, tmp_path: Path) -> None:
    import cv2

    dataset, val = read_dataset(str(tiny), "detect")
    before = data.with_samples(dataset, val, tmp_path).samples[0]
    for file in val.files:
        cv2.imwrite(file, 255 - cv2.imread(file))
    after = data.with_samples(dataset, val, tmp_path).samples[0]
    assert json.dumps(before) == json.dumps(after)
    shown, image = cv2.imread(str(tmp_path / after["file"])), cv2.imread(val.files[0])
    assert abs(shown.astype(float) - image).mean() < 20


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_the_true_boxes_of_the_reports_images_enclose_the_labels(task: str, tmp_path: Path) -> None:
    dataset, val = read_dataset(tiny_dataset(tmp_path, task), task)
    sample = data.with_samples(dataset, val, tmp_path).samples[0]
    label = next((tmp_path / f"tiny-{task}" / "labels" / "val").glob(f"{Path(sample['image']).stem}.txt"))
    for line, (c, *edges) in zip(sorted(label.read_text().splitlines()), sorted(sample["truth"]), strict=True):
        number, *values = map(float, line.split())
        if task == "segment":
            xs, ys = values[0::2], values[1::2]
        else:
            x, y, w, h = values
            xs, ys = [x - w / 2, x + w / 2], [y - h / 2, y + h / 2]
        true = [min(xs) * 96, min(ys) * 96, max(xs) * 96, max(ys) * 96]
        assert c == number and edges == pytest.approx(true, abs=0.06)


def wrong(source: str | Path, task: str = "detect") -> str:
    with pytest.raises(UsageError) as e:
        read_dataset(str(source), task)
    return str(e.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"9 0.5 0.5 0.1 0.1\n", "Label class 9 exceeds dataset class count 7"),
        (b"-1 0.5 0.5 0.1 0.1\n", "negative"),
        (b"0 0.5 0.5 0.1\n", "labels require 5 columns"),
        (b"0 0.5 0.5 0.1 wide\n", "could not convert string to float: 'wide'"),
        (b"\xff\xd8\xff\xe0", "'utf-8' codec can't decode"),
    ],
)
def test_an_image_that_ultralytics_would_leave_out_is_an_error(content: bytes, text: str, tiny: Path) -> None:
    label = next(tiny.parent.glob("tiny-detect/labels/val/*.txt"))
    label.write_bytes(content)
    for _ in range(2):  # the second time from Ultralytics' cache
        said = wrong(tiny)
        assert text in said and f"/{label.stem}." in said and "nc and names of the YAML" in said


def test_a_dataset_with_a_wrong_label_is_refused_by_the_command(tiny: Path, tmp_path: Path, capsys: object) -> None:
    next(tiny.parent.glob("tiny-detect/labels/train/*.txt")).write_text("9 0.5 0.5 0.1 0.1\n")
    out = tmp_path / "out"
    assert commands.main(["bench", "detect", "models=yolov8n", f"data={tiny}", f"out={out}"]) == 2
    assert not out.exists()


def test_a_dataset_without_labels_is_refused(tiny: Path) -> None:
    for label in tiny.parent.glob("tiny-detect/labels/val/*.txt"):
        label.write_text("")
    assert "its val split has no labelled object" in wrong(tiny)


def test_a_list_of_images_may_have_spaces_but_no_paths_from_the_current_folder(tiny: Path, tmp_path: Path) -> None:
    d, root = yaml.safe_load(tiny.read_text()), tmp_path / "tiny-detect"
    spaced = tmp_path / "with a space"
    root.rename(spaced)
    images = sorted((spaced / "images" / "val").glob("*"))
    (spaced / "val.txt").write_text("".join(f"{i}\n" for i in images[1:]) + f"./images/val/{images[0].name}\n")
    tiny.write_text(yaml.safe_dump({**d, "path": str(spaced), "val": "val.txt"}))
    assert read_dataset(str(tiny), "detect")[1].files == [str(i) for i in images]
    (spaced / "val.txt").write_text(f"{images[0]}\n{spaced}/images/val/gone.png\n")
    assert "gone.png" in wrong(tiny)
    relative = images[0].relative_to(spaced)
    (spaced / "val.txt").write_text(f"{relative}\n")
    assert "No such file" in wrong(tiny)


def test_a_list_of_images_that_is_only_right_in_the_current_folder_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d, root = yaml.safe_load(tiny.read_text()), tmp_path / "tiny-detect"
    (root / "val.txt").write_text("".join(f"{f.relative_to(root)}\n" for f in sorted(root.glob("images/val/*"))))
    tiny.write_text(yaml.safe_dump({**d, "val": "val.txt"}))
    monkeypatch.chdir(root)
    said = wrong(tiny)
    assert "relative to the current folder" in said and "or ./images/val/" in said


def test_folders_of_a_classification_are_classes_of_train(tmp_path: Path) -> None:
    root = Path(tiny_dataset(tmp_path, "classify"))
    image = next(root.glob("val/*/*.*"))
    deeper = image.parent / "deeper" / image.name
    deeper.parent.mkdir()
    image.rename(deeper)
    found = read_dataset(str(root), "classify")[0]
    assert sum(found.objects["val"]) == found.images["val"] == 4
    (root / "val" / "unknown").mkdir()
    (root / "val" / "unknown" / "a.jpg").write_bytes(b"x")
    assert "unknown; those of train are arrow, cross," in wrong(root, "classify")
    (root / "val").rename(root / "other")
    assert wrong(root, "classify") == f"data={root} has no val split."
