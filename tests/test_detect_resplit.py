"""`resplit=1`: the split into training and validation images that a seed draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultralytics.cfg import get_cfg
from ultralytics.data import dataset
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset

from yolo_attn.detect.resplit import split_of_seed, without_label_caches, write_split


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_a_split_has_every_image_once_and_the_sizes_of_the_dataset(train: int, val: int, seed: int) -> None:
    files = {"train": [f"/d/train/{i}.jpg" for i in range(train)], "val": [f"/d/val/{i}.jpg" for i in range(val)]}
    found = split_of_seed(files, seed)
    assert {part: len(f) for part, f in found.items()} == {"train": train, "val": val}
    assert sorted(found["train"] + found["val"]) == sorted(files["train"] + files["val"])


def test_a_seed_has_the_same_split_everywhere_and_another_seed_another_one() -> None:
    def drawn(root: str, seed: int) -> dict[str, list[str]]:
        files = {p: [f"{root}/{p}/{i}.jpg" for i in range(20)] for p in ("train", "val")}
        return {p: [f.removeprefix(root) for f in found] for p, found in split_of_seed(files, seed).items()}

    assert drawn("/a", 3) == drawn("/other/machine", 3)
    assert set(drawn("/a", 3)["val"]) != set(drawn("/a", 4)["val"])


def test_the_dataset_of_the_user_is_read_and_not_changed(
    tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load_dataset_cache_file", "save_dataset_cache_file"):
        monkeypatch.setattr(dataset, name, getattr(dataset, name))  # restores them
    root = Path(tiny_data).parent
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    without_label_caches()
    d = check_det_dataset(tiny_data)
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        for part, path in write_split(tiny_data, seed, tmp_path / str(seed)).items():
            config = get_cfg(overrides={"imgsz": 64, "task": "detect"})
            labels = build_yolo_dataset(config, path, batch=1, data=d, mode=part).labels
            assert len(labels) == len(Path(path).read_text(encoding="utf-8").splitlines())
            assert any(len(label["cls"]) for label in labels)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before
