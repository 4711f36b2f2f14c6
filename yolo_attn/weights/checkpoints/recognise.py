"""Which of the papers' networks a state dict belongs to, of which size, and its backbone filled with it.

The names of the tensors identify the network, their shapes the size (`network_sizes`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...blocks.backbones import ACmixResNetMaps, BackboneRow, CloFormerMaps, LITv2Maps, SMTMaps
from ..official import acmix, cloformer, litv2, smt
from ..official.adapter import KeyMap
from . import network_sizes
from .refusals import CheckpointError, MisfitError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A network of a paper whose authors' weights can be read.

    Attributes:
        name: Its name.
        row: The backbone row.
        model: The shipped model YAML with that row.
        sign: Regular expression of a tensor's name that no other network has.
        stem: Name of the first convolution's weight.
        configure: Shapes -> sizes and options to try.
        keys: Which of the authors' tensors make up ours.
    """

    name: str
    row: Callable[..., BackboneRow]
    model: str
    sign: str
    stem: str
    configure: Callable[[network_sizes.Shapes], network_sizes.Candidates]
    keys: KeyMap


@dataclass
class Recognised:
    """A backbone row filled with the authors' weights.

    Attributes:
        family: The network.
        size: The paper's size, or the one that `options` change.
        options: What differs from that size; empty for the paper's own.
        row: The filled row.
        dropped: Tensors that a backbone has no use for.
        fresh: Tensors of the row that the authors' file does not have; they have their initial values.
    """

    family: Family
    size: str
    options: dict[str, Any]
    row: BackboneRow
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The network's usual name."""
        if "channels" in self.options:
            return f"{self.family.name} of a custom size"
        changed = ", ".join(f"{k} {v}" for k, v in self.options.items())
        return f"{self.family.name}-{self.size.upper()}" + (f" with {changed}" if changed else "")


def recognise(state: State) -> Recognised:
    """Find out what a state dict is, and fill our network with it.

    Args:
        state: The authors' state dict, prefixes of wrappers removed.

    Raises:
        CheckpointError: It belongs to no network known here, or lacks tensors, or has others.
    """
    family = next((f for f in FAMILIES if any(re.search(f.sign, k) for k in state)), None)
    if family is None:
        raise CheckpointError(_stranger(state))
    dropped = [k for k in state if re.match(r"(head|fc)\.", k)]
    kept = {k: v for k, v in state.items() if k not in dropped}
    kept, fresh = _one_norm_for_each_map(kept) if family.name == "LITv2" else (kept, [])
    misfit: MisfitError | None = None
    for size, options in _configurations(family, kept):
        try:
            return Recognised(family, size, options, _fitted(family, size, options, kept), dropped, fresh)
        except MisfitError as e:
            misfit = misfit or e  # the paper's own size comes first
    raise misfit or MisfitError(family.name, (), "it has too few tensors to determine its size")


def _configurations(family: Family, state: State) -> network_sizes.Candidates:
    """Sizes and options to try; as many as the tensors determine."""
    try:
        yield from family.configure({k: tuple(v.shape) for k, v in state.items()})
    except CheckpointError:
        raise
    except (LookupError, ValueError, ZeroDivisionError):
        return


def _fitted(family: Family, size: str, options: dict[str, Any], state: State) -> BackboneRow:
    """The row filled with the state.

    Raises:
        MisfitError: Tensors do not fit, or the options are impossible.
    """
    network = f"{family.name}-{size.upper()}" if not options else f"{family.name} of a custom size"
    channels = state[family.stem].shape[1] if family.stem in state and state[family.stem].dim() == 4 else 3
    try:
        # Without memory first: the file determines how large it is.
        with torch.device("meta"), _Unfilled():
            row = family.row(channels, size, options or None)
        ours, problems = family.keys.translate(row.network, state)
    except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError) as e:  # impossible sizes
        raise MisfitError(network, (), str(e).split("\n")[0]) from e
    if problems:
        raise MisfitError(network, problems)
    row.network.load_state_dict(ours, assign=True)
    assert not any(t.is_meta for t in row.state_dict().values())
    return row


