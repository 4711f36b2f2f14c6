"""The registry of blocks: what a block is, declared once.

A decorator above a class states the block's paper, the authors' code and what is worth watching inside it; the
constructor's signature states how its channels resolve. The parser, the YAML generator, the command line, the tests,
the benchmarks and the README table all read the records kept here.

Signatures the parser understands (names and order matter):

    (self, c1, ...)             keeps the channels
    (self, c1, c2, ...)         projects c1 -> c2; c2 is scaled by the model's width like every stock row
    (self, c1, c2, n, ...)      also takes the repeats, scaled by the model's depth
    (self, c1: list[int], ...)  takes several inputs; `from` in the YAML is then a list
"""

from __future__ import annotations

import importlib
import inspect
import keyword
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from .record import LEVELS, PROMISES, Block, RegistryError, channel_rule, is_shipped, parameters, suggest
from .values import fit

__all__ = [
    "LEVELS",
    "PROMISES",
    "Block",
    "RegistryError",
    "carrier",
    "classes",
    "declared_outside",
    "get",
    "has_blocks",
    "is_ours",
    "list_blocks",
    "load_builtins",
    "of",
    "operators",
    "register",
    "require",
    "suggest",
]

T = TypeVar("T", bound=type)

BUILTIN_MODULES = ("yolo_attn.blocks",)
ENTRY_POINTS = "yolo_attn.blocks"

# `importlib.reload` runs this file in the same namespace; the blocks stay registered.
_blocks: dict[str, Block] = globals().get("_blocks", {})
_loaded: bool = globals().get("_loaded", False)
_loading = threading.local()  # .active in the thread that imports the built-in blocks


def register(
    name: str | None = None,
    *,
    paper: str = "",
    title: str = "",
    code: str = "",
    watch: Mapping[str, str] | None = None,
    row: str | None = None,
    stride: int = 1,
    exceptions: Mapping[str, str] | None = None,
    places: Mapping[str, Mapping[str, Any]] | None = None,
    alias: str = "",
    helper: str = "",
    requires: str = "",
) -> Callable[[T], T]:
    """Declare a block; use as a decorator above an `nn.Module` class.

    Args:
        name: The name for model YAMLs; the class name by default.
        paper: Link to the paper (or wherever the idea is described); required, except for a `helper`.
        title: The paper's title, venue and year.
        code: Link to the authors' code.
        watch: Submodule path -> what its output shows.
        row: For operators that keep their channels: also derive a residual row of this name and forms inside stock
            blocks named "C2f" + row and "C3k2" + row, all of which leave a network's function unchanged at the start.
        stride: How much the block reduces height and width; an integer of at least 1.
        exceptions: Promise (a key of `PROMISES`) that the block cannot keep -> why.
        places: Level of the feature pyramid, "P2" to "P6" -> options for a row there; the YAML generator's default.
        alias: A short name for commands, where neither `name` nor `row` is what readers of the paper would say.
        helper: For a row that implements no paper: what it does.
        requires: An optional package that the constructor imports.

    Returns:
        The decorator; it returns the class unchanged.

    Raises:
        RegistryError: A name is taken, the constructor does not fit, an argument has the wrong type, or a paper's link
            is missing or given for a helper. Nothing is registered then.
    """
    if inspect.isclass(name):
        raise RegistryError(
            f"@register needs arguments: write @register(paper='https://…') above class {name.__name__}."
        )
    arguments = {k: v for k, v in locals().items() if k in _ARGUMENTS}

    def decorate(cls: T) -> T:
        block_name = name if isinstance(name, str) and name else getattr(cls, "__name__", repr(cls))
        _check_arguments(block_name, arguments)
        if helper and paper:
            raise RegistryError(f"{block_name}: a {helper=} implements no paper; give either `helper` or `paper`.")
        if not helper and not paper.startswith(("http://", "https://")):
            raise RegistryError(
                f"{block_name}: {paper=} is no link. Give the address of the paper, or of a page that "
                "describes the block."
            )
        takes_c2, takes_n, many = channel_rule(block_name, cls)
        block = Block(
            name=block_name,
            cls=cls,
            title=title,
            paper=paper,
            code=code,
            watch=dict(watch or {}),
            operator=cls,
            stride=stride,
            exceptions=dict(exceptions or {}),
            places={k: dict(v) for k, v in (places or {}).items()},
            alias=alias,
            helper=helper,
            requires=requires,
            takes_c2=takes_c2,
            takes_n=takes_n,
            many=many,
        )
        _check_record(block)
        made = [block, *(_derive(block, row) if row is not None else ())]
        if not is_shipped(cls):  # the shipped names are taken whether or not the blocks are in use yet
            _import_builtins()
        for b in made:
            _check_name(b)
        for b in made[1:]:  # carriers live beside their operator, where pickle looks for them
            setattr(sys.modules[cls.__module__], b.name, b.cls)
        for b in made:
            _blocks[b.name] = b
        return cls

    return decorate


