"""The feature maps of a model: built on the meta device, without memory, and run once."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..registry import RegistryError
from .base import ModelError


@dataclass(frozen=True)
class Map:
    """The output of one row.

    Attributes:
        stride: Image pixels between neighbouring positions.
        channels: Channels at the scale that was measured.
    """

    stride: int
    channels: int

    @property
    def level(self) -> str:
        """Level of the feature pyramid: P3 has stride 8."""
        return f"P{round(math.log2(self.stride))}"


def scales(d: Mapping[str, Any]) -> list[str]:
    """Letters of a model's scales; one empty letter where it has none."""
    return list(d.get("scales") or {}) or [""]


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Restore the random state and Ultralytics' default activation afterwards."""
    import torch
    from ultralytics.nn.modules import Conv

    act = Conv.default_act
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            yield
        finally:
            Conv.default_act = act


def build(d: Mapping[str, Any], scale: str) -> Any:
    """Build the rows of a model on the meta device, without allocating memory.

    Args:
        d: A parsed YAML.
        scale: Letter of the scale, or "".

    Returns:
        nn.Sequential, each row with `i` and `f` as Ultralytics sets them.
    """
    from ultralytics.nn import tasks

    model = copy.deepcopy(dict(d))
    if scale:
        model["scale"] = scale
    for row in [*model["backbone"], *model["head"]]:
        if row[2] == "TorchVision" and len(row[3]) > 2:
            row[3][2] = None  # pretrained weights that would be downloaded
    with _isolated():
        return tasks.parse_model(model, model.get("channels", 3), verbose=False)[0]


def measure(d: Mapping[str, Any], scale: str | None = None) -> list[Map | None]:
    """Stride and channels of every row's output, from a forward pass on the meta device.

    Args:
        d: A parsed YAML.
        scale: Letter of the scale; the first by default.

    Returns:
        One entry per row; None where the output is not a single map (lists of maps, text embeddings, the head).
    """
    scale = scales(d)[0] if scale is None else scale
    return list(_measured(json.dumps(d, sort_keys=False), scale))


@functools.lru_cache(maxsize=256)
def _measured(d_json: str, scale: str) -> tuple[Map | None, ...]:
    import torch

    d, size = json.loads(d_json), 256
    modules = build(d, scale).eval()
    outputs: list[Any] = []
    found: list[Map | None] = []
    with _isolated():
        image = torch.zeros(1, d.get("channels", 3), size, size)
        text = torch.zeros(1, 80, 512)
        for m in modules[:-1]:
            sources = [m.f] if isinstance(m.f, int) else m.f
            inputs = [outputs[s] if outputs else image for s in sources]
            if m.type.endswith("ImagePoolingAttn"):  # refines the text embedding; the map is unchanged
                outputs.append(outputs[-1])
                found.append(None)
                continue
            x = inputs[0] if isinstance(m.f, int) else inputs
            y = m(x, text) if m.type.endswith("C2fAttn") else m(x)
            outputs.append(y)
            found.append(_map(y, size))
    return (*found, None)


def _map(y: Any, size: int) -> Map | None:
    if not hasattr(y, "shape") or y.ndim != 4:
        return None
    return Map(2 ** round(math.log2(size / y.shape[-1])), y.shape[1])


def check_builds(d: Mapping[str, Any], what: str) -> list[Map | None]:
    """Build a model at every scale and run it at the first.

    Args:
        d: A parsed YAML.
        what: The model's name in messages.

    Returns:
        As `measure`.

    Raises:
        ModelError: A row does not build; the message is that of its constructor.
    """
    with _explained(what, scales(d)[0]):
        maps = measure(d)
    for scale in scales(d)[1:]:
        with _explained(what, scale):
            build(d, scale)
    return maps


@contextlib.contextmanager
def _explained(what: str, scale: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RegistryError, RuntimeError, IndexError, KeyError, AttributeError) as e:
        at = f" at scale {scale}" if scale else ""
        why = f"the maps do not fit together ({e})" if isinstance(e, RuntimeError) else str(e)
        raise ModelError(f"{what} does not build{at}: {why}") from e
