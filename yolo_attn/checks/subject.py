"""The block that is checked: how it is built, fed and called."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import Block

CHANNELS = 32


@dataclass(frozen=True)
class Subject:
    """A block and its origin.

    Attributes:
        block: Its record.
        problem: Why the class itself cannot be a row of a model YAML; empty if it can.
        registration: Text of a Python file that registers the class; empty if it is registered.
        modules: Modules that a fresh process imports before it loads a checkpoint with the block.
        folders: What that process needs on `sys.path` for these imports.
        yaml: A model YAML with the block; None builds one.
    """

    block: Block
    problem: str = ""
    registration: str = ""
    modules: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    yaml: Path | None = None

    def is_own_file(self, file: str) -> bool:
        """Whether a source file belongs to the block, rather than to PyTorch, Ultralytics or the checks."""
        bases = [c for c in self.block.cls.__mro__ if c.__module__.partition(".")[0] not in ("builtins", "torch")]
        return str(Path(file).parent) in self.folders or file in map(inspect.getsourcefile, bases)


def build(block: Block, channels: int = CHANNELS) -> nn.Module:
    """The block with its defaults; zero-initialised parameters, which would hide faults, get random values."""
    torch.manual_seed(0)
    c1: Any = [channels, channels] if block.many else channels
    required = [name for name in ("c2", "n") if getattr(block, f"takes_{name}")]
    module: nn.Module = block.cls(c1, *({"c2": channels, "n": 1}[name] for name in required))
    for p in module.parameters():
        if not p.is_meta and p.dim() and not p.any():
            nn.init.normal_(p, std=0.1)
    return module


def inputs(
    block: Block, b: int, h: int, w: int, scale: float = 1.0, channels: int = CHANNELS, grad: bool = False
) -> list[Tensor]:
    """Its inputs (b, channels, h, w), reproducible; with `grad` they require a gradient, as those inside a model do."""
    g = torch.Generator().manual_seed(b * 10000 + h * 100 + w)
    xs = [torch.randn(b, channels, h, w, generator=g) * scale for _ in range(2 if block.many else 1)]
    return [x.requires_grad_(grad) for x in xs]


def run(block: Block, module: nn.Module, xs: list[Tensor]) -> Tensor:
    """Call it as a model does."""
    y: Tensor = module(xs) if block.many else module(*xs)
    return y
