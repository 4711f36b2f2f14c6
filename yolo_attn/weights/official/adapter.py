"""What an adapter is, and the one engine that applies it.

An adapter is data. `args` is the parameter list of the authors' constructor as it stands in their code, `build` makes
our module from it, and a `KeyMap` states for every tensor of ours which of the authors' tensors it is made of. Only
`KeyMap.translate` touches tensors; it compares names, shapes and types first and reports all that does not fit, under
the authors' names.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UsageError

Shape = tuple[int, ...]
#: Shape of our tensor, module that holds the layer -> shape of the authors' tensor, and whether theirs is transposed.
Layout = Callable[[Shape, Any], tuple[Shape, bool]]
#: Regular expression, replacement; applied in order.
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


@dataclass(frozen=True)
class Problem:
    """One tensor that does not fit.

    Attributes:
        kind: "missing", "unknown", "shape", "type" or "values".
        key: The authors' name of the tensor.
        given: Shape or type in the state dict; None where it is missing.
        needed: Shape or type that fits; None where it is unknown.
    """

    kind: str
    key: str
    given: Any = None
    needed: Any = None

    def __str__(self) -> str:
        """One line."""
        match self.kind:
            case "missing":
                return f"missing {self.key} {self.needed}"
            case "unknown":
                return f"unknown {self.key} {self.given}"
            case "values":
                return f"{self.key} {self.given} has other values than the authors' code computes"
        return f"{self.kind} of {self.key}: {self.given} given, {self.needed} needed"


class OfficialWeightsError(UsageError):
    """The authors' arguments or weights do not fit.

    Attributes:
        block: Name of the authors' block, where it is known.
        problems: The tensors that do not fit; empty where the arguments are at fault.
    """

    def __init__(self, message: str, block: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.block = block
        self.problems = tuple(problems)


class Part(NamedTuple):
    """Rows of one of the authors' tensors.

    Attributes:
        name: The authors' name of the layer, beside the layer of ours that it belongs to.
        rows: How many rows of theirs.
        start: The first of them.
        total: Rows of their whole tensor; by default `rows`.
    """

    name: str
    rows: int
    start: int = 0
    total: int = 0


def _unchanged(rows: Tensor, _: Any) -> Tensor:
    return rows


@dataclass(frozen=True)
class Join:
    """A layer of ours that is made of several of the authors' layers, or of rows of one.

    Attributes:
        owner: Class of ours that has the layer.
        layer: Regular expression of the layer's path in `owner`.
        parts: Module of class `owner`, match of `layer` -> parts in the order of our rows.
        order: Rows in the authors' order, module -> rows in our order.
    """

    owner: type[nn.Module]
    layer: str
    parts: Callable[[Any, re.Match[str]], Sequence[Part]]
    order: Callable[[Tensor, Any], Tensor] = _unchanged


class _Recipe(NamedTuple):
    """How one tensor of ours is made of the authors'."""

    parts: list[tuple[str, Part, Shape, bool]]  # key, rows, shape of the whole tensor, transposed
    order: Callable[[Tensor, Any], Tensor]
    owner: Any


