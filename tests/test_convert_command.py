"""`yolo-attn convert` and the checkpoint that it writes: complete or untouched, and the same as the authors' file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import python, short, tiny_dataset, yolo
from official_files import CLASSIFIERS, golden, mini_model, official, random_state, swin_style, write
from ultralytics import YOLO
from ultralytics.nn import tasks
from yolo_attn.patches import safe_load

from yolo_attn import commands
from yolo_attn.loading import transfer
from yolo_attn.weights import checkpoints


def converted(folder: Path, block: str = "smt_model") -> Path:
    write(folder / "official.pth", swin_style(golden(block)[0]))
    assert commands.main(["convert", f"weights={folder / 'official.pth'}", f"out={folder / 'official-yolo.pt'}"]) == 0
    return folder / "official-yolo.pt"


# --- the converted checkpoint ---


@pytest.mark.parametrize("block", CLASSIFIERS)
@pytest.mark.parametrize("restricted", [False, True], ids=["usual", "restricted"])
def test_a_converted_file_does_what_the_authors_does(
    block: str, restricted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SAFE_LOAD", restricted, raising=False)
    path = converted(tmp_path, block)
    direct = mini_model(tmp_path, block).load(tmp_path / "official.pth").model.model[0].state_dict()
    through = mini_model(tmp_path, block).load(path).model.model[0].state_dict()
    assert all(torch.equal(through[k], v) for k, v in direct.items())
    report = transfer(mini_model(tmp_path, block), path, verbose=False)
    assert [r.index for r in report.rows if r.carried] == [0] and report.carried == report.total


def test_training_from_a_converted_file_alone_builds_its_model(tmp_path: Path) -> None:
    state = random_state(official("cloformer", "xs"))
    write(tmp_path / "clo.pth", {"model": state})
    checkpoints.read(tmp_path / "clo.pth").save(tmp_path / "clo-yolo.pt")
    weights = YOLO(tmp_path / "clo-yolo.pt")
    assert weights.task == "detect" and weights.model.yaml["yaml_file"] == "yolov8s-cloformer.yaml"
    model = tasks.DetectionModel(weights.model.yaml, nc=3, verbose=False)  # as the trainer does
    assert transfer(model, weights, verbose=False).carried == len(weights.model.state_dict())
    with pytest.raises(RuntimeError, match=r"backbone of CloFormer-XS only.*model=yolov8s-cloformer\.yaml pretrained="):
        weights.model(torch.rand(1, 3, 64, 64))


def test_a_custom_size_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    weights = YOLO(converted(tmp_path))
    model = tasks.DetectionModel(weights.model.yaml, nc=3, verbose=False)
    assert model.model[0].network.channels == (16, 24, 32, 48)
    assert transfer(model, weights, verbose=False).carried == len(weights.model.state_dict())


# --- writing it ---


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes as POSIX has them")
@pytest.mark.parametrize("existing", [b"before", None])
def test_a_full_disk_leaves_the_old_file_and_says_so(existing: bytes | None, tmp_path: Path) -> None:
    path, out = write(tmp_path / "w.pth", {"model": golden("clo_model")[0]}), tmp_path / "out.pt"
    if existing:
        out.write_bytes(existing)
    code = """
import resource, sys
from yolo_attn import commands
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(commands.main(["convert", f"weights={sys.argv[1]}", f"out={sys.argv[2]}"]))
"""
    text = python(code, path, out, cwd=tmp_path, ok=False)
    assert f"{out}: File too large" in text and "Traceback" not in text
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")} == ({"out.pt": existing} if existing else {})
    assert not list(tmp_path.glob(".*.part*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_conversion_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    import subprocess
    import sys

    path, out = write(tmp_path / "w.pth", {"model": random_state(official("cloformer", "xxs"))}), tmp_path / "out.pt"
    out.write_bytes(b"before")
    code = """
