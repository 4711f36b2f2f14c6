"""`yolo-attn yaml`: its output, its errors, and its file, which is complete or untouched."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jobs import clean_environment

from yolo_attn import commands
from yolo_attn.commands import yaml as command
from yolo_attn.yamls import build_yaml


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("block=aff base=yolov8-cls", "yolov8-cls has none there (it has no Concat at all)"),
        ("block=aff place=backbone", "none there (it has row 11 (P4), row 14 (P3), row 17 (P4), row 20 (P5))"),
        ("block=aff place=P6", "none there"),
        ("block=aff place=after:9", "name levels"),
        ("block=aff place=sppf", "name levels"),
        ("block=aff place=nekc", "Did you mean neck"),
        ("block=aff carrier=row", "AFF takes several inputs"),
        ("block=hilo carrier=fuse", "blocks that take several: AFF, iAFF"),
        ("block=senet", "Did you mean senetv2"),
    ],
)
def test_a_wrong_fusion_exits_with_2_and_names_the_remedy(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["yaml", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("base=yolov9 block=hilo", "Did you mean yolov9"),
        ("base=nope.yaml block=hilo", "no such file"),
        ("base=yolov8n.pt block=hilo", "holds weights"),
        ("block=hillo", "Did you mean HiLo"),
        ("base=yolov8", "block=… is missing"),
        ("block=hilo place=nekc", "Did you mean neck"),
        ("block=hilo place=P7", "Did you mean P"),
        ("block=hilo place=P6", "yolov8 has no such level; it has backbone P2, P3, P4, P5; neck P3, P4, P5"),
        ("block=sam base=yolo11-cls-resnet18", "has none of its levels"),
        ("block=hilo place=neck base=yolov8-cls", "has no neck"),
        ("block=hilo place=sppf base=yolov8-cls", "none of SPPF"),
        ("block=hilo place=before:22", "reads several maps: after:15 or after:18 or after:21"),
        ("block=hilo place=before:0", "reads the image"),
        ("block=hilo place=after:22", "is not a single map"),
        ("block=hilo place=after:12 base=yolov9e", "is not a single map"),
        ("block=hilo place=after:23", "rows are 0 to 22"),
        ("block=hilo carrier=csp base=yolov5", "the rows there are C3"),
        ("block=hilo carrier=csp place=neck.P5 base=yolov10n", "C2fCIB; carrier=csp is for C2f and C3k2"),
        ("block=hilo carrier=csp place=after:4", "replaces a row"),
        ("block=hilo carrier=cps", "Did you mean csp"),
        ("block=hilo carrier=down", "HiLo keeps height and width"),
        ("block=hilo task=segmet", "Did you mean segment"),
        ("block=hilo task=obb base=yolov8-world", "takes text as input"),
        ("block=hilo task=detect base=yolo12-cls plce=neck", "Did you mean place"),
        ("block=hilo window_sise=2", "Did you mean window_size"),
        ("block=hilo heads=7", "multiple of heads=7"),
        ("block=acmix stride=2", "it cannot change the size"),
        ("block=hilo window_size=[2", "YAML cannot read"),
        ("block=hilo block=sam", "given twice"),
        ("block", "block needs a value: block=…."),
        ("block=hilo out=yolov8n-mine.yaml", "Name the file yolov8-mine.yaml"),
        ("block=hilo out=no-such-folder/mine.yaml", "no-such-folder/mine.yaml: No such file"),
        ("--check block=hilo", "takes no other arguments"),
    ],
)
def test_a_wrong_argument_exits_with_2_and_suggests_a_valid_one(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["yaml", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


def test_the_text_is_the_data_and_starts_with_its_command(tmp_path: Path) -> None:
    made = build_yaml("yolov8", "sk", "P3,sppf", task="pose", kernels=(1, 3), bias=True)
    assert yaml.safe_load(made.text) == made.d
    first = made.text.splitlines()[0].removeprefix("# ")
    assert first == "yolo-attn yaml base=yolov8 block=sk place=P3,sppf task=pose 'kernels=[1,3]' bias=True"
    assert command.generate(first).text == made.text


def test_the_command_prints_a_yaml_and_pipes_add_blocks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert commands.main(["yaml", "base=yolov8", "block=sam", "place=P3", "heads=2"]) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(first))
    assert commands.main(["yaml", "base=-", "block=hilo", "place=P5", f"out={tmp_path / 'two.yaml'}"]) == 0
    text = (tmp_path / "two.yaml").read_text()
    assert yaml.safe_load(text) == build_yaml(build_yaml("yolov8", "sam", "P3", heads=2), "hilo", "P5").d
    assert command.differences([tmp_path / "two.yaml"]) == {}  # its first line makes it again


def test_options_of_a_block_are_read_as_yaml() -> None:
    values = command.COMMAND.parse(
        ["block=hilo", "alpha=1e-1", "window_size=2", "qkv_bias=false", "qk_scale=none", "padding=zero"]
    )
    assert values["rest"] == {"alpha": 0.1, "window_size": 2, "qkv_bias": False, "qk_scale": None, "padding": "zero"}


def test_a_check_names_the_files_that_differ(tmp_path: Path) -> None:
    text = build_yaml("yolov8", "hilo", "P5").text
    good, edited, other = (tmp_path / n for n in ("good.yaml", "edited.yaml", "other.yaml"))
    good.write_text(text + "# a comment\n")
    edited.write_text(text.replace("window_size: 2", "window_size: 1", 1))
    other.write_text("# by hand\n" + text)
    assert set(command.differences([good, edited, other])) == {"edited.yaml", "other.yaml"}


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are those of POSIX")
def test_a_full_disk_leaves_the_existing_file_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("of the user\n")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
    code += "import sys; from yolo_attn import commands; sys.exit(commands.main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, "yaml", "block=hilo", "place=P5", "out=mine.yaml"]
    done = subprocess.run(line, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "yolo-attn yaml: mine.yaml: File too large.\n")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "of the user\n"
