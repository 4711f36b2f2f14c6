"""Shipped model and dataset YAMLs are found by name from any folder; the user's own files take precedence."""

from __future__ import annotations

import pytest
import yaml
from ultralytics import YOLO
from ultralytics.data import utils as data_utils
from ultralytics.nn import tasks

from yolo_attn import patches
from yolo_attn.yamls import shipped

OWN_MODEL = {
    "nc": 3,
    "scales": {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "SAM", []], [-1, 1, "SPPF", [128, 5]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}


def write(path, d: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(d))
    return path


def loaded(name: str, monkeypatch: pytest.MonkeyPatch, folder) -> dict:
    monkeypatch.chdir(folder)
    return tasks.yaml_model_load(name)


@pytest.mark.parametrize("name", ["yolov8n-sam.yaml", "yolov8x-sam.yaml", "cfg/yolov8s-sam.yaml", "yolov8-sam.yaml"])
def test_shipped_yamls_are_found_from_any_folder(name: str, monkeypatch, tmp_path) -> None:
    d = loaded(name, monkeypatch, tmp_path)
    ours = yaml.safe_load((shipped.folder() / "yolov8-sam.yaml").read_text())
    assert d["backbone"] == ours["backbone"]
    assert d["yaml_file"] == name  # exporters write beside what the user typed
    letter = name.split("/")[-1][6]
    assert d["scale"] == (letter if letter in "nsmlx" else "")


@pytest.mark.parametrize("own", ["yolov8-sam.yaml", "yolov8n-sam.yaml"])
def test_a_file_of_the_users_wins(own: str, monkeypatch, tmp_path) -> None:
    write(tmp_path / own, OWN_MODEL)
    assert loaded("yolov8n-sam.yaml", monkeypatch, tmp_path)["nc"] == 3


def test_a_users_file_of_another_scale_is_not_taken(monkeypatch, tmp_path) -> None:
    write(tmp_path / "yolov8s-sam.yaml", OWN_MODEL)
    assert loaded("yolov8n-sam.yaml", monkeypatch, tmp_path)["nc"] != 3


def test_a_digit_and_letter_in_the_folder_does_not_mislead(monkeypatch, tmp_path) -> None:
    write(tmp_path / "exp5s" / "yolov8-mine.yaml", OWN_MODEL)
    d = loaded(str(tmp_path / "exp5s" / "yolov8n-mine.yaml"), monkeypatch, tmp_path)
    assert d["nc"] == 3 and d["scale"] == "n"


def test_stock_names_and_unknown_names_are_ultralytics_business(monkeypatch, tmp_path) -> None:
    assert loaded("yolov8n.yaml", monkeypatch, tmp_path)["nc"] == 80
    with pytest.raises(FileNotFoundError, match="yolov8-nope"):
        loaded("yolov8n-nope.yaml", monkeypatch, tmp_path)


def test_no_shipped_name_hides_a_stock_one() -> None:
    from ultralytics.utils import ROOT

    stock = {p.name for p in (ROOT / "cfg").rglob("*.yaml")}
    assert not stock & {p.name for p in [*shipped.model_yamls(), *shipped.data_yamls()]}


def test_dataset_yamls_are_found_and_the_users_own_wins(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_utils.check_file("shapes.yaml") == str(shipped.folder() / "shapes.yaml")
    (tmp_path / "shapes.yaml").write_text("names: [a]")
    assert data_utils.check_file("shapes.yaml") == "shapes.yaml"
    with pytest.raises(FileNotFoundError):
        data_utils.check_file("no-such-data.yaml")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("yolov8n-hilo-nek.yaml", "yolov8n-hilo-neck.yaml"),
        ("yolov8s-hilo-nek.yaml", "yolov8s-hilo-neck.yaml"),
        ("cfg/yolov8-acmx.yml", "yolov8-acmix.yaml"),
        ("yolov8n-sam", "yolov8n-sam.yaml"),
        ("YOLOv8n_SAM", "yolov8n-sam.yaml"),
        ("yolov8xsam.yaml", "yolov8x-sam.yaml"),
        ("yolo8n-sam.yaml", "yolov8n-sam.yaml"),
    ],
)
def test_a_misspelt_shipped_name_gets_the_right_one(typed: str, meant: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"does not exist. Did you mean {meant}\\?$"):
            YOLO(typed)


@pytest.mark.parametrize("typed", ["yolov8n-nope.yaml", "mine.yaml", "weights", "yolov8n-seg-x.yaml", "yolo11n-foo"])
def test_a_name_unlike_any_shipped_one_keeps_ultralytics_own_message(typed: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as with_patches:
        YOLO(typed)
    patches.undo()
    try:
        with pytest.raises(FileNotFoundError) as without:
            YOLO(typed)
    finally:
        patches.arm()
    assert str(with_patches.value) == str(without.value)


def test_a_suggestion_does_not_come_from_an_earlier_failure(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in ("yolov8s-hilo-nek.yaml", "yolov8-hilo-nek.yaml"):
        with pytest.raises(FileNotFoundError) as error:
            YOLO(typed)
    assert "Did you mean yolov8-hilo-neck.yaml?" in str(error.value)
