"""Inverted residual mobile block (iRMB): window attention and a depthwise convolution inside an inverted residual.

Paper   Zhang et al., Rethinking Mobile Block for Efficient Attention-based Models, ICCV 2023,
        https://arxiv.org/abs/2301.01146, section 3
Code    https://github.com/zhangzjn/EMO at 27d9b40, model/emo.py. Ours differs: any height and width, where positions
        beyond the edge do not exist (`padding="zero"` gives the authors' numbers: zeros, which enter the softmax); a
        trace or an exported file is valid at other sizes; no N x N matrix; nothing is changed in place.
Shapes  B batch, C channels, H W height and width, M = C * exp_ratio, h heads, D = C / h channels of a head, s side of a
        window, N = s s positions of a window, n windows times heads

    x'      = norm(x)                                    B C H W
    q, k    = conv1x1(x')                                B C H W each
    windows: s x s positions, evenly spread over the map (stride H / s, W / s), so that each window covers all of it
    v       = act(conv1x1(softmax(q k^T / sqrt(D)) x'))  B M H W      or attention last (`attn_pre=False`)
    y       = v + se(silu(bn(dwconv(v))))                B M H W      the inner skip exists if the outer one does
    out     = x + conv1x1(y)                             B C H W
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ..kernels.graph import attention
from ..layers import BatchNorm2d, DropPath, Fusible, LayerNorm2d, check_heads, check_least
from ..registry import register, suggest


class HardMish(nn.Module):
    """x / 2 * clamp(x + 2, 0, 2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return 0.5 * x * (x + 2).clamp(0, 2)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "prelu": nn.PReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hswish": nn.Hardswish,
    "hsigmoid": nn.Hardsigmoid,
    "hmish": HardMish,
}
PADDINGS = ("mask", "zero")
NORMS: dict[str, type[nn.Module]] = {"none": nn.Identity, "bn": BatchNorm2d, "ln": LayerNorm2d, "in": nn.InstanceNorm2d}


class SqueezeExcite(nn.Module):
    """One gate per channel, computed from the map's mean.

    Args:
        c1: Channels in and out.
        ratio: Channels inside over `c1`.
        act: Key of `ACTIVATIONS`.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, ratio: float, act: str) -> None:
        super().__init__()
        inside = max(round(c1 * ratio), 1)
        self.conv_reduce = nn.Conv2d(c1, inside, 1)
        self.act = ACTIVATIONS[act]()
        self.conv_expand = nn.Conv2d(inside, c1, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Squeeze, excite."""
        return x * self.gate(self.conv_expand(self.act(self.conv_reduce(x.mean((2, 3), keepdim=True)))))


