"""`bench detect`: datasets as users have them, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobs import tiny_dataset

from yolo_attn.commands.cli import UsageError
from yolo_attn.detect import data, words
from yolo_attn.detect.data import read_dataset


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The YAML of a dataset of its own for each test."""
    return Path(tiny_dataset(tmp_path))


def test_a_dataset_that_is_named_from_the_current_folder_is_found_in_every_other(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.data.utils import check_det_dataset

    (tmp_path / "yamls").mkdir()
    d = yaml.safe_load(tiny.read_text())
    (tmp_path / "yamls" / "mine.yaml").write_text(yaml.safe_dump({**d, "path": "tiny-detect"}))
    monkeypatch.chdir(tmp_path)
    argv = ["models=yolov8n", "data=yamls/mine.yaml", "control=0", "imgsz=64", "out=out"]
    (dataset,) = words.read_request(argv).plan.datasets
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert check_det_dataset(dataset.path)["val"] == str(tmp_path / "tiny-detect" / "images" / "val")
    assert read_dataset(dataset.path, "detect")[0].fingerprint == dataset.fingerprint


def test_pictures_for_the_report_are_those_of_the_dataset_as_it_is_now(tiny: Path, tmp_path: Path) -> None:
    import cv2

    dataset, files = read_dataset(str(tiny), "detect")
    before = data.with_samples(dataset, files, tmp_path).samples[0]
    for file in files:
        cv2.imwrite(file, 255 - cv2.imread(file))
    after = data.with_samples(dataset, files, tmp_path).samples[0]
    assert json.dumps(before) == json.dumps(after)
    shown, image = cv2.imread(str(tmp_path / after["file"])), cv2.imread(files[0])
    assert abs(shown.astype(float) - image).mean() < 20


def wrong(word: str | Path, task: str = "detect") -> str:
    with pytest.raises(UsageError) as e:
        read_dataset(str(word), task)
    return str(e.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"-1 0.5 0.5 0.1 0.1\n", "has class -1"),
        (b"0 0.5 0.5 0.1\n", "'0 0.5 0.5 0.1' is no label"),
        (b"0 0.5 0.5 0.1 wide\n", "is no label"),
        (b"inf 0.5 0.5 0.1 0.1\n", "is no label"),
        (b"\xff\xd8\xff\xe0", "is no text"),
    ],
)
def test_labels_that_are_none(content: bytes, text: str, tiny: Path) -> None:
    label = next(tiny.parent.glob("tiny-detect/labels/val/*.txt"))
    label.write_bytes(content)
    assert text in (told := wrong(tiny)) and str(label) in told


def test_a_file_that_cannot_be_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied", "a.txt")

    monkeypatch.setattr(data, "_label_text", refused)
    assert wrong(tiny) == f"data={tiny}: a.txt: Permission denied."


def test_a_list_of_images_with_spaces_in_their_names(tiny: Path, tmp_path: Path) -> None:
    d, root = yaml.safe_load(tiny.read_text()), tmp_path / "tiny-detect"
    spaced = tmp_path / "with a space"
    root.rename(spaced)
    images = sorted((spaced / "images" / "val").glob("*"))
    (spaced / "val.txt").write_text("".join(f"{i}\n" for i in images[1:]) + f"./images/val/{images[0].name}\n")
    tiny.write_text(yaml.safe_dump({**d, "path": str(spaced), "val": "val.txt"}))
    assert read_dataset(str(tiny), "detect")[1] == [str(i) for i in images]
    (spaced / "val.txt").write_text("images/val/0.jpg\n")
    assert "names images/val/0.jpg from the current folder" in wrong(tiny)


def test_folders_of_a_classification(tmp_path: Path) -> None:
    root = Path(tiny_dataset(tmp_path, "classify"))
    image = next(root.glob("val/*/*.*"))
    deeper = image.parent / "deeper" / image.name
    deeper.parent.mkdir()
    image.rename(deeper)
    found = read_dataset(str(root), "classify")[0]
    assert sum(found.objects["val"]) == found.images["val"]
    (root / "val" / "unknown").mkdir()
    (root / "val" / "unknown" / "a.jpg").write_bytes(b"x")
    assert "a.jpg is of class unknown; the classes of train are" in wrong(root, "classify")
    (root / "val" / "unknown" / "a.jpg").rename(root / "val" / "a.jpg")
    assert "a.jpg lies in no class's folder" in wrong(root, "classify")
    (root / "val").rename(root / "other")
    assert wrong(root, "classify") == f"data={root} has no val split."
