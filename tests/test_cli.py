"""The `yolo-attn` command: usage, wrong words, and its manners in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jobs import clean_environment

import yolo_attn
from yolo_attn import commands
from yolo_attn.commands import doctor


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"yolo-attn {command} " in text for command in commands.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == yolo_attn.__version__


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lst"], "Did you mean list?"),
        (["list", "fromat=markdown"], "Did you mean format?"),
        (["list", "format=html"], "Choices: text, markdown"),
        (["list", "format"], "needs a value"),
        (["doctor", "verbose=1"], "takes no arguments"),
        (["shapes", "task=detct"], "detect"),
        (["shapes", "task=detect", "task=pose"], "given twice"),
    ],
)
def test_wrong_words_exit_with_2_and_name_the_right_one(words, says, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(words) == 2
    captured = capsys.readouterr()
    assert says in captured.err and not captured.out


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from yolo_attn import commands; commands.COMMANDS['flood'] = ('flood:main', '')\n"
    code += "sys.exit(commands.main(['flood']))"
    (tmp_path / "flood.py").write_text(
        "def main(words):\n    for _ in range(100000):\n        print('x' * 80)\n    return 0\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(60) == 0 and child.stderr.read() == ""


@pytest.mark.parametrize(
    ("release", "levels"),
    [("8.3.199", ["FAIL", "note"]), ("8.3.253", ["note"]), ("8.4.60", ["warn", "note"]), ("8.4.190", [])],
)
def test_the_doctor_knows_the_releases(release: str, levels: list[str]) -> None:
    found = doctor.release_findings(release)
    assert [f.level for f in found] == levels
    assert all(f.remedy for f in found)


def test_the_doctor_finds_the_plugin_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_AUTOLOAD", "0")
    (finding,) = [f for f in doctor.examine() if f.level == "FAIL"]
    assert "does not load the plugin" in finding.text and finding.remedy == "unset YOLO_ATTN_AUTOLOAD"


def test_the_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.COMMAND([]) == 0
    assert capsys.readouterr().out.rstrip().endswith("healthy")
