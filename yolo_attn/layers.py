"""Parts that several papers share: norms and how they fold, convolution with norm, feed-forward, argument checks.

Shapes  B batch, C channels, H W height and width. A tensor whose shape is not B C H W has its shape as a suffix to its
        name, here and in `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

# --- argument checks ---


def check_heads(channels: int, heads: int, channels_name: str = "c1", heads_name: str = "heads") -> None:
    """Refuse a number of heads that does not divide the channels.

    Args:
        channels: Channels to be divided.
        heads: Number of heads, or of channels in one.
        channels_name: Name of the argument that holds the channels, for the message.
        heads_name: Name of the other argument.

    Raises:
        ValueError: `heads` is below 1 or does not divide `channels`.
    """
    if heads < 1 or channels % heads:
        fitting = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(
            f"{channels_name}={channels} must be a multiple of {heads_name}={heads}; for these channels "
            f"{heads_name} can be {fitting}."
        )


def check_least(least: float, **arguments: float) -> None:
    """Refuse numbers that are too small.

    Args:
        least: Smallest value that fits.
        **arguments: Name and value of each argument.

    Raises:
        ValueError: A value is below `least`.
    """
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}.")


def squeezed(channels: int, reduction: float) -> int:
    """Channels inside a bottleneck: `channels // reduction`.

    Raises:
        ValueError: None would be left, or the reduction is below 1.
    """
    check_least(1, reduction=reduction)
    inside = int(channels // reduction)
    if inside < 1:
        raise ValueError(f"c1={channels} leaves no channel after {reduction=}; choose at most {channels}.")
    return inside


# --- norms, and how they fold at inference ---


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that accepts one value per channel, and keeps the eps that its owner chose.

    PyTorch refuses to normalise a training batch that holds a single value per channel (a batch of one on a 1x1 map:
    the last batch of an epoch, or a pooled branch). No variance can be computed then, so the running statistics are
    used and not updated. Ultralytics overwrites eps and momentum of every exact `nn.BatchNorm2d`; a subclass keeps the
    authors' 1e-5, without which their weights are off by up to 29 % where the variance is small.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each channel over batch and space."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift (C,) that eval mode applies to each channel."""
        assert self.running_mean is not None and self.running_var is not None  # as Ultralytics builds them
        with torch.no_grad():
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return scale, self.bias - self.running_mean * scale


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels at each position.

    Its output is channels_last in memory, the layout that the 1x1 and depthwise convolutions after it read fastest on
    CPU.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each position over its channels."""
        y_BHWC = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y_BHWC.permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al., https://arxiv.org/abs/2103.17239).

    Args:
        c1: Channels.
        init: Initial value.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, init: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((c1,), init))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel."""
        return x * self.weight[:, None, None]

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift (C,) of each channel."""
        scale = self.weight.detach()
        return scale, torch.zeros_like(scale)


class ChannelAffine(nn.Module):
    """scale * x + shift per channel: what a BatchNorm becomes at inference where no convolution precedes it.

    Args:
        scale: (C,).
        shift: (C,).

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale[:, None, None].clone(), requires_grad=False)
        self.bias = nn.Parameter(shift[:, None, None].clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale and shift each channel."""
        return x * self.weight + self.bias


FOLDABLE = (BatchNorm2d, LayerScale)


class Fusible(nn.Module):
    """A module that folds its norms and channel scales into the convolutions before them, for inference.

    Attributes:
        folds: Name of a `BatchNorm2d` or `LayerScale` -> path of the convolution whose output it alone receives; None
            where no convolution precedes it.
    """

    folds: ClassVar[Mapping[str, str | None]] = {}

    def fuse(self) -> None:
        """Fold what `folds` declares; a second call changes nothing."""
        for norm, conv in self.folds.items():
            if isinstance(getattr(self, norm), FOLDABLE):
                fold(self, norm, [self.get_submodule(conv)] if conv else [])


def fuse(modules: Iterable[nn.Module]) -> None:
    """Fuse modules in place.

    Args:
        modules: Parents before children, as `nn.Module.modules` gives them; those without `fuse` are skipped. A
            carrier folds its BatchNorm into convolutions that its operator has folded already, so children go first.
    """
    module: Any
    for module in reversed(list(modules)):
        if hasattr(module, "fuse"):
            module.fuse()


def fold(owner: nn.Module, name: str, convs: Sequence[nn.Module]) -> None:
    """Fold a norm in eval mode into the convolutions before it, and replace it.

    Args:
        owner: Module that holds the norm.
        name: Its attribute. Anything but a `BatchNorm2d` or `LayerScale` there is left alone.
        convs: Convolutions whose outputs, side by side, are the norm's input and go nowhere else. If there are none, or
            one is not a plain `nn.Conv2d` (wrapped, parametrised), a `ChannelAffine` takes the norm's place.
    """
    norm: Any = getattr(owner, name)
    if not isinstance(norm, FOLDABLE):
        return
    scale, shift = norm.scale_and_shift()
    plain = [c for c in convs if type(c) is nn.Conv2d]
    if not plain or len(plain) < len(convs):
        setattr(owner, name, ChannelAffine(scale, shift))
        return
    sizes = [c.out_channels for c in plain]
    assert sum(sizes) == len(scale), f"{type(owner).__name__}.{name}: {len(scale)} channels after {sizes}"
    for conv, a, b in zip(plain, scale.split(sizes), shift.split(sizes), strict=True):
        conv.weight.data = conv.weight.data * a[:, None, None, None]
        bias = b if conv.bias is None else conv.bias.data * a + b
        conv.bias = nn.Parameter(bias, requires_grad=conv.weight.requires_grad)
    setattr(owner, name, nn.Identity())


# --- convolutions and feed-forward parts ---


def pad_to(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Zeros at the bottom and right of `x` up to multiples of `rows` and `columns`; `x` itself if none are missing."""
    pad = (0, -x.shape[3] % columns, 0, -x.shape[2] % rows)
    # A trace always pads, by amounts that may be zero: it must be correct at other sizes too.
    return F.pad(x, pad) if torch.jit.is_tracing() or pad[1] or pad[3] else x


def init_transformer(module: nn.Module) -> None:
    """Initialise as PVT does, and SMT, LIT, LITv2 and Swin's linear layers: biases are zero.

    Args:
        module: Its linear layers and 1x1 convolutions get a truncated normal of width 0.02; other convolutions a normal
            of variance 2 / (output values that an input value contributes to).
    """
    for m in module.modules():
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)):
            nn.init.trunc_normal_(m.weight, std=0.02)
        elif isinstance(m, nn.Conv2d):
            fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels // m.groups
            nn.init.normal_(m.weight, std=(2.0 / fan_out) ** 0.5)
        else:
            continue
        if m.bias is not None:
            nn.init.zeros_(m.bias)


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch for whole images (Huang et al., arXiv 1603.09382).

    Args:
        rate: Probability that an image loses the branch; the others' branch is scaled up to keep the expectation.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero the branch of some images, or return it unchanged."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * (x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep) / max(keep, 1e-6))

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


