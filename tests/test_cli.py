"""The `yolo-attn` command: its table of commands, its help, its exit codes, and its behaviour in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jobs import clean_environment

import yolo_attn
from yolo_attn import commands, registry
from yolo_attn.errors import UsageError
from yolo_attn.yamls import shipped_costs as costs


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"yolo-attn {command} " in text for command in commands.COMMANDS)


@pytest.mark.parametrize("command", commands.COMMANDS)
@pytest.mark.parametrize("help", ["help", "--help"])
def test_every_command_prints_its_help(command: str, help: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([*command.split(), help]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: yolo-attn") and f"yolo-attn {command}" in text


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "help"], ["help", "bench"]])
def test_the_beginning_of_several_commands_lists_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(arguments) == 0
    text = capsys.readouterr().out
    assert "yolo-attn bench blocks " in text and "yolo-attn doctor" not in text.partition("`")[0]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == yolo_attn.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "no command 'lst'. Did you mean list?"),
        (["bench", "blcks"], "no command 'blcks'. Did you mean blocks, places?"),
        (["list", "fromat=markdown"], "Did you mean format?"),
        (["list", "format=html"], "format=html: no such format."),
        (["list", "format"], "format needs a value: format=…."),
        (["list", "markdown"], "Did you mean format=markdown?"),
        (["doctor", "verbose=1"], "no argument 'verbose'. It takes: json"),
    ],
)
def test_a_wrong_argument_exits_with_2_and_suggests_a_valid_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `yolo-attn doctor` raise an error."""

    def run(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("yolo_attn.commands.doctor.COMMAND", run)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("the value is wrong."), 2, "yolo-attn doctor: the value is wrong.\n"),
        (OSError(28, "No space left on device", "out.csv"), 2, "yolo-attn doctor: out.csv: No space left on device.\n"),
        (OSError(28, "No space left on device"), 2, "yolo-attn doctor: No space left on device.\n"),
        (KeyboardInterrupt(), 130, "yolo-attn doctor: interrupted.\n"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_errors_of_the_user_and_of_files_are_one_line(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(error, monkeypatch)
    assert commands.main(["doctor"]) == code
    assert capsys.readouterr().err == message


def test_an_error_of_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ValueError("a mistake in the code"), monkeypatch)
    with pytest.raises(ValueError, match="a mistake in the code"):
        commands.main(["doctor"])


def test_a_reader_that_closes_the_pipe_early_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from yolo_attn import commands; commands.COMMANDS['flood'] = ('flood:main', '')\n"
    code += "sys.exit(commands.main(['flood']))"
    (tmp_path / "flood.py").write_text(
        "def main(arguments):\n    for _ in range(100000):\n        print('x' * 80)\n    return 0\n"
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


def test_the_list_has_every_operator_with_its_rows_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["list"]) == 0
    text = capsys.readouterr().out
    for block in registry.operators():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{block.name} "))
        assert f"C2f{registry.carrier(block.cls, 'row').name}" in line and block.paper in line
    sam = costs.read()["yolov8-sam.yaml"]
    (line,) = (line for line in text.splitlines() if line.startswith("ScaleAwareModulation "))
    assert "yolov8-sam.yaml" in line and f"{sam.gflops:.1f} (" in line
    assert f"{sam.parameters / 1e6:.2f} M (+7.2%)" in line


def test_the_list_can_be_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["list", "format=markdown"]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in (header, rule, *rows)} == {7}
    assert header.startswith("| operator | rows |") and set(rule) == {"|", "-"}


def test_the_list_builds_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.nn import tasks

    monkeypatch.setattr(tasks, "parse_model", None)
    assert commands.main(["list"]) == 0
