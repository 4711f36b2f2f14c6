"""Cascaded group attention (microsoft/Cream, EfficientViT)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...blocks.cascaded_group import CascadedGroupAttention, EfficientViTBlock
from .adapter import Adapter, KeyMap, OfficialWeightsError, Rules


def _keys(*names: tuple[str, str]) -> KeyMap:
    """The key map of a module whose attention is where `names` put it."""
    rules: Rules = (
        (r"(^|\.)heads\.(\d+)\.qkv\.", r"\1qkvs.\2."),
        (r"(^|\.)heads\.(\d+)\.dw\.", r"\1dws.\2."),
        (r"(^|\.)proj\.", r"\1proj.1."),
        (r"\.conv\.weight$", ".c.weight"),
        *names,
    )

    def indices(module: nn.Module) -> dict[str, Tensor]:
        """Which bias belongs to which two positions: ours is computed; with another index the biases mean others."""
        found = ((path, m) for path, m in module.named_modules() if isinstance(m, CascadedGroupAttention))
        return {keys.theirs(f"{path}.attention_bias_idxs".lstrip(".")): m.distance for path, m in found}

    keys = KeyMap(rules, unused=indices)
    return keys


def _attention(a: Any, window: int) -> nn.Module:
    kernels, value_dim = a.kernels[: a.num_heads], int(a.attn_ratio * a.key_dim)
    return CascadedGroupAttention(a.dim, a.num_heads, a.key_dim, window, kernels, value_dim, "zero")


def _block(a: Any) -> nn.Module:
    if a.type != "s":
        raise OfficialWeightsError(f"cga_block: type={a.type!r} has no mixer; the authors know 's' only")
    if int(a.ar * a.kd) != a.ed // a.nh:
        raise OfficialWeightsError(f"cga_block: ar={a.ar} times kd={a.kd} must be ed={a.ed} / nh={a.nh}")
    return EfficientViTBlock(a.ed, a.nh, a.kd, min(a.window_resolution, a.resolution), a.kernels[: a.nh], "zero")


_ARGS = "dim, key_dim, num_heads=8, attn_ratio=4, resolution=14"
_LOCAL_ARGS = f"{_ARGS}, window_resolution=7, kernels=(5, 5, 5, 5)"
_LOCAL = _keys((r"^", "attn."))
ADAPTERS = {
    # One window is the whole map.
    "cga": Adapter(f"{_ARGS}, kernels=(5, 5, 5, 5)", lambda a: _attention(a, a.resolution), _keys()),
    # For classification: windows no larger than the map that the module was built for.
    "cga_local_window": Adapter(_LOCAL_ARGS, lambda a: _attention(a, min(a.window_resolution, a.resolution)), _LOCAL),
    # For detection: `resolution` has no effect, maps may have any size.
    "cga_local_window_det": Adapter(_LOCAL_ARGS, lambda a: _attention(a, a.window_resolution), _LOCAL),
    "cga_block": Adapter(
        "type, ed, kd, nh=8, ar=4, resolution=14, window_resolution=7, kernels=(5, 5, 5, 5)",
        _block,
        _keys((r"^attn\.", "mixer.m.attn."), (r"^(dw\d|ffn\d)\.", r"\1.m.")),
    ),
}
