"""Activation memory: the bytes that a forward pass saves for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def saved_for_backward(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one forward pass saves for the backward pass.

    Every storage that autograd saves counts once and in full, the inputs' included; parameters and buffers, which exist
    anyway, do not count.

    Args:
        module: Any module, in the mode of interest.
        *inputs: Its inputs, which should require a gradient where they would in a network.
    """
    owned = {_identity(t) for t in [*module.parameters(), *module.buffers()]}
    saved: dict[int, int] = {}
    alive = []  # so that no identity is reused

    def pack(t: Tensor) -> Tensor:
        if _identity(t) not in owned:
            saved[_identity(t)] = t.untyped_storage().nbytes()
        alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = module(*inputs)
    del out
    return sum(saved.values())


def _identity(t: Tensor) -> int:
    """Equal for tensors that share memory, on any device."""
    return t.untyped_storage()._cdata
