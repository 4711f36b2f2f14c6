"""AttnConv, the attention of CloFormer: context-aware local weights beside pooled global attention.

Paper   Fan et al., Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023,
        https://arxiv.org/abs/2303.17803, section 3 (Clo block: local branch "AttnConv", global branch)
Code    https://github.com/qhfan/CloFormer at 9181f69, classification/models/blocks.py. Ours differs: any height and
        width (incomplete windows of the global branch are averaged over the positions that they have;
        `pooling="floor"` leaves them out, as the authors' pooling does where their code runs); a zero anywhere in
        `group_split`; one projection for the queries, keys and values of all branches; attention over pooled positions
        without the N x M matrix; swish is the plain SiLU.
Shapes  B batch, C channels, D channels of a head, h heads of the global branch, G_j heads of branch j, m = m_j = G_j D
        its channels, T = 3 m, I = 2 m, H W height and width, N = H W positions, P Q windows of side s along the axes,
        M = P Q

    local branch j, kernel size k_j:
      q, k, v = dwconv_kj(conv1x1(x))                       B m_j H W each    shared weights gather the neighbourhood
      w       = tanh(AttnMap(q * k) / sqrt(D))              B m_j H W         in (-1, 1), per position and channel
      local_j = w * v                                       B m_j H W
      AttnMap = conv1x1 -> swish -> conv1x1                                   no softmax: the non-linearity is stronger
    global branch:
      q       = conv1x1(x);  k, v = conv1x1(avgpool_s(x))   B m N;  B m M
      global  = softmax(q k^T / sqrt(D)) v                  B m H W
    y = conv1x1(concat(local_1, ..., global))               B C H W
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ...kernels import accelerated, eligibility
from ...kernels.clo_attention import Settings, Weights
from ...layers import check_heads
from ...registry import register

PAPER = "https://arxiv.org/abs/2303.17803"
TITLE = "Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023"
CODE = "https://github.com/qhfan/CloFormer"


class AttnMap(nn.Module):
    """Turns the product of query and key into the logits of the local weights; this is where they get non-linear.

    Args:
        c1: Channels in and out.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c1, c1, 1)
        self.act = nn.SiLU()
        self.fc2 = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two 1x1 convolutions around a swish."""
        return self.fc2(self.act(self.fc1(x)))


class LocalBranch(nn.Module):
    """One local branch of `AttnConv`: a depthwise convolution whose result is weighted by its own context.

    Args:
        c1: Channels of the branch (heads times channels per head).
        kernel_size: Odd side of the depthwise convolution.
        scale: Factor before the tanh.
        attn_drop: Dropout rate of the weights.

    Shape:
        (B, 3 c1, H, W), projected queries, keys and values -> (B, c1, H, W).
    """

    def __init__(self, c1: int, kernel_size: int, scale: float, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3 * c1, 3 * c1, kernel_size, padding=kernel_size // 2, groups=3 * c1)
        self.attn_map = AttnMap(c1)
        self.tanh = nn.Tanh()
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(self, qkv_BTHW: torch.Tensor) -> torch.Tensor:
        """Mix each channel with its neighbourhood, then weight the values."""
        q, k, v = self.conv(qkv_BTHW).chunk(3, 1)  # B m H W each
        return self.attn_drop(self.tanh(self.attn_map(q * k) * self.scale)) * v


def _kernel_arguments(self: AttnConv, x: torch.Tensor) -> tuple[torch.Tensor, Settings, Weights]:
    """The arguments of the kernels of `attn_conv`."""
    if self.training and self.attn_drop:
        raise eligibility.Ineligible("dropout of attention weights is active")
    qkv, proj = eligibility.pointwise(self.qkv), eligibility.pointwise(self.proj)
    kv = eligibility.pointwise(self.kv) if self.global_heads else None
    scales, local = [], []
    for branch in eligibility.exact(self.local, nn.ModuleList):
        attn_map = eligibility.exact(eligibility.exact(branch, LocalBranch).attn_map, AttnMap)
        eligibility.exact(attn_map.act, nn.SiLU)
        eligibility.exact(branch.tanh, nn.Tanh)
        eligibility.no_dropout(branch.attn_drop)
        fc1, fc2 = (eligibility.pointwise(layer, bias=True) for layer in (attn_map.fc1, attn_map.fc2))
        for conv in (eligibility.depthwise(branch.conv), fc1, fc2):
            local += [conv.weight, conv.bias]
        scales.append(branch.scale)
    settings = Settings(tuple(scales), self.global_heads, self.scale, self.window_size, self.pooling == "floor")
    weights = Weights(
        qkv.weight, qkv.bias, proj.weight, proj.bias, kv and kv.weight, kv and kv.bias, tuple(local)
    )  # fmt: skip
    return x, settings, weights


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "local.0.tanh": "weights in (-1, 1) of the first local branch, one per position and channel",
        "proj": "the output; its input is the local branches and then the global one, side by side",
    },
    row="Clo",
    # The paper's windows, kernels and (at stride 32) share of global heads for these strides.
    places={
        "P3": {"kernel_sizes": [5], "window_size": 4},
        "P4": {"kernel_sizes": [7], "window_size": 2},
        "P5": {"group_split": [2, 6], "kernel_sizes": [9], "window_size": 1},
    },
)
class AttnConv(nn.Module):
    """Attends locally with weights made from each position's context, and globally over pooled positions.

    The local heads sharpen what a depthwise convolution sees (high frequencies); the global heads look at the whole map
    at the price of 1/window_size^2 of full attention (low frequencies).

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        group_split: Heads of each local branch, in the order of `kernel_sizes`, then heads of the global branch; they
            add up to `heads`; a zero omits the branch.
        kernel_sizes: Odd sides of the local branches' depthwise convolutions.
        window_size: Side of the windows that the global branch averages into one key and value; 1 means no pooling.
        qkv_bias: Biases in the projections.
        attn_drop: Dropout rate of the weights, local and global.
        proj_drop: Dropout rate of the output.
        pooling: "ceil": every position belongs to a window; windows at the right and lower edge may be smaller.
            "floor": positions beyond the last whole window are no keys or values, as in the authors' code (a side
            shorter than one window still makes one).

    Shape:
        (B, c1, H, W) -> (B, c1, H, W) for any H, W >= 1.

    Raises:
        ValueError: Heads do not divide the channels, or `group_split`, `kernel_sizes`, `window_size` or `pooling` do
            not fit.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (3,),
        window_size: int = 2,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        pooling: str = "ceil",
    ) -> None:
        super().__init__()
        _check(c1, heads, group_split, kernel_sizes, window_size, pooling)
        *local_heads, self.global_heads = group_split
        self.head_dim = c1 // heads
        self.scale = self.head_dim**-0.5
        self.window_size = window_size
        self.pooling = pooling
        branches = [(g * self.head_dim, k) for g, k in zip(local_heads, kernel_sizes, strict=True) if g]
        # Channels of the projection: q, k, v of each local branch, then q of the global branch.
        self.splits = [3 * m for m, _ in branches] + [self.global_heads * self.head_dim] * (self.global_heads > 0)
        self.qkv = nn.Conv2d(c1, sum(self.splits), 1, bias=qkv_bias)
        self.local = nn.ModuleList(LocalBranch(m, k, self.scale, attn_drop) for m, k in branches)
        if self.global_heads:
            self.kv = nn.Conv2d(c1, 2 * self.splits[-1], 1, bias=qkv_bias)
        self.attn_drop = attn_drop
        self.proj = nn.Conv2d(c1, c1, 1, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Local branches and the global branch side by side, then mixed."""
        return self.proj_drop(self.mix(x))

    @accelerated("attn_conv", _kernel_arguments)
    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """The output before dropout, B C H W."""
        parts = self.qkv(x).split(self.splits, 1)
        outputs = [branch(part) for branch, part in zip(self.local, parts, strict=False)]
        if self.global_heads:
            outputs.append(self.attend(parts[-1], self.kv(self.pool(x))))
        return self.proj(torch.cat(outputs, 1))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Average the positions of each window, B C P Q."""
        if self.window_size == 1:
            return x
        s = self.window_size
        pooled_BCPQ = F.avg_pool2d(x, s, s, ceil_mode=True, count_include_pad=False)
        if self.pooling == "floor":
            whole_h, whole_w = x.shape[2] // s, x.shape[3] // s
            # max(whole, 1) in arithmetic that a trace keeps.
            pooled_BCPQ = pooled_BCPQ[:, :, : whole_h + 1 // (whole_h + 1), : whole_w + 1 // (whole_w + 1)]
        return pooled_BCPQ

    def attend(self, q_BmHW: torch.Tensor, kv_BIPQ: torch.Tensor) -> torch.Tensor:
        """Softmax attention of every position over the pooled positions, B m H W; I = 2m."""
        (b, m, height, width), (p, q) = q_BmHW.shape, kv_BIPQ.shape[2:]
        heads, d = self.global_heads, self.head_dim
        dropout = self.attn_drop if self.training else 0.0
        # PyTorch's attention without the N x M weights wants a last dimension of stride 1.
        q_BhND = q_BmHW.reshape(b, heads, d, height * width).transpose(2, 3).contiguous()
        k_BhMD, v_BhMD = kv_BIPQ.reshape(b, 2 * heads, d, p * q).transpose(2, 3).contiguous().chunk(2, 1)
        y_BhND = F.scaled_dot_product_attention(q_BhND, k_BhMD, v_BhMD, dropout_p=dropout, scale=self.scale)
        return y_BhND.transpose(2, 3).reshape(b, m, height, width)

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output."""
        return [self.proj]


def _check(
    c1: int, heads: int, group_split: Sequence[int], kernel_sizes: Sequence[int], window_size: int, pooling: str
) -> None:
    group_split, kernel_sizes = list(group_split), list(kernel_sizes)
    check_heads(c1, heads)
    if len(group_split) != len(kernel_sizes) + 1:
        raise ValueError(
            f"{group_split=} needs one entry for each of {kernel_sizes=} and one more for the global branch; "
            "write 0 for a branch that is not wanted"
        )
    if sum(group_split) != heads or min(group_split) < 0:
        raise ValueError(f"{group_split=} must share out all {heads=}: entries of at least 0 that add up to heads")
    if any(k < 1 or k % 2 == 0 for k in kernel_sizes):
        raise ValueError(f"{kernel_sizes=} must be odd, so that a convolution keeps height and width")
    if window_size < 1:
        raise ValueError(f"{window_size=} must be at least 1; 1 attends to every position")
    if pooling not in ("ceil", "floor"):
        raise ValueError(f"{pooling=} must be 'ceil' (every position counts) or 'floor' (whole windows only)")
