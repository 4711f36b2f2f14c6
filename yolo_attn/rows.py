"""From a YAML row to a constructor call: channels, repeats and options of registered blocks.

    [from, repeats, Name, [arguments..., {option: value, ...}]]

A class with several outputs, or one that sets its own channels, has a method `out_channels(c1, …)` (static or class
method, called with the constructor's arguments) that gives the number or, for several maps, a tuple; a row behind it
then gets that tuple as `c1`. A class with an option `size` and a table `sizes` (scale letter -> size) follows the
model's scale.

Positional arguments follow the constructor after what the parser fills in (`c1`; `c2` scaled by the model's width;
`n` scaled by its depth); a mapping at the end gives options by name.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any

from . import registry, releases
from .registry import Block, RegistryError

_warned: set[str] = set()
_building: ContextVar[str] = ContextVar("building", default="")  # the registered row whose constructor runs next


def lookup(name: str, stock: dict[str, Any]) -> Any:
    """The class a row names: Ultralytics' own first, then the registry's.

    Raises:
        KeyError: Neither knows the name.
    """
    block = registry.get(name)
    if name in stock:
        if block is not None:
            raise RegistryError(
                f"{name!r} is both a layer of Ultralytics and {block.origin}; register it under another name."
            )
        return stock[name]
    if block is None:
        hint = registry.suggest(name, [b.name for b in registry.list_blocks()])
        raise KeyError(f"{name!r} is no layer of Ultralytics and no registered block.{hint}")
    return block.cls


def owns(module: Any) -> bool:
    """Whether a class in a row is a registered block."""
    _building.set("")
    return registry.of(module) is not None


def building() -> str:
    """The registered row being built, in words; empty for a stock row."""
    return _building.get()


def resolve(
    module: type,
    i: int,
    f: int | list[int],
    n: int,
    args: list[Any],
    ch: list[int],
    width: float,
    max_channels: float,
    scale: str | None,
    legacy: bool,
) -> tuple[type, Any, list[Any], int, bool]:
    """What parse_model needs to build one registered row.

    Args:
        module: The registered class.
        i: Index of the row.
        f: Where its input comes from; a list for several inputs.
        n: Repeats, scaled by depth already.
        args: The row's arguments.
        ch: Output channels of the rows so far.
        width: Factor on channels.
        max_channels: Bound on channels before the factor.
        scale: Letter of the model's scale.
        legacy: parse_model's flag for the older Detect head.

    Returns:
        Class, output channels, constructor arguments, outer repeats, legacy flag.

    Raises:
        RegistryError: The row does not fit the constructor; the message names row and remedy.
    """
    block = registry.of(module)
    assert block is not None
    where = f"row {i} [{f}, {n}, {block.name}, {args}]"
    c1: Any = _input_channels(block, f, ch, where)
    *positional, options = args if args and isinstance(args[-1], dict) else (*args, {})
    if "size" in block.options and "size" not in (options := dict(options)) and not positional:
        options |= _size_of_scale(block, scale, where)
    head: list[Any] = [c1]
    c2: Any = None
    if block.takes_c2:
        c2, positional, options = _output_channels(block, positional, dict(options), width, max_channels, where)
        head.append(c2)
    if c2 is None:
        c2 = c1[0] if block.many else c1
        if block.many and len(set(c1)) > 1:
            raise RegistryError(f"{where}: the inputs have {c1} channels; without a `c2` argument they must be equal.")
    if block.takes_n:
        head.append(n)
        n = 1
    if block.carrier == "c3k2":  # what parse_model does for the stock C3k2
        legacy = False
        if scale and scale in "mlx":
            positional = [True, *positional[1:]]
    arguments = _bind(block, head, positional, options, where)
    _building.set(where)
    if hasattr(module, "out_channels"):
        try:
            c2 = module.out_channels(*arguments)
        except (ValueError, TypeError, LookupError) as e:
            raise RegistryError(f"{where}: {e}") from e
    if n > 1 and c2 != c1:
        raise RegistryError(
            f"{where}: {n} repeats need equal channels in and out, here {c1} -> {c2}. "
            "Use one repeat, or give the constructor an `n` argument after `c2`."
        )
    return module, c2, arguments, n, legacy


def check_scale(d: dict[str, Any]) -> None:
    """Refuse a scale that a model does not have; parse_model would only say the letter.

    Args:
        d: A model YAML as parse_model gets it.

    Raises:
        RegistryError: The scale's letter is not among the model's `scales`.
    """
    scales, scale = d.get("scales"), d.get("scale")
    if not scales or not scale or scale in scales:
        return
    blocks = [registry.get(row[2]) for row in [*d["backbone"], *d["head"]] if isinstance(row[2], str)]
    tables = [getattr(b.cls, "sizes", {}) for b in blocks if b]
    papers: dict[str, str] = next(filter(None, tables), {})
    listed = ", ".join(f"{letter} ({papers[letter]})" if letter in papers else letter for letter in scales)
    raise RegistryError(
        f"{d.get('yaml_file', 'this model')}: no scale {scale!r}; choose one of {listed}. The letter behind the number "
        "in the file's name chooses, as in yolov8n-….yaml."
    )


def _size_of_scale(block: Block, scale: str | None, where: str) -> dict[str, str]:
    """The paper's size that a model's scale letter stands for, where the class has a table `sizes` of them."""
    sizes: dict[str, str] = getattr(block.cls, "sizes", {})
    if not sizes or not scale:
        return {}
    if scale not in sizes:
        listed = ", ".join(f"{letter} ({size})" for letter, size in sizes.items())
        raise RegistryError(f"{where}: the paper has no size for scale {scale!r}; choose one of {listed}.")
    return {"size": sizes[scale]}


def _input_channels(block: Block, f: int | list[int], ch: list[int], where: str) -> int | list[int]:
    if isinstance(f, int):
        if block.many:
            raise RegistryError(f"{where}: {block.name} takes several inputs; write `from` as a list, such as [-1, 6].")
        return ch[f]
    if not block.many:
        raise RegistryError(
            f"{where}: {block.name} takes one input. For several, annotate the constructor's first "
            "argument `c1: list[int]`."
        )
    return [ch[x] for x in f]


def _output_channels(
    block: Block, positional: list[Any], options: dict[str, Any], width: float, max_channels: float, where: str
) -> tuple[int | None, list[Any], dict[str, Any]]:
    from ultralytics.utils.ops import make_divisible

    given = positional.pop(0) if positional else options.pop("c2", None)
    if given is None:
        if inspect.signature(block.cls).parameters["c2"].default is inspect.Parameter.empty:
            raise RegistryError(f"{where}: the first argument must be the output channels, such as [256].")
        return None, positional, options
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise RegistryError(f"{where}: output channels {given!r} are no positive whole number.")
    return make_divisible(min(given, max_channels) * width, 8), positional, options


def _bind(block: Block, head: list[Any], positional: list[Any], options: dict[str, Any], where: str) -> list[Any]:
    """All arguments by position, checked against the constructor."""
    signature = inspect.signature(block.cls)
    in_form = block.carrier in ("c2f", "c3k2")  # the mapping there belongs to the operator inside
    known = inspect.signature(block.operator or block.cls).parameters if in_form else signature.parameters
    for option in options:
        if option not in known:
            listed = ", ".join(str(p) for k, p in known.items() if k not in ("c1", "c2", "n"))
            raise RegistryError(
                f"{where}: {block.name} has no option {option!r}.{registry.suggest(option, known)} "
                f"Its options: {listed or 'none'}."
            )
    if in_form:
        return [*head, *positional, *([options] if options else [])]
    try:
        bound = signature.bind(*head, *positional, **options)
    except TypeError as e:
        raise RegistryError(f"{where}: {e}; the constructor is {block.name}{signature}.") from e
    bound.apply_defaults()
    return list(bound.args)


def warn_about_release(d: dict[str, Any]) -> None:
    """Warn once that some Ultralytics releases build YOLOv8's SPPF without its activation."""
    from ultralytics import __version__
    from ultralytics.utils import LOGGER

    has_sppf = any(row[2] == "SPPF" for row in [*d["backbone"], *d["head"]])
    is_v8 = "yolov8" in str(d.get("yaml_file", "yolov8")).lower()
    if releases.SPPF.affects(__version__) and has_sppf and is_v8 and "sppf" not in _warned:
        _warned.add("sppf")
        LOGGER.warning(f"yolo_attn: Ultralytics {__version__} {releases.SPPF.text}. Remedy: {releases.SPPF.remedy}.")
