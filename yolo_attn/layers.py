"""Small parts that several papers' blocks share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that survives one value per channel, and that keeps the eps its owner chose.

    PyTorch refuses to normalise a training batch that holds a single value per channel (batch of one on a 1x1 map: the
    last batch of an epoch, or a pooled branch). There is no variance to speak of then, so the running statistics are
    used and left as they are. Ultralytics overwrites eps and momentum of every exact `nn.BatchNorm2d`; a subclass keeps
    the authors' 1e-5, without which their weights are off by up to 29 % where the variance is small.

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


class ChannelAffine(nn.Module):
    """scale * x + shift per channel: what is left of a BatchNorm that no convolution precedes.

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


def fold_batchnorm(conv: nn.Conv2d, bn: BatchNorm2d) -> None:
    """Fold an eval-mode BatchNorm into the convolution before it, in place.

    Args:
        conv: Convolution whose output goes to `bn` and nowhere else.
        bn: The BatchNorm; the caller replaces it with `nn.Identity()` afterwards.
    """
    scale, shift = bn.scale_and_shift()
    conv.weight.data = conv.weight.data * scale[:, None, None, None]
    bias = conv.bias.data * scale if conv.bias is not None else torch.zeros_like(shift)
    conv.bias = nn.Parameter(bias + shift, requires_grad=conv.weight.requires_grad)


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch for whole images (Huang et al., arXiv 1603.09382).

    Args:
        rate: Chance of an image to lose the branch; the others' branch is scaled up to keep the expectation.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero the branch of some images, or pass it on unchanged."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * (x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep) / max(keep, 1e-6))

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each cell.

    Its output lies in memory as channels_last, which the 1x1 and depthwise convolutions behind it read fastest on CPU.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each cell over its channels."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


def grouped_conv(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """`conv(x)`, several times faster on CPU where a group has two or four channels.

    PyTorch's CPU kernels work on blocks of eight channels: convolutions with smaller groups (depthwise aside) fall back
    to slow ones, above all in training. There, neighbouring groups are joined into groups of eight channels whose
    weights are zero between the original groups: the same numbers from more, but faster, multiplications.

    Args:
        conv: Any convolution; one that does not gain, is traced or compiled, or carries hooks, is simply called.
        x: (B, C, H, W).

    Returns:
        The convolution's output.
    """
    per_group = min(conv.in_channels, conv.out_channels) // conv.groups
    join = 8 // per_group if per_group in (2, 4) else 1
    if (
        join == 1
        or conv.groups % join
        or (conv.dilation != (1, 1) and per_group > 2)
        or x.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or conv._forward_hooks
        or conv._forward_pre_hooks
    ):
        return conv(x)
    groups = conv.groups // join
    w = conv.weight.unflatten(0, (groups, join, -1))  # groups, join, out, in, k, k
    between = torch.eye(join, dtype=w.dtype, device=w.device)[None, :, None, :, None, None, None]
    w = (w[:, :, :, None] * between).flatten(3, 4).flatten(0, 2)
    return F.conv2d(x, w, conv.bias, conv.stride, conv.padding, conv.dilation, groups)


class ConvNorm(nn.Module):
    """Convolution and BatchNorm without activation: a projection, or the end of a branch that is added to another.

    Args:
        c1: Input channels.
        c2: Output channels.
        stride: Step of the convolution.
        kernel_size: Odd side of the convolution.

    Shape:
        (B, c1, H, W) -> (B, c2, H / stride, W / stride), rounded up.
    """

    def __init__(self, c1: int, c2: int, stride: int = 1, kernel_size: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn: nn.Module = BatchNorm2d(c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project and normalise."""
        return self.bn(self.conv(x))

    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution."""
        if isinstance(self.bn, BatchNorm2d):
            fold_batchnorm(self.conv, self.bn)
            self.bn = nn.Identity()
