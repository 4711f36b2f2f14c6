"""The command line of every `yolo-attn` command: `key=value` arguments, declared once.

A command's module declares its arguments; parsing, checks, suggestions and the help text follow from the declaration:

    from .parser import Argument, Command, names, whole

    def run(task: str, train: int, dir: Path | None) -> int:
        ...
        return 0

    COMMAND = Command(
        "shapes",
        "Generate the built-in dataset.",
        run,
        Argument("task", "which labels to write", default="detect", choices=("detect", "segment")),
        Argument("train", "number of training images", whole(1), default=400),
        Argument("dir", "folder of the dataset; by default in Ultralytics' datasets_dir", PATH),
        notes="One paragraph more, after the arguments.",
    )

`COMMAND(["task=segment"])` calls `run(task="segment", train=400, dir=None)` and returns its exit code;
`COMMAND(["help"])` prints the help text. `COMMAND.parse([...])` returns the values as a dict. One line in
`commands.COMMANDS` makes the command known; its module is imported when the command runs.

* An argument without `default` has the value None when it is not given; `required=True` makes it mandatory.
* `type` is one of `TEXT` (the default), `PATH`, `SWITCH` (0 or 1; the name alone means 1), `whole(least)`,
  `number(above)`, `names` (a tuple of names between commas), or a `Type` of your own: a placeholder for the help text
  and a function from text to a value that raises ValueError("must be ...").
* `choices` are the valid values, or a function that returns them. With `names`, each name must be one of them.
* `positional=True`: the value may be given without its name (`bench status runs/x`).
* `rest=Rest(...)`: names that are known only at run time, such as the options of a block or the arguments of
  `yolo train`; `run` receives them as `rest`, a dict.

Wrong input raises `UsageError`. Code below `commands/` raises `yolo_attn.errors.UsageError` for values that only it can
check; it knows nothing of command lines.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..registry import suggest
from ..values import distinct

__all__ = ["PATH", "SWITCH", "TEXT", "Argument", "Command", "Rest", "Type", "UsageError", "names", "number", "whole"]

HELP = ("-h", "--help")
WIDTH = 110


@dataclass(frozen=True)
class Type:
    """How the text of a value is read.

    Attributes:
        placeholder: Stands for a value in the help text, such as N.
        read: Value of a text; raises ValueError("must be ...") for an invalid one.
    """

    placeholder: str
    read: Callable[[str], Any]


def whole(least: int = 0) -> Type:
    """Whole numbers of at least `least`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise ValueError(f"must be a whole number of at least {least}")
        return int(text)

    return Type("N", read)


