"""What is known about one registered block: its record, its promises, and what its constructor takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any, get_type_hints

from .errors import UsageError

#: What every block promises; tests hold each block to all of them, and to the failure where it declares an exception.
PROMISES = {
    "any_size": "any height and width of at least 1",
    "single_image": "one image in train mode, also on a 1x1 map",
    "independent": "in eval mode an image's result does not depend on its batch",
    "half": "finite in float16, under autocast and after .half(), for inputs up to 100",
    "bfloat16": "finite under bfloat16 autocast for inputs up to 100",
    "deepcopy": "deepcopy and pickle after a forward pass, as EMA and checkpoints need",
    "trace": "a TorchScript trace gives equal numbers at other sizes",
    "onnx": "an ONNX file (opset 17) with dynamic axes gives equal numbers at other sizes",
    "compile": "torch.compile without a graph break",
    "channels_last": "equal numbers in channels_last layout",
    "meta": "builds and runs on the meta device",
}

LEVELS = ("P2", "P3", "P4", "P5", "P6")
FILLED_IN = ("c1", "c2", "n")  # arguments that parse_model computes: channels in and out, repeats


class RegistryError(UsageError):
    """A block is declared or used in a way that cannot work; the message says how to correct it."""


@dataclass(frozen=True)
class Block:
    """One registered row name and everything known about it.

    Attributes:
        name: The name of the row in a model YAML.
        cls: The class the parser builds.
        title: The paper's title, with venue and year.
        paper: Link to the paper.
        code: Link to the authors' code, empty where none was published.
        watch: Submodule path -> what its output shows; for hooks and visualisation.
        operator: The record's operator, where `cls` is a carrier around one; otherwise `cls` itself.
        carrier: "" for a block as its author wrote it, "row" for the residual row, "c2f" or "c3k2" for the form inside
            that stock block.
        takes_c2: The constructor projects to `c2` channels.
        takes_n: The constructor takes the number of repeats.
        many: The constructor takes several inputs.
        stride: How much the block reduces height and width.
        exceptions: Promise of `PROMISES` that the block cannot keep -> the reason, for users.
        places: Level ("P3" is stride 8, "P4" 16, "P5" 32) -> options that suit it; the levels where the paper's
            argument puts the block, and the YAML generator's default.
        alias: A short name that commands accept besides the row's, such as the one the paper is known by.
        helper: What a row that implements no paper does; empty for a paper's block.
        requires: An optional package without which the block cannot be built; empty for most.
    """

    name: str
    cls: type
    title: str
    paper: str
    code: str = ""
    watch: Mapping[str, str] = field(default_factory=dict)
    operator: type | None = None
    carrier: str = ""
    takes_c2: bool = False
    takes_n: bool = False
    many: bool = False
    stride: int = 1
    exceptions: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    alias: str = ""
    helper: str = ""
    requires: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that commands accept for the block, in upper or lower case."""
        return tuple(dict.fromkeys(n for n in (self.name, self.name.removesuffix("Row"), self.alias) if n))

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The constructor's arguments beyond those that the parser fills in, with resolved annotations."""
        return {k: p for k, p in parameters(self.cls).items() if k not in FILLED_IN}

    @property
    def origin(self) -> str:
        """Import path of the class."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    @property
    def is_shipped(self) -> bool:
        """Whether the block belongs to this package."""
        return is_shipped(self.cls)


def is_shipped(cls: type) -> bool:
    """Whether a class belongs to this package."""
    return cls.__module__.partition(".")[0] == "yolo_attn"


def parameters(of: Any) -> dict[str, inspect.Parameter]:
    """Parameters of a class or function, without `self`, annotations resolved; `Any` where that is impossible."""
    found = {k: p for k, p in inspect.signature(of).parameters.items() if k != "self"}
    owner = getattr(of, "operator_class", of)  # a carrier's signature is that of its operator
    function = getattr(owner, "__init__", None) if inspect.isclass(owner) else owner
    scope = getattr(inspect.unwrap(function), "__globals__", {}) if function else {}
    return {k: p.replace(annotation=_resolve(p.annotation, scope)) for k, p in found.items()}


def _resolve(annotation: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), globalns=scope)["it"]
    except Exception:  # a name that exists for type checkers only, or in the scope of a function
        return Any


def channel_rule(name: str, cls: type) -> tuple[bool, bool, bool]:
    """Read from a constructor how channels resolve.

    Args:
        name: The block's name, for messages.
        cls: Its class.

    Returns:
        `takes_c2`, `takes_n` and `many` of a `Block`.

    Raises:
        RegistryError: The constructor cannot be called from a YAML row.
    """
    from torch import nn

    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise RegistryError(f"{name}: a block is a class derived from torch.nn.Module, not {cls!r}.")
    try:
        found = parameters(cls)
    except (TypeError, ValueError) as e:
        raise RegistryError(f"{name}: the constructor's signature cannot be read ({e}).") from e
    order = list(found)
    if not order or order[0] != "c1":
        raise RegistryError(
            f"{name}: the constructor's first argument is {order[0] if order else 'missing'!r}; it must be `c1`, "
            "the input channels (then optionally `c2`, the output channels, and `n`, the repeats)."
        )
    if "c2" in order and order[1] != "c2":
        raise RegistryError(f"{name}: `c2` must follow `c1` directly; the constructor has {order}.")
    if "n" in order and order[1:3] != ["c2", "n"]:
        raise RegistryError(f"{name}: `n` must follow `c1, c2`; the constructor has {order}.")
    for argument, p in found.items():
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_ONLY, p.VAR_KEYWORD):
            raise RegistryError(
                f"{name}: a YAML row cannot set the argument `{p}`, because rows pass positional arguments only; "
                "declare it as `name=default`, without `*`, `/` or `**`."
            )
        if p.default is p.empty and argument not in FILLED_IN and p.kind is not p.VAR_POSITIONAL:
            raise RegistryError(
                f"{name}: `{argument}` needs a default, so that a bare row `[-1, 1, {name}, []]` builds."
            )
    channels = str(inspect.signature(cls).parameters["c1"].annotation).lower()
    return "c2" in order, "n" in order, "list" in channels or "sequence" in channels


def suggest(name: str, names: Iterable[str]) -> str:
    """A sentence with the names nearest to `name`, or an empty string."""
    lowered = {n.lower(): n for n in names}
    near = get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(lowered[n] for n in near)}?" if near else ""
