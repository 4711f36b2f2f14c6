"""Reading values inside a running model, by hooks that are gone afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .. import registry
from ..blocks.backbones import BackboneRow
from .gates import gated, row_of


class Passage(NamedTuple):
    """What went through a module: its first input and its output."""

    x: Any
    y: Any


@contextlib.contextmanager
def recording(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Passage]]:
    """Record what passes through modules; the dict is filled by each run of the model."""
    passages: dict[str, Passage] = {}

    def hook(key: str) -> Callable[..., None]:
        def record(_: nn.Module, inputs: tuple[Any, ...], y: Any) -> None:
            passages[key] = Passage(inputs[0] if inputs else None, y)

        return record

    handles = [module.register_forward_hook(hook(key)) for key, module in modules.items()]
    try:
        yield passages
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def bypassed(net: nn.Module) -> Iterator[None]:
    """The model without the contribution of its residual rows, those inside C2f and C3k2 forms included: y = x."""
    handles = [m.register_forward_hook(lambda _, inputs, __: inputs[0]) for m in gated(net).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def head_inputs(net: Any, x_1CHW: Tensor) -> list[Tensor]:
    """The maps that enter a model's head, finest first."""
    with recording({"head": net.model[-1]}) as passages:
        net(x_1CHW)
    maps = passages["head"].x
    return list(maps) if isinstance(maps, (list, tuple)) else [maps]


def watched(net: nn.Module, *paths: str) -> dict[str, Any]:
    """Path -> block, for every block in a model whose registration declares all of `paths` under `watch`."""
    registry.load_builtins()
    found = {}
    for path, module in net.named_modules():
        block = registry.of(type(module))
        if block is not None and all(p in block.watch for p in paths):
            found[path] = module
    return found


def rows_of_blocks(net: Any) -> list[int]:
    """Rows of a model that hold a block and return one map: not the head; `Level` rows instead of their backbone."""
    registry.load_builtins()
    rows = enumerate(net.model[:-1])
    return [i for i, row in rows if any(map(registry.is_ours, row.modules())) and not isinstance(row, BackboneRow)]


def label_of(net: nn.Module, path: str) -> str:
    """Row and name of a block, and where in the row it is if the row is more than the block."""
    row, name = row_of(net, path)
    rest = ".".join(path.split(".")[2:]).removesuffix("operator").strip(".")
    rest = rest.removeprefix("attn.") if rest.removeprefix("attn.").isdigit() else rest
    return f"{row} {name}" + (f".{rest}" if rest else "")