def number(above: float | None = None) -> Type:
    """Finite numbers, optionally only those above a bound."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if abs(value) == float("inf") or not (value > above if above is not None else value == value):
            raise ValueError("must be a number" + (f" above {above:g}" if above is not None else ""))
        return value

    return Type("X", read)


def _read_switch(text: str) -> bool:
    try:
        return {"0": False, "1": True, "false": False, "true": True}[text.lower()]
    except KeyError:
        raise ValueError("must be 0 or 1") from None


def _read_names(text: str) -> tuple[str, ...]:
    return distinct(name.strip() for name in text.split(","))


TEXT = Type("TEXT", str)
PATH = Type("PATH", lambda text: Path(text).expanduser())
SWITCH = Type("0|1", _read_switch)
names = Type("NAME,...", _read_names)


@dataclass(frozen=True)
class Argument:
    """One `name=value` of a command; see the module's docstring."""

    name: str
    help: str
    type: Type = TEXT
    default: Any = None
    choices: Collection[str] | Callable[[], Collection[str]] = ()
    required: bool = False
    positional: bool = False

    def read(self, text: str) -> Any:
        """The value of a text.

        Raises:
            UsageError: It is invalid.
        """
        try:
            value = self.type.read(text)
        except ValueError as e:
            raise UsageError(f"{self.name}={text} {e}.") from None
        choices = self.choices() if callable(self.choices) else self.choices
        for one in (value if isinstance(value, tuple) else (value,)) if choices else ():
            if one not in choices:
                if "," in str(one):
                    raise UsageError(f"{self.name}={text}: one value is expected here, not several.")
                known = ", ".join(choices)
                raise UsageError(f"{self.name}={one}: no such {self.name}.{suggest(one, choices)} Choices: {known}.")
        return value

    @property
    def shown(self) -> str:
        """`name=PLACEHOLDER`, as the help text has it."""
        return f"{self.name}={'NAME' if self.choices and self.type is TEXT else self.type.placeholder}"

    @property
    def described(self) -> str:
        """The help text with choices and default."""
        parts = [self.help]
        if self.choices and not callable(self.choices):
            parts.append(
                f"one of {', '.join(self.choices)}" if self.type is TEXT else f"out of {', '.join(self.choices)}"
            )
        if self.required:
            parts.append("required")
        elif self.default not in (None, ""):
            default = int(self.default) if isinstance(self.default, bool) else self.default
            parts.append(f"default {','.join(default) if isinstance(default, tuple) else default}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Rest:
    """Further arguments of a command, whose names are known at run time only.

    Attributes:
        help: One sentence on them.
        names: Values of the declared arguments -> the further names.
        read: Name, text -> value; raises UsageError for an invalid one.
        refused: Name -> why this command does not take it.
    """

    help: str
    names: Callable[[Mapping[str, Any]], Iterable[str]]
    read: Callable[[str, str], Any] = lambda name, text: text
    refused: Mapping[str, str] = field(default_factory=dict)


class Command:
    """A command with declared arguments; calling it parses a command line, runs it and returns the exit code.

    Args:
        name: As typed after the program, such as "bench blocks".
        help: What it does.
        run: Called with the values by name.
        *arguments: The arguments, in the order of the help text.
        rest: Further arguments.
        notes: Paragraphs for the end of the help text; those that begin with a space keep their lines.
        program: The program of the command.
        typed: `run` also receives `command`, the whole command line as typed.
    """

    def __init__(
        self,
        name: str,
        help: str,
        run: Callable[..., int],
        *arguments: Argument,
        rest: Rest | None = None,
        notes: str = "",
        program: str = "yolo-attn",
        typed: bool = False,
    ) -> None:
        self.typed = typed
        self.name, self.help, self.run, self.rest, self.notes = f"{program} {name}", help, run, rest, notes
        self.arguments = {a.name: a for a in arguments}

    def __call__(self, arguments: Sequence[str]) -> int:
        """Run the command; `help`, `-h` or `--help` prints its help text instead."""
        if arguments[:1] in (["help"], ("help",)) or any(a in HELP for a in arguments):
            print(self.usage())
            return 0
        values = self.parse(arguments)
        if self.typed:
            values["command"] = shlex.join([*self.name.split(), *arguments])
        return self.run(**values)

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Values by name, defaults included; those of `rest` under the name `rest`.

        Args:
            arguments: The command line after the command's name.

        Raises:
            UsageError: An argument is unknown, malformed, given twice, missing or invalid.
        """
        texts = self._split(arguments)
        values = {name: a.read(texts[name]) if name in texts else a.default for name, a in self.arguments.items()}
        misspelt = self.rest is None and not texts.keys() <= self.arguments.keys()  # reported below, with a suggestion
        for a in self.arguments.values():
            if a.required and a.name not in texts and not misspelt:
                raise UsageError(f"{a.name}=… is missing: {a.help}.")
        others = [name for name in texts if name not in self.arguments]
        known = [*self.arguments, *(self.rest.names(values) if self.rest else ())]
        for name in others:
            if self.rest and name in self.rest.refused:
                raise UsageError(f"{name}= is not for this command: {self.rest.refused[name]}.")
            if name not in known:
                raise UsageError(f"no argument {name!r}.{suggest(name, known)}{self._listing(known)}")
        if self.rest:
            values["rest"] = {name: self.rest.read(name, texts[name]) for name in others}
        return values

    def _split(self, arguments: Sequence[str]) -> dict[str, str]:
        """Name -> text of its value."""
        texts: dict[str, str] = {}
        free = [a.name for a in self.arguments.values() if a.positional]
        for argument in arguments:
            name, sign, text = argument.lstrip("-").partition("=")
            declared = self.arguments.get(name)
            if not sign and declared and declared.type is SWITCH:
                text = "1"
            elif not (sign and name.replace("-", "_").isidentifier()) and free and argument[:1] not in ("-", "="):
                name, text = free[0], argument
            if not text or not name:
                raise UsageError(self._malformed(argument, arguments))
            if name in texts:
                raise UsageError(f"{name!r} is given twice: {texts[name]!r} and {text!r}.")
            texts[name] = text
            free = [n for n in free if n != name]
        return texts

    def _malformed(self, argument: str, arguments: Sequence[str]) -> str:
        """Why an argument is not name=value, and what would be right."""
        name = argument.strip("-=")
        following = next(iter(arguments[list(arguments).index(argument) + 1 :]), "")
        spaced = re.search(r"(\S+) += *(\S+)|(\S+)= +([^ =]+)( |$)", " ".join(arguments))
        if spaced:
            left, right = [group for group in spaced.groups() if group][:2]
            return f"write {left.lstrip('-')}={right}, without spaces around '='."
        if name in self.arguments or (self.rest and argument.endswith("=")):
            value = following if argument.startswith("-") and "=" not in following else ""
            return f"{name} needs a value: {name}={value or '…'}."
        owner = next((a for a in self.arguments.values() if not callable(a.choices) and name in a.choices), None)
        if owner:
            return f"{argument!r} is not name=value. Did you mean {owner.name}={name}?"
        return f"{argument!r} is not name=value.{suggest(name, self.arguments)}{self._listing(self.arguments)}"

    def _listing(self, known: Collection[str]) -> str:
        """Which arguments there are, or how to see them."""
        if not known:
            return " The command takes no arguments."
        return f" It takes: {', '.join(known)}." if len(known) < 25 else f" `{self.name} help` lists them."

    def usage(self) -> str:
        """The help text."""
        required = [a for a in self.arguments.values() if a.required]
        shown = [a.shown.partition("=")[2] if a.positional else a.shown for a in required]
        more = ["[name=value ...]"] if len(required) < len(self.arguments) or self.rest else []
        lines = [" ".join(["usage:", self.name, *shown, *more]), "", *textwrap.wrap(self.help, WIDTH)]
        width = max((len(a.shown) for a in self.arguments.values()), default=0)
        if self.arguments:
            lines.append("")
        for a in self.arguments.values():
            left = f"  {a.shown:<{width}}  "
            lines += textwrap.wrap(a.described, WIDTH, initial_indent=left, subsequent_indent=" " * len(left))
        for paragraph in (self.rest.help if self.rest else "", *self.notes.split("\n\n")):
            if paragraph:
                raw = paragraph.startswith(" ")  # an example keeps its lines
                lines += ["", *(paragraph.splitlines() if raw else textwrap.wrap(paragraph, WIDTH))]
        return "\n".join(lines)
