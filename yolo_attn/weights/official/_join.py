"""Layers that the authors keep apart and ours compute in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from . import OfficialWeightsError


def join(ours: dict[str, Tensor], prefix: str, layer: nn.Conv2d, parts: Mapping[str, int]) -> list[str]:
    """Join the authors' layers along their output channels into one of ours, in place.

    Args:
        ours: State dict that holds the parts; on success they make way for the joined weight and bias.
        prefix: Path of `layer` in `ours`.
        layer: Our layer; says which kinds (weight, bias) there are and their shapes.
        parts: Path of each of the authors' layers -> its output channels, in the order of ours.

    Returns:
        What is missing or misshapen, in words and under the authors' names; then nothing was joined.
    """
    wrong = []
    for kind, target in layer.named_parameters():
        keys = {f"{path}.{kind}": (rows, *target.shape[1:]) for path, rows in parts.items()}
        bad = [f"missing {key} {shape}" for key, shape in keys.items() if key not in ours]
        bad += [
            f"shape of {key}: {tuple(ours[key].shape)} given, {shape} needed"
            for key, shape in keys.items()
            if key in ours and tuple(ours[key].shape) != shape
        ]
        if not bad:
            ours[f"{prefix}.{kind}"] = torch.cat([ours.pop(key) for key in keys])
        wrong += bad
    return wrong


def refuse(module: nn.Module, wrong: Sequence[str]) -> None:
    """Raise where `join` found something wrong.

    Raises:
        OfficialWeightsError: `wrong` is not empty.
    """
    if wrong:
        raise OfficialWeightsError(f"the state dict does not fit {type(module).__name__}: " + "; ".join(wrong))
