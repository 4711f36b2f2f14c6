"""`bench detect`: datasets as users have them, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jobs import tiny_dataset

from yolo_attn.bench.detect import data, words
from yolo_attn.bench.detect.data import read_dataset


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
