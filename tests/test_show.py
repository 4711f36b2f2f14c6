"""`yolo-attn show`: what it writes, which models and images it takes, and what it says where it cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from chromium import opened, requested
from torch import nn
from ultralytics import YOLO

import yolo_attn
from yolo_attn import commands, registry
from yolo_attn.commands.show import WHAT
from yolo_attn.errors import UsageError
from yolo_attn.inside.analyses import ANALYSES
from yolo_attn.inside.gates import gated
from yolo_attn.inside.inputs import named_images
from yolo_attn.inside.show import Shown, show

EVERYTHING = 1e-9  # score above which a model that was never trained detects something


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YOLOv8n with one SK and an open gate, as a file."""
    folder = tmp_path_factory.mktemp("run")
    yolo_attn.build_yaml("yolov8", "sk", place="backbone.P3").save(folder / "yolov8-one.yaml")
    model = YOLO(folder / "yolov8n-one.yaml")
    for row in gated(model.model).values():
        nn.init.constant_(row.bn.weight, 0.5)
    path = folder / "open.pt"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a<b&c.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def shown(checkpoint: Path, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Path]:
    """Two figures, and the folder with their files."""
    out = tmp_path_factory.mktemp("shown") / "new" / "folder"
    return show(checkpoint, photo, what=("gates", "maps"), out=out, imgsz=64), out


@pytest.fixture(scope="module")
def everything(checkpoint: Path, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Path]:
    """Every figure of a model, and the folder with their files."""
    out = tmp_path_factory.mktemp("everything")
    return show(checkpoint, photo, against=YOLO("yolov8n.yaml"), out=out, imgsz=64, conf=EVERYTHING), out


def test_the_names_of_the_command_are_those_of_the_analyses() -> None:
    assert tuple(ANALYSES) == WHAT


@pytest.mark.slow
def test_without_what_everything_that_applies_is_shown(everything: tuple[Shown, Path]) -> None:
    found, out = everything
    assert list(found.figures) == ["gates", "reach", "spectrum", "kernels", "cam", "maps"]
    assert found.skipped == {
        "rates": "it has no ACmix",
        "modulator": "it has no scale-aware modulation (SAM)",
        "points": "it has no deformable token merging (DTM)",
    }
    assert "it has no ACmix" in (out / "index.html").read_text()