@register(
    paper="https://arxiv.org/abs/2301.01146",
    title="Rethinking Mobile Block for Efficient Attention-based Models, ICCV 2023",
    code="https://github.com/zhangzjn/EMO",
    watch={"conv_local": "local context of the expanded channels, added to what attention gathered"},
    row="iRMB",
    places={"P4": {}},
)
class InvertedResidualMobileBlock(Fusible):
    """A mobile block with local (depthwise convolution) and global context (attention over a grid that spans the map).

    Args:
        c1: Input channels; a multiple of `dim_head` with attention.
        c2: Output channels; None for `c1`.
        exp_ratio: Channels inside over `c1`.
        dim_head: Channels per head.
        window_size: Side of a window in positions; 0 or less for one window that is the whole map.
        dw_ks: Kernel size of the depthwise convolution.
        stride: Stride of the depthwise convolution.
        attn: Whether there is attention; without it the block is a plain inverted residual.
        attn_pre: Attention before the expansion, on `c1` channels, rather than after it.
        norm: "bn", "ln" (over channels), "in" or "none", at the start.
        act: Activation of the expansion, a key of `ACTIVATIONS`.
        se_ratio: Squeeze-and-excite channels over the expanded ones; 0 for none.
        qkv_bias: Biases in the projections to queries, keys and values.
        v_group: Expansion head by head.
        v_proj: Whether there is an expansion; it can be omitted only without attention.
        has_skip: Both skips, if channels and size stay.
        dilation: Of the depthwise convolution.
        attn_drop: Dropout rate of the attention weights.
        drop: Dropout rate before the last convolution.
        drop_path: Probability that an image skips the block in training.
        padding: "mask": windows hold only positions of the map. "zero": zeros beyond the edge are positions like all
            others, as in the authors' code.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / stride), ceil(W / stride)) for odd kernels.

    Raises:
        ValueError: An option does not fit the channels or the list of choices.
    """

    folds: ClassVar[Mapping[str, str | None]] = {"norm": None, "bn_local": "conv_local"}

    def __init__(
        self,
        c1: int,
        c2: int | None = None,
        exp_ratio: float = 2.0,
        dim_head: int = 8,
        window_size: int = 7,
        dw_ks: int = 3,
        stride: int = 1,
        attn: bool = True,
        attn_pre: bool = True,
        norm: str = "bn",
        act: str = "silu",
        se_ratio: float = 0.0,
        qkv_bias: bool = True,
        v_group: bool = False,
        v_proj: bool = True,
        has_skip: bool = True,
        dilation: int = 1,
        attn_drop: float = 0.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        padding: str = "mask",
    ) -> None:
        super().__init__()
        c2 = c2 or c1
        mid = int(c1 * exp_ratio)
        for option, value, known in (("norm", norm, NORMS), ("act", act, ACTIVATIONS), ("padding", padding, PADDINGS)):
            if value not in known:
                raise ValueError(f"{option}={value!r} is none of {', '.join(known)}.{suggest(str(value), known)}")
        check_least(1, stride=stride, dilation=dilation, dw_ks=dw_ks)
        if mid < 1:
            raise ValueError(f"{exp_ratio=} leaves no channel of {c1=}; it must be at least {1 / c1:.2g}.")
        if has_skip and stride == 1 and c1 == c2 and dw_ks % 2 == 0:
            raise ValueError(f"{dw_ks=} must be odd, so that the skip has the size of what it is added to.")
        if attn:
            check_heads(c1, dim_head, heads_name="dim_head")
        if attn and mid % (c1 // dim_head) and (v_group or not attn_pre):
            raise ValueError(f"{c1=} times {exp_ratio=} must be a multiple of the {c1 // dim_head} heads")
        if not v_proj and (attn or mid != c1):
            raise ValueError(f"{v_proj=} leaves the channels as they are: it needs attn=False and {exp_ratio=} of 1")
        self.heads = c1 // dim_head if attn else 1
        self.window_size = window_size
        self.attn_pre = attn_pre
        self.padding = padding
        self.has_skip = has_skip and c1 == c2 and stride == 1
        self.norm: nn.Module = nn.Identity() if norm == "none" else NORMS[norm](c1, eps=1e-6)
        self.qk = nn.Conv2d(c1, 2 * c1, 1, bias=qkv_bias) if attn else None
        self.v = nn.Conv2d(c1, mid, 1, groups=self.heads if v_group else 1, bias=qkv_bias) if v_proj else nn.Identity()
        self.act = ACTIVATIONS[act]() if v_proj else nn.Identity()
        self.attn_drop = attn_drop
        reach = dilation * (dw_ks - 1) + 1
        self.conv_local = nn.Conv2d(mid, mid, dw_ks, stride, -(-(reach - stride) // 2), dilation, mid, bias=False)
        self.bn_local: nn.Module = BatchNorm2d(mid, eps=1e-6)
        self.act_local = nn.SiLU()
        self.se: nn.Module = SqueezeExcite(mid, se_ratio, act) if se_ratio > 0 else nn.Identity()
        self.proj_drop = nn.Dropout(drop)
        self.proj = nn.Conv2d(mid, c2, 1, bias=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend and expand, convolve, project."""
        y = self.norm(x)
        y = self.expand(y) if self.qk is None else self.attend(y)
        local = self.se(self.act_local(self.bn_local(self.conv_local(y))))
        y = self.proj(self.proj_drop(y + local if self.has_skip else local))
        return x + self.drop_path(y) if self.has_skip else y

    def expand(self, x: torch.Tensor) -> torch.Tensor:
        """Widen: (B, c1, H, W) -> (B, mid, H, W)."""
        return self.act(self.v(x))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attention within windows, before or after widening: (B, c1, H, W) -> (B, mid, H, W)."""
        assert self.qk is not None
        h, w = x.shape[2:]
        s_h, s_w = (self.window_size, self.window_size) if self.window_size > 0 else (h, w)
        edge = (0, -w % s_w, 0, -h % s_h)
        window = (s_h, (h + edge[3]) // s_h, s_w, (w + edge[1]) // s_w)  # rows, windows down, columns, windows across
        mask_1n1N = None
        if self.padding == "zero":
            x, edge = F.pad(x, edge), (0, 0, 0, 0)
        elif self.window_size > 0:
            real = F.pad(x.new_ones((1, 1, h, w)), edge).expand(1, self.heads, -1, -1)
            mask_1n1N = (1 - to_windows(real, self.heads, window).transpose(2, 3)) * torch.finfo(x.dtype).min
        qk = F.pad(self.qk(x), edge)
        v = F.pad(x if self.attn_pre else self.expand(x), edge)
        q_BnND, k_BnND = (to_windows(t, self.heads, window) for t in qk.chunk(2, 1))
        y_BnND = attention(
            q_BnND,
            k_BnND,
            to_windows(v, self.heads, window),
            None if mask_1n1N is None else mask_1n1N.to(q_BnND.dtype),
            self.attn_drop if self.training else 0.0,
            q_BnND.shape[-1] ** -0.5,
        )
        y = from_windows(y_BnND, self.heads, window)[:, :, :h, :w]
        return self.expand(y) if self.attn_pre else y

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output, if no skip is added to it."""
        return [] if self.has_skip else [self.proj]


def to_windows(x: torch.Tensor, heads: int, window: tuple[int, int, int, int]) -> torch.Tensor:
    """Positions of each window and head: (B, C, rows * down, columns * across) -> (B, n, N, C / heads)."""
    rows, down, columns, across = window
    x = x.reshape(x.shape[0], heads, x.shape[1] // heads, rows, down, columns, across)
    # The SDPA kernel that never holds the N x N weights requires a last dimension of stride 1.
    return x.permute(0, 4, 6, 1, 3, 5, 2).flatten(4, 5).flatten(1, 3).contiguous()


def from_windows(x_BnND: torch.Tensor, heads: int, window: tuple[int, int, int, int]) -> torch.Tensor:
    """The inverse of `to_windows`: (B, n, N, D) -> (B, heads * D, rows * down, columns * across)."""
    rows, down, columns, across = window
    x = x_BnND.reshape(x_BnND.shape[0], down, across, heads, rows, columns, x_BnND.shape[3])
    return x.permute(0, 3, 6, 4, 1, 5, 2).flatten(5, 6).flatten(3, 4).flatten(1, 2)
