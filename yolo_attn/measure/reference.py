"""Reference implementations of the five operators, the baselines of `yolo-attn bench blocks`.

Each class follows the published algorithm step by step: tokens and linear layers where the authors have them, one layer
per branch or head, unfolded neighbourhoods, the whole attention matrix at once. They are written from the formulas and
omit inefficiencies of the authors' code (repeated concatenation, activations in Python), so that the baseline is fair.
Parameters have the authors' names: their state dicts load unchanged; `reference_weights.reference_of` converts ours.

Papers and repositories: see `yolo_attn.blocks`.
Shapes  B batch, C channels, H W height and width, N = H W positions, h heads, d head channels, T positions of a window,
        n windows, M pooled positions, K branches or kernel side
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SAM(nn.Module):
    """Scale-aware modulation on tokens, one depthwise convolution per head.

    Args:
        dim: Channels.
        heads: Number of heads; head i has kernel 3 + 2i.
        expand_ratio: Width of the aggregation.
        qkv_bias: Biases of v and s.

    Shape:
        (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, heads: int = 4, expand_ratio: int = 2, qkv_bias: bool = False) -> None:
        super().__init__()
        groups = dim // heads
        self.heads = heads
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.s = nn.Linear(dim, dim, bias=qkv_bias)
        for i in range(heads):
            conv = nn.Conv2d(groups, groups, 3 + 2 * i, padding=1 + i, groups=groups)
            self.add_module(f"local_conv_{i + 1}", conv)
        self.proj0 = nn.Conv2d(dim, dim * expand_ratio, 1, groups=groups)
        self.bn = nn.BatchNorm2d(dim * expand_ratio)
        self.proj1 = nn.Conv2d(dim * expand_ratio, dim, 1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Modulate the values."""
        b, c, height, width = x.shape
        x_BNC = x.flatten(2).transpose(1, 2)
        v_BNC = self.v(x_BNC)
        s_hBdHW = self.s(x_BNC).reshape(b, height, width, self.heads, -1).permute(3, 0, 4, 1, 2)
        scales = [self.get_submodule(f"local_conv_{i + 1}")(s) for i, s in enumerate(s_hBdHW)]
        z = torch.stack(scales, 2).flatten(1, 2)  # one channel of every head, then the next
        m = self.proj1(F.gelu(self.bn(self.proj0(z))))
        y_BNC = self.proj(m.flatten(2).transpose(1, 2) * v_BNC)
        return y_BNC.transpose(1, 2).reshape(b, c, height, width)


class HiLo(nn.Module):
    """HiLo attention: windows as a batch of small attentions, and the whole N x M matrix of the Lo-Fi half.

    Args:
        dim: Channels.
        num_heads: Heads.
        qkv_bias: Biases of the projections.
        qk_scale: Factor on the logits.
        window_size: Side of a window.
        alpha: Share of Lo-Fi heads.

    Shape:
        (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        window_size: int = 2,
        alpha: float = 0.5,
    ) -> None:
        super().__init__()
        self.d, self.ws = dim // num_heads, window_size
        self.scale = qk_scale or self.d**-0.5
        self.l_heads = num_heads if window_size == 1 else int(num_heads * alpha)
        self.h_heads = num_heads - self.l_heads
        l_dim, h_dim = self.l_heads * self.d, self.h_heads * self.d
        if l_dim:
            self.l_q = nn.Linear(dim, l_dim, bias=qkv_bias)
            self.l_kv = nn.Linear(dim, 2 * l_dim, bias=qkv_bias)
            self.l_proj = nn.Linear(l_dim, l_dim)
        if h_dim:
            self.h_qkv = nn.Linear(dim, 3 * h_dim, bias=qkv_bias)
            self.h_proj = nn.Linear(h_dim, h_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate both halves."""
        height, width = x.shape[2:]
        x_BHWC = x.permute(0, 2, 3, 1)
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, -width % self.ws, 0, -height % self.ws))
        halves = [self.hi_fi] * bool(self.h_heads) + [self.lo_fi] * bool(self.l_heads)
        return torch.cat([half(x_BHWC) for half in halves], 3)[:, :height, :width].permute(0, 3, 1, 2)

    def hi_fi(self, x: Tensor) -> Tensor:
        """Attention within windows."""
        b, height, width, c = x.shape
        rows, columns, ws = height // self.ws, width // self.ws, self.ws
        windows = x.reshape(b, rows, ws, columns, ws, c).transpose(2, 3).reshape(b, rows * columns, ws * ws, c)
        qkv = self.h_qkv(windows).reshape(b, rows * columns, ws * ws, 3, self.h_heads, self.d)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # B n h T d
        y_BnhTd = (q @ k.transpose(3, 4) * self.scale).softmax(4) @ v
        y = y_BnhTd.transpose(2, 3).reshape(b, rows, columns, ws, ws, -1).transpose(2, 3)
        return self.h_proj(y.reshape(b, height, width, -1))

    def lo_fi(self, x: Tensor) -> Tensor:
        """Attention of all positions to the pooled map."""
        b, height, width, c = x.shape
        q_BhNd = self.l_q(x).reshape(b, height * width, self.l_heads, self.d).transpose(1, 2)
        if self.ws > 1:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), self.ws).permute(0, 2, 3, 1)
        k, v = self.l_kv(x.reshape(b, -1, c)).reshape(b, -1, 2, self.l_heads, self.d).permute(2, 0, 3, 1, 4)  # B h M d
        y_BhNd = (q_BhNd @ k.transpose(2, 3) * self.scale).softmax(3) @ v
        return self.l_proj(y_BhNd.transpose(1, 2).reshape(b, height, width, -1))


class SK(nn.Module):
    """Selective kernels with a stack of all branches.

    Args:
        channel: Channels.
        kernels: Kernel of each branch.
        reduction: Divisor of the squeezed channels.
        group: Groups of the convolutions.
        L: Smallest number of squeezed channels.
        bias: Biases in the convolutions, as the authors have them.

    Shape:
        (B, channel, H, W) -> (B, channel, H, W).
    """

    def __init__(
        self,
        channel: int = 512,
        kernels: Sequence[int] = (1, 3, 5, 7),
        reduction: int = 16,
        group: int = 1,
        L: int = 32,
        bias: bool = True,
    ) -> None:
        super().__init__()
        d = max(L, channel // reduction)
        self.convs = nn.ModuleList()
        for k in kernels:
            branch = nn.Sequential()
            branch.add_module("conv", nn.Conv2d(channel, channel, k, padding=k // 2, groups=group, bias=bias))
            branch.add_module("bn", nn.BatchNorm2d(channel))
            branch.add_module("relu", nn.ReLU())
            self.convs.append(branch)
        self.fc = nn.Linear(channel, d)
        self.fcs = nn.ModuleList(nn.Linear(d, channel) for _ in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Split, fuse, select."""
        f_KBCHW = torch.stack([branch(x) for branch in self.convs])
        z_BD = self.fc(f_KBCHW.sum(0).mean((2, 3)))
        a_KBC = torch.stack([fc(z_BD) for fc in self.fcs]).softmax(0)
        return (a_KBC[..., None, None] * f_KBCHW).sum(0)


class AttnMap(nn.Module):
    """CloFormer's mapping from products to logits.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act_block = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.SiLU(), nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Two 1x1 convolutions around a swish."""
        return self.act_block(x)


class AttnConv(nn.Module):
    """CloFormer's attention with a projection per branch and the whole attention matrix in the global branch.

    Args:
        dim: Channels.
        num_heads: Heads.
        group_split: Heads per local branch, then of the global branch.
        kernel_sizes: Kernel per local branch.
        window_size: Side of the pooled windows.
        qkv_bias: Biases of the projections.

    Shape:
        (B, dim, H, W) -> (B, dim, H, W), H and W multiples of `window_size`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        group_split: Sequence[int],
        kernel_sizes: Sequence[int],
        window_size: int = 7,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.d, self.ws = dim // num_heads, window_size
        self.scale = self.d**-0.5
        local = [(g * self.d, k) for g, k in zip(group_split, kernel_sizes, strict=False) if g]
        self.heads = group_split[-1]
        self.qkvs = nn.ModuleList(nn.Conv2d(dim, 3 * m, 1, bias=qkv_bias) for m, _ in local)
        self.convs = nn.ModuleList(nn.Conv2d(3 * m, 3 * m, k, padding=k // 2, groups=3 * m) for m, k in local)
        self.act_blocks = nn.ModuleList(AttnMap(m) for m, _ in local)
        if self.heads:
            self.global_q = nn.Conv2d(dim, self.heads * self.d, 1, bias=qkv_bias)
            self.global_kv = nn.Conv2d(dim, 2 * self.heads * self.d, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(dim, dim, 1, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate and project all branches."""
        branches = []
        for qkv, conv, act in zip(self.qkvs, self.convs, self.act_blocks, strict=True):
            q, k, v = conv(qkv(x)).chunk(3, 1)
            branches.append(torch.tanh(act(q * k) * self.scale) * v)
        if self.heads:
            branches.append(self.attend(x))
        return self.proj(torch.cat(branches, 1))

    def attend(self, x: Tensor) -> Tensor:
        """The global branch."""
        b, _, height, width = x.shape
        q_BhNd = self.global_q(x).reshape(b, self.heads, self.d, -1).transpose(2, 3)
        pooled = F.avg_pool2d(x, self.ws) if self.ws > 1 else x
        k, v = self.global_kv(pooled).reshape(b, 2, self.heads, self.d, -1).transpose(3, 4).unbind(1)  # B h M d
        y_BhNd = (self.scale * q_BhNd @ k.transpose(2, 3)).softmax(3) @ v
        return y_BhNd.transpose(2, 3).reshape(b, -1, height, width)


class ACmix(nn.Module):
    """ACmix with unfolded K x K neighbourhoods of keys, values and positions.

    Args:
        in_planes: Channels in.
        out_planes: Channels out.
        kernel_att: Side of the neighbourhood.
        head: Heads.
        kernel_conv: Kernel of the convolution path.
        stride: Stride of both paths.

    Shape:
        (B, in_planes, H, W) -> (B, out_planes, H / stride, W / stride), H and W multiples of `stride` and larger than
        `kernel_att // 2`.
    """

    def __init__(
        self, in_planes: int, out_planes: int, kernel_att: int = 7, head: int = 4, kernel_conv: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.head, self.d, self.k, self.stride = head, out_planes // head, kernel_att, stride
        self.rate1, self.rate2 = (nn.Parameter(torch.full((1,), 0.5)) for _ in range(2))
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(in_planes, out_planes, 1) for _ in range(3))
        self.conv_p = nn.Conv2d(2, self.d, 1)
        self.fc = nn.Conv2d(3 * head, kernel_conv**2, 1, bias=False)
        self.dep_conv = nn.Conv2d(
            self.d * kernel_conv**2, out_planes, kernel_conv, stride, kernel_conv // 2, groups=self.d, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add attention and convolution."""
        b, _, height, width = x.shape
        s = self.stride
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        rows = torch.linspace(-1, 1, height, device=x.device, dtype=self.conv_p.weight.dtype)
        columns = torch.linspace(-1, 1, width, device=x.device, dtype=self.conv_p.weight.dtype)
        place = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)])[None]
        pe = self.conv_p(place)

        q_BdHW = self._split(q)[:, :, ::s, ::s] * self.d**-0.5
        relative = pe[:, :, None, ::s, ::s] - self._neighbours(pe)
        k_BdKHW = self._neighbours(self._split(k)) + relative
        a_BKHW = (q_BdHW[:, :, None] * k_BdKHW).sum(1).softmax(1)
        att = (a_BKHW[:, None] * self._neighbours(self._split(v))).sum(2)
        att = att.reshape(b, -1, *att.shape[2:])

        qkv_B3hdN = torch.cat([t.reshape(b, self.head, self.d, -1) for t in (q, k, v)], 1)
        f = self.fc(qkv_B3hdN).transpose(1, 2).reshape(b, -1, height, width)
        return self.rate1 * att + self.rate2 * self.dep_conv(f)

    def _split(self, x: Tensor) -> Tensor:
        """Move the heads into the batch."""
        return x.reshape(x.shape[0] * self.head, self.d, *x.shape[2:])

    def _neighbours(self, x: Tensor) -> Tensor:
        """(b, d, H, W) -> (b, d, K^2, H / stride, W / stride)."""
        b, d, height, width = x.shape
        p = self.k // 2
        unfolded = F.unfold(F.pad(x, (p, p, p, p), mode="reflect"), self.k, stride=self.stride)
        return unfolded.reshape(b, d, self.k**2, height // self.stride, width // self.stride)
