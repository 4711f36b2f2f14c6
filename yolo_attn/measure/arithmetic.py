"""What an operator does: multiplications, memory kept for the backward pass, and how fast the machine could be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
#: Products of two tensors, element by element, which PyTorch's own counter leaves out.
PRODUCTS = {aten.mul, aten.mul_, aten.addcmul, aten.addcmul_, aten.lerp}


class MacCounter(TorchDispatchMode):
    """Counts multiply-accumulate operations while it is active.

    Convolutions, matrix products and attention are counted with PyTorch's formulas (`torch.utils.flop_counter`, two
    flops to one MAC). Added to them: products of two tensors element by element, one MAC for each element of the
    result. Not counted: normalisation, activations, exponentials, pooling, sums, scaling by a number.

    Attributes:
        macs: The count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        # Not every release of PyTorch has a formula for every kind of attention.
        if "scaled_dot_product" in str(packet) and "backward" not in str(packet):
            q, k, v = args[:3]
            self.macs += (q.shape[-1] + v.shape[-1]) * k.shape[-2] * q.shape[:-1].numel()
        elif packet in flop_registry:
            self.macs += flop_registry[packet](*args, **kwargs, out_val=out) // 2
        elif packet in PRODUCTS and sum(isinstance(a, Tensor) and a.numel() > 1 for a in args) > 1:
            self.macs += out.numel()
        return out


def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """MACs of one forward pass in eval mode."""
    training = module.training
    with torch.no_grad(), MacCounter() as counter:
        module.eval()(*inputs)
    module.train(training)
    return counter.macs


def saved_for_backward(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that one forward pass keeps for the backward pass.

    Every storage that autograd saves counts once and in full, the inputs' too; parameters and buffers, which exist
    anyway, do not.

    Args:
        module: Any module, in the mode that is of interest.
        *inputs: Its inputs, which should require a gradient where they would in a network.
    """
    owned = {_identity(t) for t in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}
    alive = []  # so that no identity is given out twice

    def pack(t: Tensor) -> Tensor:
        if _identity(t) not in owned:
            kept[_identity(t)] = t.untyped_storage().nbytes()
        alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = module(*inputs)
    del out
    return sum(kept.values())


def _identity(t: Tensor) -> int:
    """What tensors with the same memory share, on any device."""
    return t.untyped_storage()._cdata


class Limit:
    """The least time that this machine needs for a number of MACs and bytes, from two yardsticks on the same map.

    One yardstick is a dense 1x1 convolution, the cheapest way of multiplying that a network has; the other a copy. Both
    are timed in turn with what they judge. An operator can hardly beat the slower of two times: its MACs at the
    convolution's speed, and its compulsory traffic (input, output, their gradients, each moved once) at the copy's.

    Args:
        x: The map, (B, C, H, W).
        train: Both passes are meant.

    Attributes:
        convolution: The first yardstick, C to C.
        copy: The second, a function.
    """

    def __init__(self, x: Tensor, train: bool) -> None:
        channels, source, target = x.shape[1], x.detach(), torch.empty_like(x)
        self.convolution = nn.Conv2d(channels, channels, 1, bias=False).to(x.device)
        self.copy: Callable[[], object] = lambda: target.copy_(source)
        self.macs = channels * x.numel()
        self.maps = 5 if train else 2  # forward: x, y; backward: x again, dy, dx

    def seconds(self, macs: int, convolution: float, copy: float) -> float:
        """The least time.

        Args:
            macs: MACs of the forward pass. Training takes three times as many, and so does the convolution's.
            convolution: Seconds of the convolution.
            copy: Seconds of the copy, which moves two maps.
        """
        return max(macs / self.macs * convolution, self.maps / 2 * copy)
