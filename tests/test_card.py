"""`yolo-attn card`, and what stock Ultralytics reports about a checkpoint with our blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jobs import python
from ultralytics.nn.tasks import DetectionModel

import yolo_attn
from yolo_attn import commands
from yolo_attn.card import card
from yolo_attn.errors import UsageError

#: A finder that hides the package from an interpreter, as if it were not installed.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "yolo_attn":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from ultralytics import YOLO
YOLO(sys.argv[1])
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with the files that a training of two epochs leaves."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "weights").mkdir()
    model = DetectionModel("yolov8n-sam.yaml", nc=2, verbose=False)
    model.names = {0: "cat", 1: "dog"}
    arguments = {"task": "detect", "data": "/home/me/pets.yaml", "epochs": 2, "seed": 7, "pretrained": True}
    checkpoint = {"model": model.half(), "train_args": arguments, "date": "2026-11-20T10:00:00", "version": "8.4.190"}
    torch.save(checkpoint, folder / "weights" / "best.pt")
    (folder / "results.csv").write_text("epoch, metrics/mAP50(B)\n1, 0.25\n2, 0.5\n")
    (folder / "gates.csv").write_text("epoch,5 SAM,8 SAM\n1,0.01,0.02\n2,0.06,0.11\n")
    return folder


def test_the_card_has_what_a_reader_needs(trained: Path) -> None:
    text = card(trained)
    assert text.startswith("# yolov8n-sam\n") and "* Classes (2): cat, dog\n" in text
    assert "`pets.yaml`" in text and "/home/me" not in text and "epochs=2, seed=7, pretrained=True" in text
    assert "| mAP50(B) | 0.5000 |" in text and "one training (seed 7)" in text
    assert "https://arxiv.org/abs/2307.08579" in text and "contribute 6.0% to 11.0% of the signal" in text
    assert f'pip install "yolo-attn>={yolo_attn.__version__}" ultralytics==8.4.190\n' in text
    assert "AGPL-3.0" in text and "author's module" not in text


def test_metrics_of_the_checkpoint_come_before_those_of_the_last_epoch(trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "weights" / "best.pt", weights_only=False)
    torch.save({**checkpoint, "train_metrics": {"metrics/mAP50(B)": 0.625, "fitness": 0.1}}, tmp_path / "best.pt")
    text = card(tmp_path / "best.pt")
    assert "| mAP50(B) | 0.6250 |" in text and "fitness" not in text


def test_an_existing_readme_is_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["card", f"run={trained}"]) == 0
    before = (trained / "README.md").read_text(encoding="utf-8")
    assert commands.main(["card", str(trained)]) == 2 and "exists already" in capsys.readouterr().err
    assert (trained / "README.md").read_text(encoding="utf-8") == before == card(trained)


@pytest.mark.parametrize("content", [None, {"model": {}}])
def test_a_folder_without_a_training_is_an_error(content: object, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    if content is not None:
        torch.save(content, tmp_path / "weights" / "best.pt")
    with pytest.raises(UsageError, match=r"there is no weights/best\.pt|is no checkpoint"):
        card(tmp_path)


@pytest.mark.slow
def test_without_the_package_ultralytics_names_it(trained: Path, tmp_path: Path) -> None:
    arguments = (HIDDEN, str(trained / "weights" / "best.pt"))
    text = python(*arguments, cwd=tmp_path, ok=False, YOLO_ATTN_AUTOLOAD="0")
    assert "'yolo_attn'" in text.splitlines()[-1]
