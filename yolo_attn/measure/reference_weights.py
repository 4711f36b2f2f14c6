"""Reference implementations with the weights of our operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .reference import SAM, SK, ACmix, AttnConv, HiLo


def reference_of(operator: nn.Module) -> nn.Module | None:
    """The reference implementation with the weights of one of our operators, in the same mode.

    Args:
        operator: Any module.

    Returns:
        The reference; None for modules without one and for options that the authors' algorithm does not have.
    """
    make = MAKERS.get(type(operator).__name__)
    module = make(operator) if make and type(operator).__module__.startswith("yolo_attn.") else None
    if module is None:
        return None
    like = next(operator.parameters())
    return module.to(like.device, like.dtype).train(operator.training)


def _load(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load by name; linear layers receive the weights of our 1x1 convolutions."""
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    module.load_state_dict({k: v.reshape(shapes.get(k, v.shape)) for k, v in state.items()})
    return module


def _sam(ours: Any) -> nn.Module:
    heads = len(ours.mixed_conv.heads)
    expand_ratio = ours.aggregation.intra.out_channels // ours.v.in_channels
    names = {"mixed_conv.heads.": "local_conv_", "aggregation.intra": "proj0", "aggregation.inter": "proj1"}
    state = {}
    for key, value in ours.state_dict().items():
        for old, new in {**names, "aggregation.bn": "bn"}.items():
            if key.startswith(old):
                rest = key[len(old) :]
                if new == "local_conv_":
                    index, _, rest = rest.partition(".")
                    rest = f"{int(index) + 1}.{rest}"
                key = new + rest
        state[key] = value
    return _load(SAM(ours.v.in_channels, heads, expand_ratio, ours.v.bias is not None), state)


def _hilo(ours: Any) -> nn.Module:
    c1, heads = ours.qkv.in_channels, ours.h_heads + ours.l_heads
    alpha = (ours.l_heads + 0.5) / heads  # the constructor rounds down; 0.5 avoids errors of binary fractions
    module = HiLo(c1, heads, ours.qkv.bias is not None, ours.scale, ours.window_size, alpha)
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("qkv.")}
    for kind, value in ours.qkv.named_parameters():
        parts = dict(zip(("h_qkv", "l_q"), value.split((3 * ours.h_dim, ours.l_dim)), strict=True))
        state |= {f"{name}.{kind}": part for name, part in parts.items() if len(part)}
    return _load(module, state)


def _sk(ours: Any) -> nn.Module:
    conv = ours.convs[0].conv
    kernels = [branch.conv.kernel_size[0] for branch in ours.convs]
    hidden = ours.fc.out_channels
    module = SK(conv.in_channels, kernels, conv.in_channels, conv.groups, hidden, conv.bias is not None)
    return _load(module, ours.state_dict())


def _attn_conv(ours: Any) -> nn.Module:
    c1, d = ours.proj.in_channels, ours.head_dim
    local = [branch.conv for branch in ours.local]
    split = [conv.in_channels // (3 * d) for conv in local] + [ours.global_heads]
    kernels = [conv.kernel_size[0] for conv in local]
    module = AttnConv(c1, c1 // d, split, kernels, ours.window_size, ours.qkv.bias is not None)
    state = {}
    for key, value in ours.state_dict().items():
        if key.startswith("local."):
            _, i, rest = key.split(".", 2)
            if rest.startswith("conv."):
                state[f"convs.{i}.{rest[5:]}"] = value
            else:
                rest = rest.replace("attn_map.fc1", "act_block.0").replace("attn_map.fc2", "act_block.2")
                state[f"act_blocks.{i}.{rest}"] = value
        elif key.startswith("qkv."):
            names = [f"qkvs.{i}" for i in range(len(local))] + ["global_q"] * bool(ours.global_heads)
            for name, part in zip(names, value.split(ours.splits), strict=True):
                state[f"{name}.{key[4:]}"] = part
        else:
            state[key.replace("kv.", "global_kv.")] = value
    return _load(module, state)


def _acmix(ours: Any) -> nn.Module | None:
    window, conv, h = ours.window, ours.conv.dep_conv, ours.heads
    if window.dilation != 1:
        return None
    c2 = conv.out_channels
    module = ACmix(ours.qkv.in_channels, c2, window.kernel, h, conv.kernel_size[0], window.stride)
    names = {"rate_att": "rate1", "rate_conv": "rate2", "conv.fc.weight": "fc.weight"}
    names["conv.dep_conv.weight"] = "dep_conv.weight"
    state: dict[str, Tensor] = {}
    for key, value in ours.state_dict().items():
        if key.startswith("qkv."):  # our channels are ordered (d, 3, h), those of their three layers (h, d)
            parts = value.reshape(c2 // h, 3, h, -1).permute(1, 2, 0, 3).reshape(3, c2, -1)
            state |= {f"conv{i + 1}.{key[4:]}": part for i, part in enumerate(parts)}
        else:
            state[names.get(key, key)] = value
    return _load(module, state)


#: Class name of our operator -> function that creates its reference.
MAKERS: dict[str, Callable[[Any], nn.Module | None]] = {
    "ScaleAwareModulation": _sam,
    "HiLo": _hilo,
    "SKAttention": _sk,
    "AttnConv": _attn_conv,
    "ACmix": _acmix,
}