import os, sys
from yolo_attn import atomic, commands
original = os.fsync
def die(handle):
    os.kill(os.getpid(), 9)
os.fsync = die
commands.main(["convert", f"weights={sys.argv[1]}", f"out={sys.argv[2]}"])
"""
    assert subprocess.run([sys.executable, "-c", code, path, out], capture_output=True).returncode == -9
    assert out.read_bytes() == b"before" and len(list(tmp_path.glob(".out-*.part.pt"))) == 1
    assert commands.main(["convert", f"weights={path}", f"out={out}"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.pt", "w.pth"]
    assert YOLO(out).model.yaml["yaml_file"] == "yolov8n-cloformer.yaml"


# --- the command ---


def test_the_command_prints_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "litv2_s.pth", swin_style(random_state(official("litv2", "s"))))
    assert commands.main(["convert", f"weights={tmp_path / 'litv2_s.pth'}"]) == 0
    text = capsys.readouterr().out
    assert "LITv2-S, 27,076,152 parameters without the classifier" in text
    assert "under 'model'" in text and "config (yacs.config.CfgNode)" in text
    assert "head.weight" in text and "norm1.weight" in text and "warning" not in text
    assert "fits       yolov8n-litv2.yaml yolov8s-litv2.yaml" in text
    assert [p.name for p in tmp_path.iterdir()] == ["litv2_s.pth"]


def test_the_command_warns_of_nan(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = {k: v / 0 if k == "norm.bias" else v for k, v in golden("clo_model")[0].items()}
    write(tmp_path / "w.pth", {"model": state})
    assert commands.main(["convert", f"weights={tmp_path / 'w.pth'}"]) == 0
    assert "warning    NaN or infinite numbers in norm.bias" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "weights="),
        (["weights=none.pth"], "none.pth: No such file"),
        (["weight=x.pth"], "no argument 'weight'. Did you mean weights"),
        (["weights=w.pth", "out=w.onnx"], "end in .pt, such as w.pt"),
        (["weights=w.pth", "out=nowhere/w.pt"], "no folder nowhere"),
        (["weights=w.pt", "out=w.pt"], "is the file to be converted"),
        (["weights=w.pth", "out=folder.pt"], "folder.pt: Is a directory"),
        (["weights=."], "Is a directory; name the checkpoint file in it"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_is_wrong(
    arguments: list, message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pt").mkdir()
    for name in ("w.pth", "w.pt"):
        write(tmp_path / name, {"model": golden("clo_model")[0]})
    assert commands.main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err


# --- through Ultralytics ---


def test_stock_checkpoints_take_the_stock_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "load", lambda path: pytest.fail(f"{path} is not ours to read"))
    torch.save({"model": tasks.DetectionModel("yolov8n.yaml", verbose=False)}, tmp_path / "best.pt")
    tasks.load_checkpoint(tmp_path / "best.pt")
    assert safe_load.RELEASED == (".pth", ".pth.tar")


@pytest.mark.slow
def test_plain_yolo_trains_from_the_authors_file(tmp_path: Path) -> None:
    mini_model(tmp_path, "smt_model")
    write(tmp_path / "smt_mini.pth", swin_style(golden("smt_model")[0]))
    arguments = ("train", "model=yolov8n-mini-smt.yaml", f"data={tiny_dataset(tmp_path)}", "pretrained=smt_mini.pth")
    text = yolo(*arguments, *short(tmp_path), "lr0=0", "warmup_bias_lr=0", "optimizer=SGD", cwd=tmp_path)
    assert "165/165 items of smt_mini.pth transferred" in text
    trained = tasks.load_checkpoint(tmp_path / "t" / "weights" / "last.pt")[0].model[0].state_dict()
    row = checkpoints.read(tmp_path / "smt_mini.pth").found.row.state_dict()
    same = [torch.equal(trained[k], v.half().float()) for k, v in row.items() if k.endswith("proj.weight")]
    assert all(same) and len(same) > 5
