"""What a block is, declared once.

A decorator above a class states the block's paper, the authors' code and what is worth watching inside it; the
constructor's signature states how its channels resolve. The parser, the YAML generator, the command line, the tests,
the benchmarks and the README table all read the records kept here.

Signatures the parser understands (names matter, order matters):

    (self, c1, ...)             keeps the channels
    (self, c1, c2, ...)         projects c1 -> c2; c2 is scaled by the model's width like every stock row
    (self, c1, c2, n, ...)      also takes the repeats, scaled by the model's depth
    (self, c1: list[int], ...)  takes several inputs; `from` in the YAML is then a list
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, TypeVar

from .errors import UsageError

T = TypeVar("T", bound=type)

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
BUILTIN_MODULES = ("yolo_attn.blocks",)
ENTRY_POINTS = "yolo_attn.blocks"
_blocks: dict[str, Block] = {}
_builtins_loaded = False


class RegistryError(UsageError):
    """A block is declared or used in a way that cannot work; the message says how to mend it."""


@dataclass(frozen=True)
class Block:
    """One registered row name and everything known about it.

    Attributes:
        name: The word written in a model YAML.
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
        stride: How much the block shrinks height and width.
        exceptions: Promise of `PROMISES` that the block cannot keep -> the reason, in words for a user.
        places: Level ("P3" is stride 8, "P4" 16, "P5" 32) -> options that suit it; the levels where the paper's
            argument puts the block, and the YAML generator's default.
        word: A short name that commands understand besides the row's, such as the one the paper is known by.
        helper: What a row that implements no paper does; empty for a paper's block.
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
    word: str = ""
    helper: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What commands may call the block, upper or lower case alike."""
        return tuple(dict.fromkeys(w for w in (self.name, self.name.removesuffix("Row"), self.word) if w))

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The constructor's arguments beyond the channels and repeats that the parser fills in."""
        return {k: p for k, p in _parameters(self.cls).items() if k not in ("c1", "c2", "n")}

    @property
    def origin(self) -> str:
        """Import path of the class."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"


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
    word: str = "",
    helper: str = "",
) -> Callable[[T], T]:
    """Declare a block; use as a decorator above an `nn.Module` class.

    Args:
        name: The word for model YAMLs; the class name by default.
        paper: Link to the paper (or wherever the idea is described); required, except for a `helper`.
        title: The paper's title, venue and year.
        code: Link to the authors' code.
        watch: Submodule path -> what its output shows.
        row: For operators that keep their channels: also derive a residual row of this name and forms inside stock
            blocks named "C2f" + row and "C3k2" + row, all of which leave a network's function unchanged at the start.
        stride: How much the block shrinks height and width.
        exceptions: Promise (a key of `PROMISES`) that the block cannot keep -> why.
        places: Level of the feature pyramid, "P2" to "P6" -> options for a row there; the YAML generator's default.
        word: A short name for commands, where neither `name` nor `row` is what readers of the paper would say.
        helper: For a row that implements no paper: what it does.

    Returns:
        The decorator; it returns the class unchanged.

    Raises:
        RegistryError: The name is taken, the constructor does not fit, or a paper's link is missing or given for a
            helper.
    """

    def decorate(cls: T) -> T:
        block_name = name or cls.__name__
        if helper and paper:
            raise RegistryError(f"{block_name}: a {helper=} implements no paper; give either `helper` or `paper`.")
        if not helper and not (isinstance(paper, str) and paper.startswith(("http://", "https://"))):
            raise RegistryError(
                f"{block_name}: {paper=} is no link. Give the address of the paper, or of a page that "
                "describes the block."
            )
        meta: dict[str, Any] = {"title": title, "paper": paper, "code": code, "watch": dict(watch or {})}
        block = Block(
            name=block_name,
            cls=cls,
            operator=cls,
            stride=stride,
            exceptions=dict(exceptions or {}),
            places={k: dict(v) for k, v in (places or {}).items()},
            word=word,
            helper=helper,
            **meta,
            **_channel_rule(block_name, cls),
        )
        for promise in block.exceptions:
            if promise not in PROMISES:
                raise RegistryError(f"{block_name}: no promise {promise!r} to except.{suggest(promise, PROMISES)}")
        for level, options in block.places.items():
            unfit = [o for o in options if o not in block.options]
            if level not in LEVELS or unfit:
                raise RegistryError(f"{block_name}: {places=} must map {', '.join(LEVELS)} to options of the block.")
        made = [block]
        if row is not None:
            made += _derive(block, row)
        for b in made:
            _check_name(b)
        for b in made:
            _blocks[b.name] = b
        return cls

    if inspect.isclass(name):
        raise RegistryError(
            f"@register needs arguments: write @register(paper='https://…') above class {name.__name__}."
        )
    return decorate


def get(name: str) -> Block | None:
    """The block registered under `name`, or None."""
    if name not in _blocks:
        load_builtins()
    return _blocks.get(name)


def of(cls: Any) -> Block | None:
    """The record of a registered class, or None."""
    return next((b for b in _blocks.values() if b.cls is cls), None)


def is_ours(module: Any) -> bool:
    """Whether a module's class belongs to this package or is registered."""
    return type(module).__module__.split(".")[0] == "yolo_attn" or of(type(module)) is not None


def has_blocks(model: Any) -> bool:
    """Whether a model holds a block of this package, or one that a user registered."""
    return any(is_ours(m) for m in model.modules())


