"""Checks values from YAML files and decorators against type annotations, and describes what does not fit.

YAML decides types by spelling: 4 is an integer, 4.0 a float, '4' and 1e-1 are strings. The annotation of a
constructor's argument says which of them it takes; every check of an argument's type goes through `fit`.
"""

from __future__ import annotations

import ast
import inspect
import math
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

#: Annotations that every value fits.
UNCHECKED = (Any, object, inspect.Parameter.empty)
_SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", NoneType: "None"}
_PLURALS = {int: "integers", float: "numbers", bool: "booleans", str: "strings"}
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None, "~": None}


def fit(value: Any, annotation: Any) -> Any:
    """A value, if it fits an annotation.

    Args:
        value: From a YAML file or a decorator.
        annotation: A resolved annotation; what cannot be checked fits.

    Returns:
        The value; None for the string "None", as in Ultralytics' rows.

    Raises:
        ValueError: It does not fit. The message continues the name of the argument: "must be an integer, not …".
    """
    if fits(value, annotation):
        return value
    if value == "None" and fits(None, annotation):
        return None
    raise ValueError(f"must be {expected(annotation)}, not {_shown(value)}.{_hint(value, annotation)}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value fits an annotation. An integer is a number; a boolean is neither; a number is finite."""
    if annotation in UNCHECKED:
        return True
    if annotation is None or annotation is NoneType:
        return value is None
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(fits(value, a) for a in arguments)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if origin is Annotated:
        return fits(value, arguments[0])
    kind = origin or annotation
    if not isinstance(kind, type):
        return True
    if issubclass(kind, str):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        keys, values = arguments or (Any, Any)
        return isinstance(value, Mapping) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    if kind in _SEQUENCES:
        return isinstance(value, (list, tuple)) and _items_fit(value, kind, arguments)
    return isinstance(value, kind)


def _items_fit(value: Sequence[Any], kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def expected(annotation: Any) -> str:
    """What an annotation asks for, as text."""
    if annotation in _NAMES or annotation is None:
        return _NAMES[annotation or NoneType]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(expected(a) for a in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is Annotated:
        return expected(arguments[0])
    kind = origin or annotation
    if kind in _SEQUENCES:
        if not arguments:
            return "a list"
        if kind is tuple and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)} {_PLURALS.get(arguments[0], 'values')}"
        return f"a list of {_PLURALS.get(arguments[0], 'values')}"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping"
    return f"of type {getattr(kind, '__name__', kind)}"


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a list between commas, if there is none twice and none is empty.

    Raises:
        ValueError: There is; the message continues the name of the argument.
    """
    found = tuple(names)
    if not all(found):
        raise ValueError("has an empty name between its commas")
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice:
        raise ValueError(f"names {twice!r} twice")
    return found


def literal(text: str) -> Any:
    """The Python or YAML constant that a string spells; the string itself if it spells none."""
    if text.strip().lower() in _CONSTANTS:
        return _CONSTANTS[text.strip().lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _shown(value: Any) -> str:
    return f"the string {value!r}" if isinstance(value, str) else reprlib.repr(value)


def _hint(value: Any, annotation: Any) -> str:
    """What would have been right, where a simple change makes the value fit."""
    if isinstance(value, str):
        meant = literal(value)
        if not isinstance(meant, str) and fits(meant, annotation):
            if isinstance(meant, float) and "e" in value.lower():
                return f" Write {meant!r}: without a decimal point, YAML takes {value} for a string."
            return f" Write {_spelled(meant)} without quotes."
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and fits(int(value), annotation):
        return f" Write {int(value)}."
    if value in (0, 1) and fits(bool(value), annotation):
        return f" Write {_spelled(bool(value))}."
    if fits([value], annotation):
        return f" Write {[value]!r}."
    if isinstance(value, (list, tuple)) and len(value) == 1 and fits(value[0], annotation):
        return f" Write {_spelled(value[0])}."
    if not isinstance(value, (str, bool)) and value is not None and fits(str(value), annotation):
        return f" Write '{value}' in quotes."
    return ""


def _spelled(value: Any) -> str:
    """A value as YAML spells it."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
