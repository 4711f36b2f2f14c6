"""Follows parse_model through a model: which row is being built, and what its constructor gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import registry
from ..carriers import Residual
from ..record import is_shipped, parameters
from ..registry import Block, RegistryError
from ..values import UNCHECKED, fits
from .options import bind, output_channels, size_of_scale, split
from .structure import UnknownLayerError, is_stock, text

#: Stock modules that accept several maps: those of a backbone row, or of CBLinear (yolov9e).
READS_MAPS = ("Index", "CBFuse", "nn.Identity")
#: Of YOLO-World. Its model hands the row's list of inputs on as if it were the row's output.
TEXT_ONLY = "ImagePoolingAttn"


@dataclass
class Build:
    """A model that parse_model is building.

    Attributes:
        nc: The model's number of classes, which rows may name.
        rows: Texts of the rows reached so far.
        constructing: Whether the constructor of a registered class runs next.
        inputs: Index of each registered row -> its input channels.
    """

    nc: Any = None
    rows: list[str] = field(default_factory=list)
    constructing: bool = False
    inputs: dict[int, Any] = field(default_factory=dict)


class Arguments:
    """A row's arguments, kept from parse_model, which replaces strings by the values of its own variables.

    Args:
        given: The arguments as the YAML has them.
    """

    def __init__(self, given: list[Any]) -> None:
        self.given = given


_build: ContextVar[Build] = ContextVar("build")


@contextmanager
def building(d: Mapping[str, Any]) -> Iterator[Build]:
    """Build one model: an error of a registered class's constructor, of whatever type, gets its row.

    Args:
        d: The model's YAML.

    Raises:
        RegistryError: A constructor failed.
    """
    build = Build(d.get("nc"))
    token = _build.set(build)
    try:
        yield build
    except (Exception, SystemExit) as e:
        if not build.constructing:
            raise
        raise RegistryError(f"{build.rows[-1]}: {_reason(e)}") from e
    finally:
        _build.reset(token)


def began() -> bool:
    """Whether parse_model has reached a row of the model."""
    return bool(_build.get().rows)


def enter(d: Mapping[str, Any], i: int, f: Any, n: Any, name: str, args: list[Any], ch: list[Any]) -> list[Any]:
    """Begin a row.

    Args:
        d: The model's YAML.
        i: Index of the row.
        f: Where its input comes from.
        n: Repeats.
        name: Its module.
        args: Its arguments.
        ch: Output channels of the rows so far.

    Returns:
        The arguments for parse_model.

    Raises:
        RegistryError: A stock row reads the several maps of a backbone row, or a row of ours one that gives none.
        UnknownLayerError: There is no such module.
    """
    from ultralytics.nn import tasks

    build = _build.get()
    build.constructing = False
    build.rows[i:] = [text(i, [f, n, name, args])]
    if is_stock(name, vars(tasks)):
        if (block := registry.get(name)) is not None:
            raise RegistryError(
                f"{build.rows[i]}: {name!r} is both a layer of Ultralytics and {block.origin}; "
                "register it under another name."
            )
        if name not in READS_MAPS:
            for x in f if isinstance(f, (list, tuple)) else [f]:
                _check_single(x, i, ch, build.rows[i])
        return args
    if registry.get(name) is None:
        raise UnknownLayerError(build.rows[i], name)
    modules = [row[2] for row in (*d["backbone"], *d["head"])]
    for x in f if isinstance(f, (list, tuple)) else [f]:
        if i and modules[x % i] == TEXT_ONLY:
            raise RegistryError(
                f"{build.rows[i]}: row {x % i} is {TEXT_ONLY}, which changes the text embeddings and gives no map; "
                "read another row."
            )
    return [Arguments(list(args))]


def lookup(name: str, stock: dict[str, Any]) -> Any:
    """The class a row names, Ultralytics' own or a registered one; `enter` has seen that there is one."""
    block = registry.get(name)
    return stock[name] if block is None else block.cls


def owns(module: Any) -> bool:
    """Whether a class in a row is a registered block."""
    return registry.of(module) is not None


def leave() -> None:
    """End the last row."""
    _build.get().constructing = False