def classes() -> list[type]:
    """Every module class that a checkpoint with registered blocks may hold, helpers of the blocks included."""
    from torch import nn

    load_builtins()
    homes = {b.cls.__module__ for b in _blocks.values()} | {"yolo_attn.carriers", "yolo_attn.layers"}
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
    return (
        b for b in list_blocks() if not b.carrier and any(o.operator is b.cls and o.carrier for o in _blocks.values())
    )


def carrier(operator: str | type, kind: str) -> Block:
    """The carrier (`kind` "row", "c2f" or "c3k2") of an operator, named by its class, its own name or its row's name.

    Raises:
        RegistryError: The operator is unknown or has no such carrier.
    """
    block = require(operator) if isinstance(operator, str) else None
    cls = block.operator if block else operator
    for b in list_blocks():
        if b.operator is cls and b.carrier == kind:
            return b
    raise RegistryError(f"{getattr(cls, '__name__', cls)} has no carrier {kind!r}: declare it with @register(row='…').")


def load_builtins() -> None:
    """Import the package's own blocks, and those of installed packages that offer some, once.

    A package offers blocks by an entry point of the group "yolo_attn.blocks" that names the module to import; its
    blocks are then known in every process, children of DDP included. One that does not import is warned about.
    """
    global _builtins_loaded
    if _builtins_loaded:
        return
    _builtins_loaded = True
    for module in BUILTIN_MODULES:
        importlib.import_module(module)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as e:
            warnings.warn(
                f"the blocks of {entry.value} (entry point {entry.name!r} of {ENTRY_POINTS}) do not load: "
                f"{type(e).__name__}: {e}",
                RuntimeWarning,
                stacklevel=2,
            )


def suggest(word: str, words: Any) -> str:
    """A sentence with the words nearest to `word`, or an empty string."""
    lowered = {w.lower(): w for w in words}
    near = get_close_matches(word.lower(), list(lowered), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(lowered[n] for n in near)}?" if near else ""


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    return {k: p for k, p in inspect.signature(cls).parameters.items() if k != "self"}


def _channel_rule(name: str, cls: type) -> dict[str, Any]:
    """Read from the constructor how channels resolve."""
    from torch import nn

    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise RegistryError(f"{name}: a block is a class derived from torch.nn.Module, not {cls!r}.")
    try:
        parameters = _parameters(cls)
    except (TypeError, ValueError) as e:
        raise RegistryError(f"{name}: the constructor's signature cannot be read ({e}).") from e
    words = list(parameters)
    if not words or words[0] != "c1":
        raise RegistryError(
            f"{name}: the constructor's first argument is {words[0] if words else 'missing'!r}; it must be `c1`, "
            "the input channels (then optionally `c2`, the output channels, and `n`, the repeats)."
        )
    if "c2" in words and words[1] != "c2":
        raise RegistryError(f"{name}: `c2` must follow `c1` directly; the constructor has {words}.")
    if "n" in words and words[1:3] != ["c2", "n"]:
        raise RegistryError(f"{name}: `n` must follow `c1, c2`; the constructor has {words}.")
    for word, p in parameters.items():
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_ONLY, p.VAR_KEYWORD):
            raise RegistryError(
                f"{name}: argument `{p}` cannot be reached from a YAML row; rows are called with plain positional "
                "arguments, so declare it as `name=default` without `*`, `/` or `**`."
            )
        if p.default is p.empty and word not in ("c1", "c2", "n") and p.kind is not p.VAR_POSITIONAL:
            raise RegistryError(f"{name}: `{word}` needs a default, so that a bare row `[-1, 1, {name}, []]` builds.")
    many = "list" in str(parameters["c1"].annotation).lower() or "sequence" in str(parameters["c1"].annotation).lower()
    return {"takes_c2": "c2" in words, "takes_n": "n" in words, "many": many}


def _derive(block: Block, row: str) -> list[Block]:
    """Records for the carriers of an operator; their classes live beside the operator, so pickles find them."""
    from . import carriers

    c2 = _parameters(block.cls).get("c2")
    if block.takes_n or block.many or block.stride != 1 or (c2 is not None and c2.default is c2.empty):
        raise RegistryError(
            f"{block.name}: carriers wrap operators that can keep their channels and size, with a signature `(c1, …)` "
            "or `(c1, c2=None, …)`; drop row= and register the block as it is."
        )
    meta: dict[str, Any] = {"title": block.title, "paper": block.paper, "code": block.code, "operator": block.cls}
    meta |= {"exceptions": block.exceptions, "places": block.places}
    residual = carriers.residual_row(block.cls, row)
    made = [Block(name=row, cls=residual, carrier="row", watch=_under("operator", block.watch), **meta)]
    for kind, base in (("c2f", "C2f"), ("c3k2", "C3k2")):
        cls = carriers.csp_form(residual, base, base + row)
        watch = _under("attn.0.operator", block.watch)
        made.append(Block(name=base + row, cls=cls, carrier=kind, watch=watch, takes_c2=True, takes_n=True, **meta))
    for b in made:
        setattr(sys.modules[block.cls.__module__], b.name, b.cls)
    return made


def _under(prefix: str, watch: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{path}": meaning for path, meaning in watch.items()}


def _check_name(block: Block) -> None:
    if not block.name.isidentifier():
        raise RegistryError(f"{block.name!r} is no Python identifier, so a YAML row cannot name it.")
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
