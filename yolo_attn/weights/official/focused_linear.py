"""Focused linear attention (LeapLabTHU/FLatten-Transformer); its `qk_scale` and `attn_drop` have no effect."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.focused_linear import FocusedLinearAttention
from .adapter import Adapter, Join, KeyMap, Layout, Part, Shape, linear


def _tokens(shape: Shape, _: Any) -> tuple[Shape, bool]:
    """Channels come last in the authors' sequences of positions."""
    return (1, shape[2] * shape[3], shape[1]), True


def _pvt(a: Any) -> nn.Module:
    """The attention of flatten_pvt.py, where positions are a sequence."""
    return FocusedLinearAttention(
        a.dim,
        a.num_heads,
        a.focusing_factor,
        a.kernel_size,
        a.qkv_bias,
        a.sr_ratio,
        position=(a.num_patches // a.sr_ratio**2, 1),
        resize="sequence",
        reduce_edges=False,
        proj_drop=a.proj_drop,
    )


def _apart(module: Any, _: Any) -> list[Part]:
    """The authors of PVT project queries apart from keys and values even where both read the same map."""
    c = module.proj.out_channels
    return [Part("q", c), Part("kv", 2 * c)]


NAMES = ((r"^position$", "positional_encoding"),)
LAYOUTS: tuple[tuple[str, Layout], ...] = ((r"^(q|kv|qkv|proj)\.weight$", linear), (r"^(scale|position)$", _tokens))
ADAPTERS = {
    # Of flatten_swin.py: one window is the whole map.
    "fla_swin": Adapter(
        "dim, window_size, num_heads, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0, focusing_factor=3,"
        "kernel_size=5",
        lambda a: FocusedLinearAttention(
            a.dim,
            a.num_heads,
            a.focusing_factor,
            a.kernel_size,
            a.qkv_bias,
            position=a.window_size,
            proj_drop=a.proj_drop,
        ),
        KeyMap(NAMES, LAYOUTS),
    ),
    "fla_pvt": Adapter(
        "dim, num_patches, num_heads=8, qkv_bias=False, qk_scale=None, attn_drop=0.0, proj_drop=0.0, sr_ratio=1,"
        "focusing_factor=3, kernel_size=5",
        _pvt,
        KeyMap(NAMES, LAYOUTS, (Join(FocusedLinearAttention, "qkv", _apart),)),
    ),
}
