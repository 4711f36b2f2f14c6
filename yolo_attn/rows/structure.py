"""Checks of a model YAML before parse_model reads it: rows, references between them, scales.

parse_model unpacks rows and indexes lists without looking. For models that name registered blocks, every mistake there
is an error that names the row or the entry, what is wrong with it and what would be right. Mistakes that only concern
the arguments of Ultralytics' own rows are left to Ultralytics.
"""

from __future__ import annotations

import importlib
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from .. import registry, releases
from ..registry import RegistryError
from ..values import fits

FORM = "a row is a list [from, repeats, module, arguments], such as [-1, 1, SAM, []]"
SCALE_FORM = "[depth, width, max_channels], such as [0.33, 0.25, 1024]"

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring, _short.maxother = 4, 20, 20, 60, 60
_warned: set[str] = set()


class UnknownLayerError(RegistryError, KeyError):
    """A row names neither a layer of Ultralytics nor a registered block.

    Args:
        where: The row.
        name: Its module.
    """

    def __init__(self, where: str, name: str) -> None:
        suggestion = registry.suggest(name, [b.name for b in registry.list_blocks()])
        super().__init__(f"{where}: {name!r} is no layer of Ultralytics and no registered block.{suggestion}")
        self.has_suggestion = bool(suggestion)

    __str__ = ValueError.__str__  # KeyError would quote the message


def text(i: int, row: Any) -> str:
    """Number and content of a row, for messages.

    Args:
        i: Index of the row, as Ultralytics prints it.
        row: What the YAML has there.
    """
    if isinstance(row, (list, tuple)) and len(row) == 4 and isinstance(row[2], str):
        f, n, name, arguments = row
        return f"row {i} [{_short.repr(f)}, {_short.repr(n)}, {name}, {_short.repr(arguments)}]"
    return f"row {i} {_short.repr(row)}"


def module_names(d: Any) -> set[str]:
    """Names of the modules in a model's rows; of a malformed part every string in it."""
    names: set[str] = set()
    for part in ("backbone", "head"):
        rows: Any = d.get(part) if isinstance(d, Mapping) else None
        for row in rows if isinstance(rows, (list, tuple)) else [rows]:
            if isinstance(row, (list, tuple)) and len(row) > 2 and isinstance(row[2], str):
                names.add(row[2])
            else:
                names.update(_strings(row))
    return names


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)


def is_stock(name: str, stock: Mapping[str, Any]) -> bool:
    """Whether parse_model finds a module by itself.

    Args:
        name: As the row has it.
        stock: Namespace of ultralytics.nn.tasks.
    """
    for prefix, module in (("torchvision.ops.", "torchvision.ops"), ("nn.", "torch.nn")):
        if name.startswith(prefix):
            return hasattr(importlib.import_module(module), name.removeprefix(prefix))
    return name in stock


def unknown_layer(d: Mapping[str, Any], name: str) -> UnknownLayerError:
    """The error for a name in a model's rows that nothing answers to."""
    rows = [*d["backbone"], *d["head"]]
    return UnknownLayerError(next(text(i, row) for i, row in enumerate(rows) if row[2] == name), name)


def check(d: Mapping[str, Any]) -> None:
    """Check a model that names registered blocks.

    Args:
        d: A model YAML as parse_model gets it.

    Raises:
        RegistryError: A row, a reference or a scale is malformed.
    """
    for part in ("backbone", "head"):
        if not isinstance(d.get(part), list):
            raise RegistryError(f"the model's `{part}` must be a list of rows, not {_short.repr(d.get(part))}; {FORM}.")
    _check_scales(d)
    for i, row in enumerate([*d["backbone"], *d["head"]]):
        _check_row(i, row)


def _check_row(i: int, row: Any) -> None:
    where = text(i, row)
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        raise RegistryError(f"{where}: {FORM}.")
    f, n, name, arguments = row
    if not isinstance(name, str) or not name:
        raise RegistryError(f"{where}: the module must be the name of a layer or a block, not {name!r}; {FORM}.")
    _check_from(i, f, where)
    stock = registry.get(name) is None
    # parse_model accepts more than it should in its own rows; here only what it cannot compute with is refused.
    if not (isinstance(n, (int, float)) if stock else fits(n, int) and n >= 1):
        raise RegistryError(f"{where}: the repeats must be an integer of at least 1, not {n!r}.")
    if not isinstance(arguments, (list, tuple)):
        right = [] if arguments is None else [arguments]
        raise RegistryError(f"{where}: the arguments must be a list. Write {right!r}.")


def _check_from(i: int, f: Any, where: str) -> None:
    sources = f if isinstance(f, (list, tuple)) else [f]
    if not sources or not all(fits(x, int) for x in sources):
        raise RegistryError(
            f"{where}: `from` must be the number of a row, or a list of several, such as -1 or [-1, 6], not {f!r}."
        )
    for x in sources:
        if i == 0 and x != -1:
            raise RegistryError(f"{where}: the first row reads the image; its `from` must be -1, not {f!r}.")
        if i > 0 and not -i <= x < i:
            before = "row 0 (-1)" if i == 1 else f"the rows 0 to {i - 1} (-{i} to -1)"
            raise RegistryError(f"{where}: `from` is {x}, but a row reads from those before it: {before}.")


def _check_scales(d: Mapping[str, Any]) -> None:
    for name in ("depth_multiple", "width_multiple"):
        value = d.get(name, 1.0)
        if not fits(value, float) or value <= 0:
            raise RegistryError(f"the model's {name} must be a positive number, not {value!r}.")
    scales = d.get("scales")
    if not scales:
        return
    if not isinstance(scales, Mapping):
        raise RegistryError(f"the model's `scales` must map letters to {SCALE_FORM}, not be {_short.repr(scales)}.")
    for letter, factors in scales.items():
        if not isinstance(factors, (list, tuple)) or len(factors) != 3 or not all(map(_is_factor, factors)):
            raise RegistryError(
                f"the model's scale {letter!r} must be three positive numbers {SCALE_FORM}, not {_short.repr(factors)}."
            )
    scale = d.get("scale")
    if scale and not isinstance(scale, str):
        raise RegistryError(f"the model's `scale` must be one of the letters of `scales`, not {scale!r}.")
    if scale and scale not in scales:
        _refuse_scale(d, scale)


def _is_factor(value: Any) -> bool:
    return value == math.inf or (fits(value, float) and bool(value > 0))


def _refuse_scale(d: Mapping[str, Any], scale: str) -> None:
    blocks = [registry.get(name) for name in module_names(d)]
    papers: Mapping[str, str] = next((s for b in blocks if b and (s := getattr(b.cls, "sizes", None))), {})
    listed = ", ".join(f"{letter} ({papers[letter]})" if letter in papers else str(letter) for letter in d["scales"])
    raise RegistryError(
        f"{d.get('yaml_file', 'this model')}: no scale {scale!r}; choose one of {listed}. The letter behind the number "
        "in the file's name chooses, as in yolov8n-….yaml."
    )


def warn_about_release(d: Mapping[str, Any]) -> None:
    """Warn once that some Ultralytics releases build YOLOv8's SPPF without its activation."""
    from ultralytics import __version__
    from ultralytics.utils import LOGGER

    is_v8 = "yolov8" in str(d.get("yaml_file", "yolov8")).lower()
    if releases.SPPF.affects(__version__) and "SPPF" in module_names(d) and is_v8 and "sppf" not in _warned:
        _warned.add("sppf")
        LOGGER.warning(f"yolo_attn: Ultralytics {__version__} {releases.SPPF.text}. Remedy: {releases.SPPF.remedy}.")
