"""Blocks with the faults that are typical of code pasted from the web; not imported as a module, copied by tests."""

import torch
from torch import nn


class ForeignArgument(nn.Module):
    """The constructor calls its channels `channel`; the squeeze is that of many published SE blocks."""

    def __init__(self, channel, reduction=16):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channel, max(4, channel // reduction)),
            nn.ReLU(),
            nn.Linear(max(4, channel // reduction), channel),
        )

    def forward(self, x):
        return x * self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None]


class KeepsState(nn.Module):
    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1)

    def forward(self, x):
        self.weights = self.conv(x).sigmoid()
        return x * self.weights


class FixedSize(nn.Module):
    def __init__(self, c1: int, size: int = 16) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, c1, size, size))

    def forward(self, x):
        return x + self.position


class ScalesTooLate(nn.Module):
    """The product of float16 values overflows before the Python float scales it."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(c1, 3 * c1, 1)
        self.scale = 1 / 10000

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        attention = ((q.transpose(1, 2) * 8) @ (k * 8) * self.scale).softmax(-1)
        return (v @ attention.transpose(1, 2)).reshape(b, c, h, w)


class LambdaAttribute(nn.Module):
    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1)
        self.gate = lambda x: x.sigmoid()

    def forward(self, x):
        return x * self.gate(self.conv(x))


class ReturnsList(nn.Module):
    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1)

    def forward(self, x):
        weights = self.conv(x).sigmoid()
        return [x * weights, weights]


class NeedsArgument(nn.Module):
    def __init__(self, in_channels, kernel_size):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, kernel_size)


class TwoChannels(nn.Module):
    def __init__(self, inp, oup, *, n: int = 2):
        super().__init__()
        self.conv = nn.Conv2d(inp, oup, 1)

    def forward(self, x):
        return self.conv(x)