def resolve(
    module: type,
    i: int,
    f: int | list[int],
    n: int,
    args: list[Arguments],
    ch: list[Any],
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
        args: The row's arguments, as `enter` gave them.
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
    build = _build.get()
    where = build.rows[i]
    c1: Any = _input_channels(block, f, i, ch, where)
    positional, options = split(args[0].given, where)
    head: list[Any] = [c1]
    c2: Any = None
    if block.takes_c2:
        c2 = output_channels(block, positional, options, width, max_channels, build.nc, where)
        head.append(c2)
    if c2 is None:
        c2 = c1[0] if block.many else c1
        if block.many and len(set(c1)) > 1:
            raise RegistryError(f"{where}: the inputs have {c1} channels; without a `c2` argument they must be equal.")
    if block.takes_n:
        head.append(n)
        n = 1
    sizes: Mapping[str, str] = getattr(module, "sizes", {})
    if sizes and "size" not in options and not positional:
        options |= size_of_scale(sizes, scale, where)
    if block.carrier == "c3k2":  # what parse_model does for the stock C3k2
        legacy = False
        if scale and scale in "mlx":
            positional[:1] = [True]
    arguments = bind(block, head, positional, options, build.nc, where)
    if hasattr(module, "out_channels"):
        c2 = _declared_channels(module, arguments, where)
    if n > 1 and c2 != c1:
        raise RegistryError(
            f"{where}: {n} repeats need equal channels in and out, here {c1} -> {c2}. "
            "Use one repeat, or give the constructor an `n` argument after `c2`."
        )
    build.constructing = True
    build.inputs[i] = c1
    return module, c2, arguments, n, legacy


def run_once(model: nn.Sequential, build: Build) -> None:
    """Run every registered row on a small input, so that an option that fails in `forward` is reported with its row.

    The shipped blocks take any size. Others may not, so only what a carrier cannot add to its input is refused there.

    Args:
        model: The model as built.
        build: Its rows.

    Raises:
        RegistryError: A row does not run, or the operator of a carrier changes the size.
    """
    for i, c1 in build.inputs.items():
        try:
            _run(model[i], c1)
        except (Exception, SystemExit) as e:
            if all(is_shipped(type(m)) for m in model[i].modules() if registry.of(type(m))):
                raise RegistryError(f"{build.rows[i]}: {_reason(e)}") from e
        for m in model[i].modules():
            if isinstance(m, Residual) and not is_shipped(type(m.operator)):
                _check_size(m, build.rows[i])


def _run(module: nn.Module, c1: Any) -> Any:
    """Output for zeros of 8 x 8 positions."""
    like = next(module.parameters(), torch.zeros(()))
    x: Any = [like.new_zeros(1, c, 8, 8) for c in (c1 if isinstance(c1, (list, tuple)) else [c1])]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return module(x if isinstance(c1, (list, tuple)) else x[0])
    finally:
        module.train(was_training)


def _check_size(carrier: Residual, where: str) -> None:
    """Refuse an operator whose output is of another size than its input: adding it would fail, or broadcast."""
    channels = next(carrier.bn.parameters()).numel()
    try:
        shape = tuple(_run(carrier.operator, channels).shape)
    except (Exception, SystemExit):  # it does not take so small an input, and tells when the model first runs
        return
    if shape != (1, channels, 8, 8):
        name = type(carrier.operator).__name__
        raise RegistryError(
            f"{where}: {name} turns {(1, channels, 8, 8)} into {shape}, but a residual row adds the operator's output "
            f"to its input. Use options that keep the size, or {name} itself as a row."
        )


def _declared_channels(module: Any, arguments: list[Any], where: str) -> Any:
    """What a class's own `out_channels` says."""
    try:
        channels = module.out_channels(*arguments)
    except (Exception, SystemExit) as e:
        raise RegistryError(f"{where}: {_reason(e)}") from e
    for c in channels if isinstance(channels, (tuple, list)) else [channels]:
        if not fits(c, int) or c < 1:
            raise RegistryError(
                f"{where}: out_channels of {module.__name__} gives {channels!r}; it must give a positive integer, or a "
                "tuple of them for several maps."
            )
    return tuple(channels) if isinstance(channels, list) else channels


def _reason(e: BaseException) -> str:
    """What an exception says, with its type unless it is one that is meant for users."""
    try:
        says = str(e)
    except Exception:
        says = "(an exception that has no text)"
    return says if says and isinstance(e, ValueError) else f"{type(e).__name__}: {says}"


def _check_single(x: int, i: int, ch: list[Any], where: str) -> None:
    """Refuse to read the several maps of a backbone row where one is expected."""
    channels = ch[x]
    if isinstance(channels, (tuple, list)):
        row = x % i
        raise RegistryError(
            f"{where}: row {row} gives {len(channels)} maps; choose one in a row between them, such as "
            f"[{row}, 1, Level, [{len(channels) - 1}]]."
        )


def _input_channels(block: Block, f: int | list[int], i: int, ch: list[Any], where: str) -> Any:
    if isinstance(f, int):
        if block.many:
            raise RegistryError(f"{where}: {block.name} takes several inputs; write `from` as a list, such as [-1, 6].")
        annotation = parameters(block.cls)["c1"].annotation
        if not isinstance(ch[f], (tuple, list)) and not fits(ch[f], annotation):
            raise RegistryError(
                f"{where}: {block.name} reads the maps of a backbone row, such as SMTMaps; row {f % i} gives one map."
            )
        if annotation in UNCHECKED or not fits(ch[f], annotation):
            _check_single(f, i, ch, where)
        return ch[f]
    if not block.many:
        raise RegistryError(
            f"{where}: {block.name} takes one input. For several, annotate the constructor's first "
            "argument `c1: list[int]`."
        )
    for x in f:
        _check_single(x, i, ch, where)
    return [ch[x] for x in f]
