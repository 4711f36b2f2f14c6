"""The limit of the machine: the least time for a number of multiply-adds and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..kernels.window import Window


class Limit:
    """The least time that this machine needs for an operator, from two yardsticks on the same map.

    One yardstick is a dense 1x1 convolution, a network's fastest way to multiply; the other a copy. Both are timed in
    turn with the operator. An operator can hardly be faster than the longer of two times: its multiply-adds at the
    convolution's speed, and its compulsory traffic (input, output, their gradients, each moved once) at the copy's.

    Args:
        x: The map, (B, C, H, W).
        train: Whether both passes are measured.

    Attributes:
        convolution: The first yardstick, C to C.
        copy: The second, a function.
    """

    def __init__(self, x: Tensor, train: bool) -> None:
        channels, source, target = x.shape[1], x.detach(), torch.empty_like(x)
        self.convolution = nn.Conv2d(channels, channels, 1, bias=False).to(x.device)
        self.copy: Callable[[], object] = lambda: target.copy_(source)
        self.multiply_adds = channels * x.numel()
        self.maps = 5 if train else 2  # forward: x, y; backward: x again, dy, dx

    def seconds(self, multiply_adds: int, convolution: float, copy: float) -> float:
        """The least time.

        Args:
            multiply_adds: Of the operator's forward pass. Training takes three times as many, as does the convolution.
            convolution: Seconds of the convolution.
            copy: Seconds of the copy, which moves two maps.
        """
        return max(multiply_adds / self.multiply_adds * convolution, self.maps / 2 * copy)


def attention_bytes(qkv: Sequence[int], window: Window, itemsize: int, train: bool) -> int:
    """Compulsory memory traffic of attention over a sliding neighbourhood, the inner loop of ACmix.

    Forward, queries, keys and values are read and the output is written, each once; the code of the positions, which
    all images and heads share, counts for nothing. Backward, the same is read again, the output's gradient is read and
    those of queries, keys and values are written. Divided by the bandwidth of the memory it gives the least time.

    Args:
        qkv: B D 3 h H W, the shape of the projections.
        window: The neighbourhood.
        itemsize: Bytes of a number.
        train: Whether both passes are counted.
    """
    b, d, _, heads, height, width = qkv
    projections = 3 * b * d * heads * height * width
    output = b * d * heads * -(-height // window.stride) * -(-width // window.stride)
    forward, backward = projections + output, projections + 2 * output + projections
    return itemsize * (forward + backward * train)