class _Unfilled(TorchFunctionMode):
    """Skips random initial values; on the meta device they take seconds for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "erfinv_", "bernoulli_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _one_norm_for_each_map(state: State) -> tuple[State, list[str]]:
    """LITv2's detector normalises its three coarser maps, the classifier only the last: fill in what it lacks."""
    if "norm.weight" not in state:
        return state, []
    state = {re.sub(r"^norm\.", "norm3.", k): v for k, v in state.items()}
    fresh = []
    for i in (1, 2):
        for kind, make in (("weight", torch.ones), ("bias", torch.zeros)):
            offset = state.get(f"layers.{i}.downsample.dconv.conv_offset.weight")
            if f"norm{i}.{kind}" not in state and offset is not None and offset.dim() == 4:
                state[f"norm{i}.{kind}"] = make(offset.shape[1])
                fresh.append(f"norm{i}.{kind}")
    return state, fresh


FAMILIES = (
    Family(
        name="SMT",
        row=SMTMaps,
        model="yolov8-smt.yaml",
        sign=r"^patch_embed1\.conv\.0\.|^block\d+\.\d+\.attn\.(local_conv_1|proj0)\.",
        stem="patch_embed1.conv.0.weight",
        configure=network_sizes.smt,
        keys=smt.NETWORK,
    ),
    Family(
        name="CloFormer",
        row=CloFormerMaps,
        model="yolov8-cloformer.yaml",
        sign=r"^layers\.\d+\.blocks\.\d+\.attn\.(qkvs|act_blocks|global_kv)\.",
        stem="patch_embed.conv1.conv.0.weight",
        configure=network_sizes.cloformer,
        keys=cloformer.NETWORK,
    ),
    Family(
        name="LITv2",
        row=LITv2Maps,
        model="yolov8-litv2.yaml",
        sign=r"^layers\.\d+\.blocks\.\d+\.(mlp\.dwconv\.dwconv|attn\.l_kv)\.",
        stem="patch_embed.proj.weight",
        configure=network_sizes.litv2,
        keys=litv2.NETWORK,
    ),
    Family(
        name="ACmix-ResNet",
        row=ACmixResNetMaps,
        model="yolov8-acmix-resnet.yaml",
        sign=r"^layer\d+\.\d+\.conv2\.(rate1|dep_conv)",
        stem="conv1.weight",
        configure=network_sizes.acmix_resnet,
        keys=acmix.RESNET,
    ),
)

#: Regular expression of a name -> whose weights have it, and what to do.
STRANGERS = (
    (r"^layers\.\d+\.blocks\.\d+\.attn\.(rate1|dep_conv)", "an ACmix-Swin; the backbone row is for ACmix-ResNet"),
    (r"^layers\.\d+\.downsample\.dconv\.", "a LIT, the first version; the backbone row is for LITv2"),
    (r"^layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table", "a Swin Transformer"),
    (r"^layer\d+\.\d+\.conv2\.(paths|convs)\.", "an SKNet in PyTorch, of which the paper's authors published none"),
    (r"^layer\d+\.\d+\.conv1\.", "a ResNet"),
    (r"^(model\.)?\d+\.(conv|cv1|m|dfl)\.", "a YOLO without its rows; give the checkpoint that Ultralytics saved"),
)


def _stranger(state: Mapping[str, Any]) -> str:
    known = ", ".join(f.name for f in FAMILIES)
    for pattern, what in STRANGERS:
        if any(re.match(pattern, k) for k in state):
            return f"these are weights of {what}. Networks known here: {known}"
    names = ", ".join(list(state)[:4])
    return f"these are weights of none of the networks known here ({known}); they are named {names}, …"