def test_every_figure_is_written_in_three_formats_with_its_numbers_and_caption(shown: tuple[Shown, Path]) -> None:
    found, out = shown
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for name in found.figures:
        for format, start in starts.items():
            assert (out / f"{name}.{format}").read_bytes().startswith(start)
        assert pl.read_csv(out / f"{name}.csv").shape == found.tables[name].shape
        caption = (out / f"{name}.txt").read_text()
        assert "open" in caption and "a<b&c.png" in caption and "64 x 64 pixels" in caption
    texts = [e.text or "" for e in ElementTree.parse(out / "gates.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert any("share of the signal" in t for t in texts)  # text, which an editor can change


def test_the_gallery_holds_every_figure_and_needs_no_other_file(shown: tuple[Shown, Path]) -> None:
    found, out = shown
    text = (out / "index.html").read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,', text)) == len(found.figures)
    assert not re.search(r'(src|href)="?https?:', text) and "<script" not in text
    assert "a&lt;b&amp;c.png" in text and "a<b" not in text


@pytest.mark.slow
def test_the_comparison_has_the_model_the_bypassed_model_and_the_other(everything: tuple[Shown, Path]) -> None:
    found, _ = everything
    for name in ("reach", "cam"):
        assert found.tables[name]["model"].unique(maintain_order=True).to_list() == [
            "open",
            "blocks bypassed",
            "yolov8n",
        ]
    assert found.tables["gates"]["state"].to_list() == ["used"]


@pytest.mark.slow
def test_several_runs_are_shown_together(checkpoint: Path, photo: Path) -> None:
    table = show([checkpoint, YOLO(checkpoint)], photo, what="gates", imgsz=64).tables["gates"]
    assert table["model"].unique(maintain_order=True).to_list() == ["open", "yolov8n-one"]
    assert table.height == 2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seg", "obb", "pose", "cls"])
def test_models_of_every_task_are_shown(task: str, photo: Path) -> None:
    found = show(YOLO(f"yolov8n-sk-{task}.yaml"), photo, what=("gates", "kernels", "maps"), imgsz=64, conf=EVERYTHING)
    assert list(found.figures) == ["gates", "kernels", "maps"]


@pytest.mark.slow
def test_a_fused_model_has_the_same_shares(checkpoint: Path, photo: Path) -> None:
    model = YOLO(checkpoint)
    before = show(model, photo, what="gates", imgsz=64).tables["gates"]["share"]
    after = show(model.model.fuse(verbose=False), photo, what="gates", imgsz=64).tables["gates"]["share"]
    assert after.to_list() == pytest.approx(before.to_list(), rel=1e-3)


@pytest.mark.slow
def test_a_block_of_the_users_own_gets_what_is_not_specific_to_a_paper(photo: Path, tmp_path: Path) -> None:
    @yolo_attn.register("ShownScale", paper="https://example.com", row="ShownScaleRow")
    class Scale(nn.Module):
        def __init__(self, c1: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(c1, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    try:
        yolo_attn.build_yaml("yolov8", "ShownScale", place="P4").save(tmp_path / "yolov8-scale.yaml")
        found = show(YOLO(tmp_path / "yolov8n-scale.yaml"), photo, imgsz=64, conf=EVERYTHING)
        assert list(found.figures) == ["gates", "reach", "spectrum", "cam", "maps"]
    finally:
        for name in ("ShownScale", "ShownScaleRow", "C2fShownScaleRow", "C3k2ShownScaleRow"):
            registry._blocks.pop(name, None)


@pytest.mark.slow
def test_a_model_without_blocks_is_shown_as_far_as_possible(photo: Path) -> None:
    found = show(YOLO("yolov8n.yaml"), photo, imgsz=64, conf=EVERYTHING)
    assert list(found.figures) == ["reach", "cam"]
    assert found.skipped["gates"] == "it has no blocks"
    with pytest.raises(UsageError, match="what=gates does not apply to this model: it has no blocks"):
        show(YOLO("yolov8n.yaml"), photo, what="gates")


def test_where_nothing_is_detected_the_rest_is_shown_and_the_reason_given(checkpoint: Path, photo: Path) -> None:
    with pytest.raises(UsageError, match=r"what=cam: at most 0 objects are detected.*lower conf="):
        show(checkpoint, photo, what="cam", imgsz=64)
    with pytest.raises(UsageError, match=r"what=kernels: nothing is detected.*lower conf="):
        show(checkpoint, photo, what=["kernels"], imgsz=64)


def test_wrong_arguments_are_named_with_the_remedy(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ({"model": "yolov8n-sk.yaml"}, r"has random weights: give weights=best.pt"),
        ({"model": "yolov8n-sk.yaml", "weights": "gone.pt"}, r"weights='gone.pt': no such file"),
        ({"model": "gone.pt"}, r"model='gone.pt': no such file"),
        ({"model": []}, r"model= is empty"),
        ({"model": checkpoint, "what": "gate"}, r"what=gate: no such analysis. Did you mean gates"),
    ):
        with pytest.raises(UsageError, match=message):
            show(source=photo, out=tmp_path / "nothing", **arguments)
    assert not (tmp_path / "nothing").exists()


def test_grey_16_bit_and_huge_images_and_videos_are_read(checkpoint: Path, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), ramp)
    cv2.imwrite(str(tmp_path / "deep.tif"), ramp)
    cv2.imwrite(str(tmp_path / "grey.png"), (ramp // 257).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "huge.png"), np.zeros((64, 9000, 3), np.uint8))
    net = YOLO(checkpoint).model
    found = dict(named_images(net, tmp_path, 9, 64))
    assert set(found) == {"deep.png", "deep.tif", "grey.png", "huge.png"}
    for name in ("deep.png", "deep.tif"):
        torch.testing.assert_close(found[name], found["grey.png"], rtol=0, atol=2 / 255)
    assert found["huge.png"].shape == (1, 3, 32, 64)
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    for k in range(3):
        video.write(np.full((64, 64, 3), 80 * k, np.uint8))
    video.release()
    frames = dict(named_images(net, tmp_path / "v.avi", 2, 64))
    assert list(frames) == ["v.avi", "v.avi frame 2"]


@pytest.mark.slow
def test_the_command_prints_the_numbers_and_where_the_gallery_is(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"model={checkpoint}", f"source={photo}", "what=gates,reach", "imgsz=64", f"out={tmp_path / 'out'}"]
    assert commands.main(["show", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "gates: open: blocks contribute" in printed and printed.strip().endswith(
        str(tmp_path / "out" / "index.html")
    )
    assert commands.main(["show", f"model={checkpoint}", f"source={tmp_path}/none"]) == 2


@pytest.mark.browser
def test_the_gallery_requests_nothing_and_fits_a_phone(everything: tuple[Shown, Path], browser: Any) -> None:
    found, out = everything
    for width in (1400, 390):
        opened(browser, out / "index.html", width)
        script = "return [...document.images].filter(i => i.complete && i.naturalWidth > 0).length"
        assert browser.execute_script(script) == len(found.figures)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
        assert requested(browser) == [(out / "index.html").as_uri()]
