"""The key=value parser: values, help texts, and the message for each typical mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yolo_attn.commands.parser import (
    PATH,
    SWITCH,
    Argument,
    Command,
    Rest,
    UsageError,
    names,
    number,
    whole,
)

COMMAND = Command(
    "try",
    "Tries the parser.",
    lambda **values: len(values),
    Argument("block", "a block", required=True, choices=("cbam", "hilo", "sam")),
    Argument("places", "where", names, default=("neck",), choices=("backbone", "neck")),
    Argument("train", "number of images", whole(1), default=400),
    Argument("rate", "learning rate", number(above=0)),
    Argument("check", "compare only", SWITCH, default=False),
    Argument("out", "a file", PATH),
    notes="An example:\n\n  yolo-attn try block=sam",
)
FOLDER = Command(
    "status", "A folder.", lambda **_: 0, Argument("folder", "a folder", PATH, required=True, positional=True)
)
OPTIONS = Command(
    "options",
    "Takes the options of a block.",
    lambda **_: 0,
    Argument("block", "a block", required=True),
    rest=Rest(
        "Options of the block.", lambda values: {"sam": ["heads", "ratio"]}[values["block"]], refused={"seed": "no"}
    ),
)


def test_values_have_their_types_and_missing_ones_their_defaults() -> None:
    assert COMMAND.parse(["block=sam", "places=neck,backbone", "rate=1e-3", "out=a=b.yaml"]) == {
        "block": "sam",
        "places": ("neck", "backbone"),
        "train": 400,
        "rate": 0.001,
        "check": False,
        "out": Path("a=b.yaml"),
    }


@pytest.mark.parametrize("argument", ["check", "--check", "check=1", "--check=true"])
def test_a_switch_needs_no_value(argument: str) -> None:
    assert COMMAND.parse([argument, "block=sam"])["check"] is True


@pytest.mark.parametrize("folder", ["runs/lr=0.1", "./x", "detect"])
def test_a_positional_value_needs_no_name(folder: str) -> None:
    assert FOLDER.parse([folder]) == FOLDER.parse([f"folder={folder}"]) == {"folder": Path(folder)}


def test_further_arguments_are_kept_apart() -> None:
    assert OPTIONS.parse(["heads=4", "block=sam"]) == {"block": "sam", "rest": {"heads": "4"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--block cbam", "block needs a value: block=cbam."),
        ("--block", "block needs a value: block=…."),
        ("block", "block needs a value: block=…."),
        ("block=", "block needs a value: block=…."),
        ("block = cbam", "write block=cbam, without spaces around '='."),
        ("block= cbam", "write block=cbam, without spaces around '='."),
        ("block =cbam", "write block=cbam, without spaces around '='."),
        ("train=1 --block = cbam", "write block=cbam, without spaces around '='."),
        ("block= train=1", "block needs a value: block=…."),
        ("cbam", "'cbam' is not name=value. Did you mean block=cbam?"),
        ("blok", "'blok' is not name=value. Did you mean block?"),
        ("=cbam", "'=cbam' is not name=value."),
        ("block=cbam,sam", "block=cbam,sam: one value is expected here, not several."),
        ("block=cban", "block=cban: no such block. Did you mean cbam?"),
        ("block=sam place=neck", "no argument 'place'. Did you mean places"),
        ("block=sam block=hilo", "'block' is given twice: 'sam' and 'hilo'."),
        ("block=sam --block=sam", "'block' is given twice: 'sam' and 'sam'."),
        ("train=5", "block=… is missing: a block."),
        ("block=sam train=0", "train=0 must be a whole number of at least 1."),
        ("block=sam train=1.5", "train=1.5 must be a whole number of at least 1."),
        ("block=sam rate=0", "rate=0 must be a number above 0."),
        ("block=sam rate=nan", "rate=nan must be a number above 0."),
        ("block=sam rate=fast", "rate=fast must be a number above 0."),
        ("block=sam check=maybe", "check=maybe must be 0 or 1."),
        ("block=sam places=neck,,backbone", "places=neck,,backbone has an empty name between its commas."),
        ("block=sam places=neck,neck", "places=neck,neck names 'neck' twice."),
        ("block=sam places=nek", "places=nek: no such places. Did you mean neck?"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(line: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        COMMAND.parse(line.split())
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("block=sam haeds=4", "no argument 'haeds'. Did you mean heads? It takes: block, heads, ratio."),
        ("block=sam seed=1", "seed= is not for this command: no."),
        ("block=sam heads", "'heads' is not name=value."),
    ],
)
def test_further_arguments_are_checked_by_name(line: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        OPTIONS.parse(line.split())
    assert message in str(raised.value)


@pytest.mark.parametrize("line", [["help"], ["-h"], ["block=sam", "--help"]])
def test_help_is_printed_from_the_declaration(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND(line) == 0
    assert capsys.readouterr().out == (
        "usage: yolo-attn try block=NAME [name=value ...]\n"
        "\n"
        "Tries the parser.\n"
        "\n"
        "  block=NAME       a block; one of cbam, hilo, sam; required\n"
        "  places=NAME,...  where; out of backbone, neck; default neck\n"
        "  train=N          number of images; default 400\n"
        "  rate=X           learning rate\n"
        "  check=0|1        compare only; default 0\n"
        "  out=PATH         a file\n"
        "\n"
        "An example:\n"
        "\n"
        "  yolo-attn try block=sam\n"
    )


def test_calling_a_command_runs_it_with_the_values() -> None:
    values: dict[str, Any] = {}
    command = Command("x", "", lambda **given: values.update(given) or 3, Argument("size", "", whole()))
    assert command(["size=0"]) == 3
    assert values == {"size": 0}


def test_a_command_may_receive_the_command_line_as_typed() -> None:
    values: dict[str, Any] = {}
    command = Command("x y", "", lambda **given: values.update(given) or 0, Argument("name", ""), typed=True)
    command(["name=a b"])
    assert values == {"name": "a b", "command": "yolo-attn x y 'name=a b'"}


@pytest.mark.parametrize("value", ["0", "7", "+7", "٣", "1e3", ""])
def test_whole_numbers_are_ascii_digits(value: str) -> None:
    if value.isascii() and value.isdigit():
        assert whole().read(value) == int(value)
    else:
        with pytest.raises(ValueError, match="must be a whole number of at least 0"):
            whole().read(value)