_ARGUMENTS = parameters(register)


def get(name: str) -> Block | None:
    """The block registered under `name`, or None."""
    if name not in _blocks:
        load_builtins()
    return _blocks.get(name)


def declared_outside(names: Collection[str]) -> bool:
    """Whether a block of the running program or of another package has one of the names."""
    return any(b.name in names and not b.is_shipped for b in list(_blocks.values()))


def of(cls: Any) -> Block | None:
    """The record of a registered class, or None."""
    return next((b for b in list(_blocks.values()) if b.cls is cls), None)


def is_ours(module: Any) -> bool:
    """Whether a module's class belongs to this package or is registered."""
    return type(module).__module__.split(".")[0] == "yolo_attn" or of(type(module)) is not None


def has_blocks(model: Any) -> bool:
    """Whether a model holds a block of this package, or one that a user registered."""
    return any(is_ours(m) for m in model.modules())


def classes() -> list[type]:
    """Every module class that a checkpoint with registered blocks may hold, helpers of the blocks included."""
    from torch import nn

    homes = {b.cls.__module__ for b in list_blocks()} | {"yolo_attn.carriers", "yolo_attn.layers"}
    homes |= {name for name in sys.modules if name.startswith("yolo_attn.blocks.")}  # networks that rows are made of
    found: dict[type, None] = {}
    for home in sorted(homes):
        for value in vars(sys.modules[home]).values():
            if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ in homes:
                found[value] = None
    return list(found)


def require(name: str) -> Block:
    """The block registered under `name`.

    Raises:
        RegistryError: No such block; the message names the nearest ones.
    """
    block = get(name)
    if block is None:
        raise RegistryError(f"no block is named {name!r}.{suggest(name, _blocks)}")
    return block


def list_blocks() -> list[Block]:
    """All registered blocks, in the order of their declaration."""
    load_builtins()
    return list(_blocks.values())


def operators() -> Iterator[Block]:
    """The operators that carriers are derived from."""
    return (b for b in list_blocks() if not b.carrier and any(o.operator is b.cls and o.carrier for o in list_blocks()))


def carrier(operator: str | type, kind: str) -> Block:
    """The carrier (`kind` "row", "c2f" or "c3k2") of an operator, named by its class, its own name or its row's name.

    Raises:
        RegistryError: The operator is unknown or has no such carrier.
    """
    cls = require(operator).operator if isinstance(operator, str) else operator
    for b in list_blocks():
        if b.operator is cls and b.carrier == kind:
            return b
    raise RegistryError(f"{getattr(cls, '__name__', cls)} has no carrier {kind!r}: declare it with @register(row='…').")


def load_builtins() -> None:
    """Import the package's own blocks, and those of installed packages that offer some, once.

    A package offers blocks by an entry point of the group "yolo_attn.blocks" that names the module to import; its
    blocks are then known in every process, children of DDP included. One that does not import is warned about.
    """
    global _loaded
    if _loaded or getattr(_loading, "active", False):  # the importing thread asks again while the modules register
        return
    _loading.active = True
    try:
        _import_builtins()
        for entry in entry_points(group=ENTRY_POINTS):
            try:
                entry.load()
            except (Exception, SystemExit) as e:
                warnings.warn(
                    f"the blocks of {entry.value} (entry point {entry.name!r} of {ENTRY_POINTS}) do not load: "
                    f"{type(e).__name__}: {e}",
                    RuntimeWarning,
                    stacklevel=2,
                )
    finally:
        _loading.active = False
    _loaded = True