class ConvNorm(Fusible):
    """Convolution, BatchNorm and, if given, an activation.

    Args:
        c1: Input channels.
        c2: Output channels.
        kernel_size: Odd kernel size.
        stride: Stride.
        dilation: Distance between the kernel's taps.
        groups: Groups of the convolution; divides `c1` and `c2`.
        bias: Give the convolution a bias, as some published weights have one; the BatchNorm cancels it.
        act: Activation; none by default.
        gamma: Initial scale of the BatchNorm.

    Shape:
        (B, c1, H, W) -> (B, c2, H / stride, W / stride), rounded up.
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn": "conv"}

    def __init__(
        self,
        c1: int,
        c2: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: nn.Module | None = None,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(c1, c2, kernel_size, stride, padding, dilation, groups, bias=bias)
        self.bn: nn.Module = BatchNorm2d(c2)
        nn.init.constant_(self.bn.weight, gamma)
        self.act = act or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, normalise, activate."""
        return self.act(self.bn(self.conv(x)))


class Mlp(nn.Module):
    """Feed-forward part: two 1x1 convolutions around an activation, with or without a depthwise convolution between.

    Its forms, u = fc1(x), followed by dropout, fc2 and dropout:

        depthwise="none"       act(u)                  LIT, Swin, DilateFormer
        depthwise="before"     act(dwconv(u))          LITv2
        depthwise="residual"   act(u + dwconv(u))      SMT
        depthwise="after"      dwconv(act(u))          CloFormer

    Args:
        c1: Input channels.
        hidden: Channels inside.
        c2: Output channels; `c1` by default.
        act: Activation; GELU by default.
        drop: Dropout rate after the hidden layer and at the end.
        depthwise: Where the depthwise convolution acts.
        kernel_size: Its kernel size; odd sizes keep height and width at stride 1.
        stride: Its stride.

    Shape:
        (B, c1, H, W) -> (B, c2, H, W); with a stride (B, c2, ceil(H / stride), ceil(W / stride)) for odd kernels.

    Raises:
        ValueError: No such form, no channel inside, a kernel or stride below 1.
    """

    def __init__(
        self,
        c1: int,
        hidden: int,
        c2: int | None = None,
        act: nn.Module | None = None,
        drop: float = 0.0,
        depthwise: str = "none",
        kernel_size: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if depthwise not in ("none", "before", "residual", "after"):
            raise ValueError(f'{depthwise=} must be "none", "before", "residual" or "after".')
        if hidden < 1:
            raise ValueError(
                f"{hidden=} channels inside the feed-forward part; a larger `mlp_ratio` leaves at least one."
            )
        check_least(1, kernel_size=kernel_size, stride=stride)
        self.depthwise = depthwise
        self.fc1 = nn.Conv2d(c1, hidden, 1)
        if depthwise != "none":
            self.dwconv = nn.Conv2d(hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden)
        self.act = act or nn.GELU()
        self.fc2 = nn.Conv2d(hidden, c2 or c1, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, activate, narrow."""
        u = self.fc1(x)
        if self.depthwise == "after":
            u = self.dwconv(self.act(u))
        elif self.depthwise == "before":
            u = self.act(self.dwconv(u))
        elif self.depthwise == "residual":
            u = self.act(u + self.dwconv(u))
        else:
            u = self.act(u)
        return self.drop(self.fc2(self.drop(u)))
