"""Registration of classes written for other code: how their constructor maps to `c1` and `c2`.

Blocks found in the wild name their channels `channel`, `in_channels`, `inp` or `dim`. An adapter is a subclass of three
lines that takes `c1` (and `c2`) and passes them on; the state-dict keys stay those of the class.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from .. import registry
from ..errors import UsageError
from ..record import FILLED_IN, channel_rule

#: Usual names of the channels that come in and that go out.
INPUT = "c1 channel channels in_channels in_channel in_ch in_chans in_c c_in ch_in inp inplanes in_planes planes dim"
INPUT += " in_dim input_dim input_channels in_features embed_dim d_model c ch nin n_channels num_channels features"
OUTPUT = "c2 out_channels out_channel out_ch out_chans out_c c_out ch_out oup outplanes out_planes out_dim nout"
PLACEHOLDER = "https://example.org/replace-by-the-address-of-the-paper"


def problem_of(cls: type) -> str:
    """Why a class cannot be registered as it is; empty if it can."""
    try:
        channel_rule(cls.__name__, cls)
    except registry.RegistryError as e:
        return str(e).removeprefix(f"{cls.__name__}: ")
    return ""


def registration(cls: type, module: str) -> tuple[str, str]:
    """The name for model YAMLs, and a Python file that registers a class under it.

    Args:
        cls: A class that is not registered.
        module: Name of the module to import it from.

    Raises:
        UsageError: An argument other than the channels has no default.
    """
    name = _free_name(cls.__name__)
    if not problem_of(cls):
        keeps = "c2" not in inspect.signature(cls).parameters and "list" not in str(inspect.signature(cls)).lower()
        lines = [f"{_decorator(name, keeps)}({cls.__name__})"]
    else:
        lines = _adapter(cls, name)
    return name, "\n".join(
        [
            f'"""Makes `{cls.__name__}` of {module}.py a row of model YAMLs, named {name}.',
            "",
            f"Import it before the model is built: `import {module}_registered`.",
            '"""',
            "",
            f"from {module} import {cls.__name__}",
            "from yolo_attn import register",
            "",
            *([""] if len(lines) > 1 else []),
            *lines,
            "",
        ]
    )


def _decorator(name: str, keeps_channels: bool) -> str:
    """The call of `register`; a block that keeps its channels gets a residual row, too."""
    row = f', row="{name}Row"' if keeps_channels else ""
    return f'register("{name}", paper="{PLACEHOLDER}"{row})'


def _adapter(cls: type, name: str) -> list[str]:
    """Lines of the subclass that takes `c1` and `c2`."""
    found = {
        k: p for k, p in inspect.signature(cls).parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    if not found:
        raise UsageError(f"{cls.__name__}() takes no channels; give its constructor a first argument `c1`.")
    c1 = next((k for k in found if k.lower() in INPUT.split()), next(iter(found)))
    c2 = next((k for k in found if k.lower() in OUTPUT.split() and k != c1), "")
    options = {k: p for k, p in found.items() if k not in (c1, c2)}
    for k, p in options.items():
        if p.default is p.empty:
            raise UsageError(
                f"{cls.__name__}: the argument `{k}` has no default, so a bare row cannot build it. Give it one; "
                f"`{c1}` is taken for the input channels{f' and `{c2}` for the output channels' if c2 else ''}."
            )
    renamed = {k: f"{k}_" if k in FILLED_IN else k for k in options}
    head = ["c1: int", *(["c2: int"] if c2 else [])]
    head += [f"{renamed[k]}{_annotated(p.default)}" for k, p in options.items()]
    passed = [f"{c1}=c1", *([f"{c2}=c2"] if c2 else []), *(f"{k}={renamed[k]}" for k in options)]
    return [
        f"@{_decorator(name, not c2)}",
        f"class Registered{cls.__name__}({cls.__name__}):",
        f"    def __init__(self, {', '.join(head)}) -> None:",
        f"        super().__init__({', '.join(passed)})",
    ]


def _annotated(default: Any) -> str:
    """Annotation and default of an option; YAML rows are checked against the annotation."""
    if type(default) in (bool, int, float, str):
        return f": {type(default).__name__} = {default!r}"
    if isinstance(default, (list, tuple)) and default and all(type(v) is int for v in default):
        return f": list[int] = {list(default)!r}"
    if default is None or isinstance(default, (list, tuple)):
        return f"={default!r}"
    raise UsageError(f"the default {default!r} cannot be written in a YAML row; use a number, a string or a list.")


def _free_name(name: str) -> str:
    """A name that neither Ultralytics nor a registered block uses."""
    tasks = sys.modules.get("ultralytics.nn.tasks")
    return f"My{name}" if registry.get(name) or (tasks and name in vars(tasks)) else name