@dataclass(frozen=True)
class KeyMap:
    """Which of the authors' tensors make up ours.

    Attributes:
        names: Rules that turn a name of ours into the authors'.
        layouts: (regular expression of our name, layout) for tensors that the authors store in another shape.
        joins: Layers made of several of theirs.
        unused: Our module -> tensors that the authors' code saves and ours has no use for, with the shape or the
            values that they must have.
        ignored: Regular expression of the authors' tensors that may be there and are not read.
        aliases: Rules that turn names from another version of the authors' code into those of `names`.
    """

    names: Rules = ()
    layouts: tuple[tuple[str, Layout], ...] = ()
    joins: tuple[Join, ...] = ()
    unused: Callable[[Any], Mapping[str, Shape | Tensor]] = lambda module: {}
    ignored: str = ""
    aliases: Rules = ()

    def theirs(self, name: str) -> str:
        """The authors' name for a name of ours."""
        return _replaced(name, self.names)

    def translate(self, module: nn.Module, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[Problem]]:
        """The authors' state dict as one of ours.

        Args:
            module: Our module; it may be on the meta device.
            state: The authors' state dict.

        Returns:
            The state dict for `module` with its types, and what does not fit. Where something does not, the state dict
            is empty.
        """
        state = self._normalised(state)
        modules = dict(module.named_modules())
        expected = module.state_dict()
        recipes = {key: self._recipe(modules, key, tuple(tensor.shape)) for key, tensor in expected.items()}
        needed: dict[str, tuple[Shape, Tensor | None]] = {}
        for key, recipe in recipes.items():
            needed |= {name: (shape, expected[key]) for name, _, shape, _ in recipe.parts}
        constants = self.unused(module)
        needed |= {k: (tuple(v.shape), v) if isinstance(v, Tensor) else (v, None) for k, v in constants.items()}
        parts = [part for recipe in recipes.values() for part in recipe.parts]
        linear_layers = {key for key, _, shape, transposed in parts if len(shape) == 2 and not transposed}
        problems = list(_compare(needed, state, constants, linear_layers))
        if problems:
            return {}, problems
        return {key: _make(recipes[key], state, tensor) for key, tensor in expected.items()}, []

    def _normalised(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state dict under one version's names, without ignored tensors."""
        out = {}
        for key, value in state.items():
            if self.ignored and re.search(self.ignored, key):
                continue
            name = _replaced(key, self.aliases)
            out[key if name in state else name] = value  # of two versions of one tensor, one is reported as unknown
        return out

    def _recipe(self, modules: Mapping[str, nn.Module], key: str, shape: Shape) -> _Recipe:
        path, _, leaf = key.rpartition(".")
        layout = next((layout for pattern, layout in self.layouts if re.search(pattern, key)), _as_it_is)
        parent = modules[path.rpartition(".")[0]]
        at, join, parts = self._joined(modules, path)
        recipe = _Recipe([], join.order if join else _unchanged, modules[at.rstrip(".")])
        for part in parts or [Part("", shape[0] if shape else 0)]:
            name = self.theirs(f"{at}{part.name}.{leaf}".lstrip(".") if parts else key)
            whole, transposed = layout((part.total or part.rows, *shape[1:]) if shape else shape, parent)
            recipe.parts.append((name, part, whole, transposed))
        return recipe

    def _joined(self, modules: Mapping[str, nn.Module], path: str) -> tuple[str, Join | None, Sequence[Part]]:
        """Path of the module that has a joined layer, the join, and the layer's parts."""
        names = path.split(".")
        for i in range(len(names)):
            owner = modules[".".join(names[:i])]
            for join in self.joins:
                found = re.fullmatch(join.layer, ".".join(names[i:]))
                if found and isinstance(owner, join.owner):
                    return "".join(f"{name}." for name in names[:i]), join, join.parts(owner, found)
        return "", None, ()


@dataclass(frozen=True)
class Adapter:
    """How a module of ours takes the place of one of the authors' classes.

    Attributes:
        args: The parameter list of the authors' constructor; defaults are literals, layers are named by text.
        build: Makes our module from the arguments, which are attributes; `state_keys` are the names of the tensors.
        keys: Which of the authors' tensors make up ours.
    """

    args: str
    build: Callable[[Any], nn.Module]
    keys: KeyMap = KeyMap()

    def module(self, kwargs: Mapping[str, Any], state: Mapping[str, Any]) -> nn.Module:
        """Our module for the authors' arguments.

        Args:
            kwargs: The arguments by name; positional ones are a sequence under "args".
            state: The authors' state dict.

        Raises:
            TypeError: An argument is missing or unknown.
        """
        signature = _signature(self.args)
        positional = kwargs.get("args", ())
        taken = {"args", *list(signature.parameters)[: len(positional)]}
        bound = signature.bind(*positional, **{k: v for k, v in kwargs.items() if k not in taken})
        bound.apply_defaults()
        return self.build(SimpleNamespace(**bound.arguments, state_keys=tuple(state)))


def linear(shape: Shape, _: Any) -> tuple[Shape, bool]:
    """A linear layer of theirs that is a 1x1 convolution here; other convolutions are convolutions there as well."""
    return (shape[:2] if shape[2:] == (1, 1) else shape), False


def norm_eps(norm_layer: Any) -> float:
    """The eps of a LayerNorm.

    Args:
        norm_layer: The class, a `partial` of it, or text such as "LayerNorm(eps=1e-6)".

    Raises:
        OfficialWeightsError: It is another layer.
    """
    if isinstance(norm_layer, str):
        found = re.fullmatch(r"(?:nn\.)?LayerNorm(?:\(eps=([\d.e+-]+)\))?", norm_layer)
        if found:
            return float(found[1] or 1e-5)
    elif isinstance(norm_layer, partial) and norm_layer.func is nn.LayerNorm:
        return float(norm_layer.keywords.get("eps", 1e-5))
    elif norm_layer is nn.LayerNorm:
        return 1e-5
    raise OfficialWeightsError(f"{norm_layer=} is no LayerNorm; the networks are built with nothing else.")


def with_activation(module: nn.Module, act_layer: Any, *owners: type[nn.Module]) -> nn.Module:
    """Replace activations of a module, in place.

    Args:
        module: The module.
        act_layer: An activation's class, or its name in torch.nn.
        *owners: Classes whose attribute `act` is replaced, wherever they are in the module.

    Raises:
        OfficialWeightsError: torch.nn has no activation of that name.
    """
    make = getattr(nn, act_layer, None) if isinstance(act_layer, str) else act_layer
    if make is None:
        raise OfficialWeightsError(f"torch.nn has no {act_layer=}.")
    for m in module.modules():
        if isinstance(m, owners):
            m.act = make()
    return module


def _signature(text: str) -> inspect.Signature:
    """The signature that a parameter list describes."""
    function = ast.parse(f"def _({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [a.arg for a in function.args.args]
    defaults = [ast.literal_eval(d) for d in function.args.defaults]
    required = len(names) - len(defaults)
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    values = [empty] * required + defaults
    return inspect.Signature([inspect.Parameter(n, kind, default=v) for n, v in zip(names, values, strict=True)])


def _replaced(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _as_it_is(shape: Shape, _: Any) -> tuple[Shape, bool]:
    return shape, False


def _compare(
    needed: Mapping[str, tuple[Shape, Tensor | None]],
    state: Mapping[str, Any],
    constants: Collection[str],
    linear_layers: Collection[str],
) -> Iterator[Problem]:
    """Missing and unknown tensors, those of another shape or type, and constants with other values, in this order.

    A linear layer may be a 1x1 convolution in the state dict, too.
    """
    for key, (shape, _) in needed.items():
        if key not in state:
            yield Problem("missing", key, None, shape)
    for key, value in state.items():
        if key not in needed:
            yield Problem("unknown", key, tuple(getattr(value, "shape", ())))
    for key, (shape, like) in needed.items():
        given = state.get(key)
        if key not in state:
            continue
        if not isinstance(given, Tensor):
            yield Problem("type", key, type(given).__name__, "tensor")
        elif tuple(given.shape) != shape and not (key in linear_layers and tuple(given.shape) == (*shape, 1, 1)):
            yield Problem("shape", key, tuple(given.shape), shape)
        elif like is not None and key in constants:
            if not torch.equal(given.to(like), like):
                yield Problem("values", key, shape)
        elif like is not None and like.is_floating_point() and not given.is_floating_point():
            yield Problem("type", key, str(given.dtype).removeprefix("torch."), "floating-point numbers")


def _make(recipe: _Recipe, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """A tensor of ours, with the shape and type of `like`."""
    pieces = []
    for key, part, _, transposed in recipe.parts:
        piece = state[key].transpose(-1, -2) if transposed else state[key]
        pieces.append(piece[part.start : part.start + part.rows] if part.total else piece)
    if len(pieces) > 1:
        pieces = [torch.cat([piece.flatten(1) if piece.dim() > 1 else piece for piece in pieces])]
    return recipe.order(pieces[0].reshape(like.shape), recipe.owner).to(like.dtype)
