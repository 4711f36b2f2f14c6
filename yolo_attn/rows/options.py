"""A row's arguments, held to the constructor's parameters and their annotations."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from .. import registry
from ..record import FILLED_IN, parameters
from ..registry import Block, RegistryError
from ..values import UNCHECKED, fit, fits


def split(given: list[Any], where: str) -> tuple[list[Any], dict[str, Any]]:
    """Positional arguments, and options by name."""
    *positional, options = given if given and isinstance(given[-1], Mapping) else [*given, {}]
    for a in positional:
        if isinstance(a, Mapping):
            raise RegistryError(f"{where}: options by name come last, in one mapping; move {a!r} behind the others.")
    for key in options:
        if not isinstance(key, str):
            raise RegistryError(f"{where}: the option {key!r} must be a name, such as {{heads: 4}}.")
    return positional, dict(options)


def output_channels(
    block: Block, positional: list[Any], options: dict[str, Any], width: float, max_channels: float, nc: Any, where: str
) -> int | None:
    """The first positional argument or the option `c2`, removed from where it was, scaled by width."""
    from ultralytics.utils.ops import make_divisible

    p = parameters(block.cls)["c2"]
    given = _evaluated(positional.pop(0), p, nc) if positional else options.pop("c2", None)
    if given is None or given == "None":
        if p.default is p.empty:
            raise RegistryError(f"{where}: the first argument must be the output channels, such as [256].")
        return None
    if not fits(given, int) or given < 1:
        raise RegistryError(f"{where}: the output channels must be a positive integer, such as 256, not {given!r}.")
    channels: int = make_divisible(min(given, max_channels) * width, 8)
    return channels


def size_of_scale(sizes: Mapping[str, str], scale: str | None, where: str) -> dict[str, str]:
    """The paper's size that a model's scale letter stands for."""
    if not scale:
        return {}
    if scale not in sizes:
        listed = ", ".join(f"{letter} ({size})" for letter, size in sizes.items())
        raise RegistryError(f"{where}: the paper has no size for scale {scale!r}; choose one of {listed}.")
    return {"size": sizes[scale]}


def bind(
    block: Block, head: list[Any], positional: list[Any], options: dict[str, Any], nc: Any, where: str
) -> list[Any]:
    """All arguments by position, held to the parameters of the constructor and their annotations."""
    in_form = block.carrier in (
        "c2f",
        "c3k2",
    )  # positional arguments belong to the stock block, options to the operator
    ordered = list((_stock_parameters(block) if in_form else parameters(block.cls)).values())[len(head) :]
    named = parameters(getattr(block.cls, "residual_class", block.cls))
    named = {k: p for k, p in named.items() if k not in FILLED_IN and p.kind is not p.VAR_POSITIONAL}
    for option in options:
        if option not in named:
            listed = ", ".join(map(_spelled, named.values())) or "none"
            raise RegistryError(
                f"{where}: {block.name} has no option {option!r}.{registry.suggest(option, named)} "
                f"Its options: {listed}."
            )
    options = {k: _checked(named[k], v, where) for k, v in options.items()}
    if ordered and ordered[-1].kind is inspect.Parameter.VAR_POSITIONAL:
        ordered += [ordered[-1]] * len(positional)
    if len(positional) > len(ordered):
        listed = ", ".join(map(_spelled, ordered)) or "none"
        raise RegistryError(
            f"{where}: too many positional arguments: {len(positional)}, but {block.name} takes {len(ordered)} "
            f"({listed})."
        )
    twice = [p.name for p in ordered[: len(positional)] if p.name in options and not in_form]
    if twice:
        raise RegistryError(f"{where}: the option {twice[0]!r} is given twice, by position and by name.")
    positional = [_checked(p, _evaluated(v, p, nc), where) for v, p in zip(positional, ordered, strict=False)]
    if in_form:
        return [*head, *positional, *([options] if options else [])]
    bound = inspect.signature(block.cls).bind(*head, *positional, **options)
    bound.apply_defaults()
    return list(bound.args)


def _stock_parameters(block: Block) -> dict[str, inspect.Parameter]:
    """Parameters of the stock block that a carrier is a form of."""
    from ultralytics.nn import modules

    base_name: str = getattr(block.cls, "base_name")  # noqa: B009 - an attribute of carriers only
    return parameters(getattr(modules, base_name))


def _spelled(p: inspect.Parameter) -> str:
    return p.name if p.default is p.empty else f"{p.name}={p.default!r}"


def _evaluated(value: Any, p: inspect.Parameter, nc: Any) -> Any:
    """A positional argument as parse_model reads it: strings are constants or `nc`, unless the option is a string."""
    if not isinstance(value, str) or (p.annotation not in UNCHECKED and fits(value, p.annotation)):
        return value
    if value == "nc":
        return nc
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _checked(p: inspect.Parameter, value: Any, where: str) -> Any:
    """An option's value, held to its annotation."""
    if type(value) is type(p.default) and value == p.default:
        return value
    if p.name == "size" and fits(value, int):  # {size: 50}; papers call sizes by number, too
        value = str(value)
    try:
        return fit(value, p.annotation)
    except ValueError as e:
        raise RegistryError(f"{where}: `{p.name}` {e}") from e