def _import_builtins() -> None:
    """Import the shipped blocks. Other threads wait for the import to finish: Python locks each module's import."""
    for module in BUILTIN_MODULES:
        importlib.import_module(module)


def _check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Hold the decorator's arguments to the annotations of `register`."""
    for argument, value in arguments.items():
        try:
            fit(value, _ARGUMENTS[argument].annotation)
        except ValueError as e:
            raise RegistryError(f"{name}: @register's argument `{argument}` {e}") from e


def _check_record(block: Block) -> None:
    """Check a record's entries against the block itself."""
    if block.stride < 1:
        raise RegistryError(
            f"{block.name}: stride={block.stride} must be at least 1; a block that keeps the size has 1."
        )
    for promise in block.exceptions:
        if promise not in PROMISES:
            raise RegistryError(f"{block.name}: no promise {promise!r} to except.{suggest(promise, PROMISES)}")
    options = block.options
    for level, given in block.places.items():
        if level not in LEVELS:
            raise RegistryError(f"{block.name}: places has no level {level!r}; levels are {', '.join(LEVELS)}.")
        for option, value in given.items():
            if option not in options:
                raise RegistryError(
                    f"{block.name}: places gives {level} the option {option!r}, which the constructor does not have."
                    f"{suggest(str(option), options)}"
                )
            try:
                fit(value, options[option].annotation)
            except ValueError as e:
                raise RegistryError(f"{block.name}: places gives {level} {option}={value!r}; it {e}") from e


def _derive(block: Block, row: str) -> list[Block]:
    """Records for the carriers of an operator."""
    from . import carriers

    c2 = parameters(block.cls).get("c2")
    if block.takes_n or block.many or block.stride != 1 or (c2 is not None and c2.default is c2.empty):
        raise RegistryError(
            f"{block.name}: carriers wrap operators that can keep their channels and size, with a signature `(c1, …)` "
            "or `(c1, c2=None, …)`; drop row= and register the block as it is."
        )
    meta: dict[str, Any] = {"title": block.title, "paper": block.paper, "code": block.code, "operator": block.cls}
    meta |= {"exceptions": block.exceptions, "places": block.places, "requires": block.requires}
    residual = carriers.residual_row(block.cls, row)
    made = [Block(name=row, cls=residual, carrier="row", watch=_under("operator", block.watch), **meta)]
    for kind, base in (("c2f", "C2f"), ("c3k2", "C3k2")):
        cls = carriers.csp_form(residual, base, base + row)
        watch = _under("attn.0.operator", block.watch)
        made.append(Block(name=base + row, cls=cls, carrier=kind, watch=watch, takes_c2=True, takes_n=True, **meta))
    return made


def _under(prefix: str, watch: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{path}": meaning for path, meaning in watch.items()}


def _check_name(block: Block) -> None:
    if not block.name.isidentifier() or keyword.iskeyword(block.name):
        raise RegistryError(f"{block.name!r} is not a Python identifier, so a YAML row cannot name it.")
    old = _blocks.get(block.name)
    # Running a notebook cell or a script's module twice declares the same class again; that replaces the record.
    if old is not None and old.origin != block.origin:
        raise RegistryError(
            f"the name {block.name!r} is registered already, for {old.origin} ({old.paper or old.helper}). "
            "Choose another with @register('OtherName', …)."
        )
    tasks = sys.modules.get("ultralytics.nn.tasks")
    if tasks is not None and block.name in vars(tasks):
        raise RegistryError(
            f"the name {block.name!r} is taken: Ultralytics itself uses it in model YAMLs. "
            "Choose another with @register('OtherName', …)."
        )
    home = sys.modules.get(block.cls.__module__)
    if home is None:
        raise RegistryError(f"{block.name}: the module {block.cls.__module__!r} of its class is not imported.")
    beside = getattr(home, block.name, None)
    if block.carrier and beside is not None and getattr(beside, "__qualname__", "") != block.name:
        raise RegistryError(
            f"the carrier {block.name!r} would replace {block.name} in {home.__name__}; choose another name for row=."
        )
