"""`yolo-attn compare`: its scores against Ultralytics' and pycocotools', what it writes, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
import yaml
from chromium import opened, requested
from fabricated_predictions import fabricate, untrained
from jobs import tiny_dataset
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator

from yolo_attn import commands, compare
from yolo_attn.comparison.compare import Compared
from yolo_attn.comparison.entries import read_entries
from yolo_attn.errors import UsageError

NAMES = ["models", "classes", "sizes", "curves", "confusion", "errors", "images"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with 12 validation images."""
    return tiny_dataset(tmp_path_factory.mktemp("data"), train=1, val=12)


@pytest.fixture(scope="module")
def folder(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stock.pt, sk.pt and sk1.pt, which were never trained."""
    folder = tmp_path_factory.mktemp("a&b")
    untrained(folder, "stock", data)
    for seed, name in enumerate(("sk", "sk1")):
        untrained(folder, name, data, "yolov8n-sk.yaml", seed)
    return folder


@pytest.fixture(scope="module")
def predicting() -> Iterator[None]:
    """Validations have predictions that are right to some extent."""
    with pytest.MonkeyPatch.context() as patch:
        fabricate(patch)
        yield


@pytest.fixture(scope="module")
def compared(folder: Path, data: str, predicting: None) -> Compared:
    models = {"stock": folder / "stock.pt", "sk": [folder / "sk.pt", folder / "sk1.pt"]}
    return compare(models, data, imgsz=96, seconds=0, images=2)


@pytest.fixture(scope="module")
def written(compared: Compared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "new"
    compared.write(out)
    return out


@pytest.fixture(scope="module")
def validator(folder: Path, data: str, predicting: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ultralytics' validator after `yolo val` of stock.pt, with its predictions."""
    model, seen = YOLO(folder / "stock.pt"), {}
    model.add_callback("on_val_end", lambda v: seen.update(validator=v))
    out = str(tmp_path_factory.mktemp("val"))
    with mock.patch.object(DetectionValidator, "eval_json", lambda self, stats: stats):
        model.val(data=data, imgsz=96, save_json=True, plots=False, verbose=False, project=out, device="cpu")
    return seen["validator"]


def test_scores_are_those_of_a_validation_by_ultralytics(compared: Compared, validator: Any) -> None:
    box = validator.metrics.box
    stock = compared.runs.row(0, named=True)
    wanted = {"P": box.mp, "R": box.mr, "mAP50": box.map50, "mAP75": box.map75, "mAP50-95": box.map}
    assert {key: stock[key] for key in wanted} == pytest.approx(wanted)
    assert 0.2 < stock["mAP50"] < 1  # the predictions are neither useless nor perfect
    classes = compared.tables["classes"].filter(pl.col("model") == "stock")
    assert classes["mAP75"].to_list() == pytest.approx(box.all_ap[:, 5].tolist())
    assert classes["objects"].to_list() == [int(n) for n in validator.metrics.nt_per_class if n]


def test_scores_by_size_are_those_of_pycocotools(compared: Compared, validator: Any, data: str) -> None:
    root = Path(yaml.safe_load(Path(data).read_text())["path"])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file in sorted((root / "images" / "val").iterdir()):
        with Image.open(file) as image:
            width, height = image.size
        images.append({"id": int(file.stem) if file.stem.isnumeric() else file.stem})
        for line in (root / "labels" / "val" / f"{file.stem}.txt").read_text().splitlines():
            c, x, y, w, h = map(float, line.split())
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            made = {"id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": int(c) + 1, "iscrowd": 0}
            annotations.append({**made, "bbox": box, "area": box[2] * box[3]})
    truth = COCO()
    categories = [{"id": c} for c in sorted({a["category_id"] for a in annotations})]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    truth.createIndex()
    judge = COCOeval(truth, truth.loadRes(validator.jdict), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    stock = compared.runs.row(0, named=True)
    for key, value in zip(("APs", "APm", "APl"), judge.stats[3:6], strict=True):
        assert stock[key] == (None if value == -1 else pytest.approx(value)), key
    assert stock["mAP50-95"] == pytest.approx(judge.stats[0], abs=0.02)  # Ultralytics integrates differently
    assert stock["mAP75"] == pytest.approx(judge.stats[2], abs=0.03)


def test_seeds_of_a_model_are_averaged(compared: Compared) -> None:
    sk = compared.runs.filter(pl.col("model") == "sk")
    line = compared.tables["models"].row(1, named=True)
    assert sk["seed"].to_list() == [0, 1] and line["runs"] == 2
    assert "sk against stock: no interval (one seed" in compared.headlines["models"]
    assert line["mAP50"] == pytest.approx(np.mean(sk["mAP50"].to_list()))
    assert line["mAP50 sd"] == pytest.approx(np.std(sk["mAP50"].to_list(), ddof=1))
    assert compared.tables["models"].row(0, named=True)["mAP50 sd"] is None


def test_costs_are_those_of_the_trained_models(compared: Compared, folder: Path) -> None:
    stock, sk = compared.tables["models"].iter_rows(named=True)
    assert stock["parameters"] == sum(p.numel() for p in YOLO(folder / "stock.pt").model.parameters())
    assert sk["parameters"] > stock["parameters"] and sk["gflops"] > stock["gflops"]
    assert stock["fps"] == pytest.approx(1000 / stock["latency_ms"])


def test_the_table_for_a_paper_marks_the_best_and_the_citations_are_those_of_the_blocks(compared: Compared) -> None:
    rows = [r.removesuffix(r" \\").split(" & ") for r in compared.paper.splitlines() if r.startswith(("stock", "sk"))]
    (stock, sk), best = rows, max(compared.tables["models"]["mAP50"].to_list())
    assert len(stock) == len(sk) == 12 and all("$\\pm$" in cell for cell in sk[1:6])
    assert [cell.startswith(r"\textbf") for cell in (stock[3], sk[3])] == [
        value == best for value in compared.tables["models"]["mAP50"].to_list()
    ]
    assert stock[8] == sk[8] == "--"  # there is no large object
    assert stock[9].startswith(r"\textbf") and not sk[9].startswith(r"\textbf")  # parameters: the fewer
    assert compared.bibtex.count("@") == 1 and "Selective Kernel" in compared.bibtex


def test_gained_and_lost_objects_are_counted_against_the_first_model(compared: Compared) -> None:
    lines = compared.outcomes
    labels = {(m, i): r + x for i, m, r, x in lines.select("image", "model", "right", "missed").iter_rows()}
    assert all(labels["stock", image] == labels["sk", image] for _, image in labels)
    total = lines.group_by("model").agg(pl.col("right", "gained", "lost").sum())
    of = {row["model"]: row for row in total.iter_rows(named=True)}
    assert of["sk"]["right"] == of["stock"]["right"] + of["sk"]["gained"] - of["sk"]["lost"]
    assert of["sk"]["gained"] + of["sk"]["lost"] > 0


@pytest.mark.slow
def test_everything_is_written_and_the_page_needs_no_other_file(compared: Compared, written: Path) -> None:
    for name in NAMES:
        for suffix, start in {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}.items():
            assert (written / f"{name}.{suffix}").read_bytes().startswith(start)
        assert pl.read_csv(written / f"{name}.csv").shape == compared.tables[name].shape
    for name in ("runs.csv", "outcomes.csv", "paper.tex", "blocks.bib"):
        assert (written / name).stat().st_size
    page = (written / "index.html").read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == len(NAMES)
    assert not re.search(r'(src|href)="?https?:', page) and "a&b" not in page and "a&amp;b" in page


@pytest.mark.slow
@pytest.mark.parametrize(("task", "base"), [("segment", "yolov8n-seg.yaml"), ("pose", "yolov8n-pose.yaml")])
def test_boxes_of_other_tasks_are_compared_also_of_models_that_find_nothing(
    task: str, base: str, tmp_path: Path
) -> None:
    of_task = tiny_dataset(tmp_path, task, train=1, val=2)
    models = [untrained(tmp_path, name, of_task, base, seed) for seed, name in enumerate("ab")]
    found = compare(models, of_task, imgsz=96, seconds=0)
    assert found.runs["mAP50"].to_list() == pytest.approx([0, 0], abs=0.01)
    assert set(found.figures) | set(found.skipped) == set(NAMES)
    if task == "pose":
        spec = yaml.safe_load(Path(of_task).read_text())
        other = tmp_path / "points.yaml"
        other.write_text(yaml.safe_dump({**spec, "kpt_shape": [9, 2]}))
        with pytest.raises(UsageError, match=r"has kpt_shape \[9, 2\], the models"):
            compare(models, other, imgsz=96)


@pytest.mark.slow
def test_the_command_prints_the_numbers_and_where_the_page_is(
    folder: Path, data: str, tmp_path: Path, predicting: None, capsys: pytest.CaptureFixture[str]
) -> None:
    models = f"models=sk={folder / 'sk.pt'}+{folder / 'sk1.pt'},{folder / 'stock.pt'}"
    out = tmp_path / "out"
    assert commands.main(["compare", models, f"data={data}", f"out={out}", "imgsz=96"]) == 0
    printed = capsys.readouterr().out
    assert "stock against sk: " in printed and printed.endswith(f"{out / 'index.html'}\n")


@pytest.mark.browser
def test_the_page_requests_nothing_and_fits_a_phone(written: Path, browser: Any) -> None:
    for width in (1400, 390):
        opened(browser, written / "index.html", width)
        script = "return [...document.images].filter(i => i.complete && i.naturalWidth > 0).length"
        assert browser.execute_script(script) == len(NAMES)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
        assert requested(browser) == [(written / "index.html").as_uri()]


def test_models_are_named_by_their_files_or_as_given(folder: Path) -> None:
    stock, sk, sk1 = (folder / f"{name}.pt" for name in ("stock", "sk", "sk1"))
    found = read_entries([str(stock), f"mine={sk}+{sk1}"])
    assert [(e.name, e.files, e.seeds) for e in found] == [("stock", (stock,), [0]), ("mine", (sk, sk1), [0, 1])]


def test_wrong_arguments_are_named_with_the_remedy(folder: Path, data: str, tmp_path: Path) -> None:
    stock, sk = folder / "stock.pt", folder / "sk.pt"
    (tmp_path / "text.pt").write_text("text")
    (tmp_path / "file").touch()
    spec = yaml.safe_load(Path(data).read_text())
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(yaml.safe_dump({**spec, "names": dict(enumerate(reversed(spec["names"].values())))}))
    gone = tmp_path / "gone.yaml"
    gone.write_text(yaml.safe_dump({**spec, "test": "images/none"}))
    other = untrained(tmp_path, "other", str(swapped))
    segments = untrained(tmp_path, "segments", data, "yolov8n-seg.yaml")
    oriented = untrained(tmp_path, "oriented", data, "yolov8n-obb.yaml")
    pair: list[Any] = [stock, sk]
    for models, arguments, message in (
        ([stock], {}, r"models=stock: a comparison needs two models"),
        ([], {}, r"needs two models"),
        ({"a": stock, "b": []}, {}, r"models=b: it has no checkpoint"),
        ([stock, tmp_path / "gone.pt"], {}, r"models=.*gone\.pt: no such file\. Give checkpoints"),
        ([stock, "yolov8n.yaml"], {}, r"models=yolov8n\.yaml: not a checkpoint"),
        ([stock, tmp_path / "text.pt"], {}, r"models=.*text\.pt: it is no checkpoint of Ultralytics"),
        ([stock, str(stock)], {}, r"another model is called stock, too\. Give names: models=a="),
        ([stock, other], {}, r"other\.pt has other classes .*the first that differs is"),
        ([stock, segments], {}, r"segments\.pt is for segment, .*stock\.pt for detect; compare models of one task"),
        ([oriented, stock], {}, r"its task is obb; models for detect, segment, pose can be compared"),
        (pair, {"data": "gone.yaml"}, r"data=gone\.yaml: "),
        (pair, {"split": "test"}, r"has no test split; it has train, val\. Choose one with split="),
        (pair, {"data": str(gone), "split": "test"}, r"its test split is .*none, which does not exist"),
        (pair, {"data": str(swapped)}, r"data=.* has the classes .*Use the models' dataset"),
        (pair, {"device": "cuda:99"}, r"device=cuda:99: "),
        (pair, {"out": tmp_path / "file"}, r"out=.*file: a file of this name exists"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(models, **{"data": data, "out": tmp_path / "nothing", **arguments})
    assert not (tmp_path / "nothing").exists()
