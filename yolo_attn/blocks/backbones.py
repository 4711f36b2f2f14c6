"""Whole networks of papers as the first row of a YOLO, and the row that picks one of their maps.

A backbone row takes the image and gives four maps, at strides 4, 8, 16 and 32; `Level` rows behind it hand them on one
by one, so that any stock row can follow:

    - [-1, 1, SMTMaps, []] # 0; the model's scale letter picks the paper's size
    - [0, 1, Level, [1]] # 1-P3/8
    - [0, 1, Level, [2]] # 2-P4/16
    - [0, 1, Level, [3]] # 3-P5/32

The networks themselves are in `smt_net`, `litv2_net`, `cloformer_net`, `sknet_net` and `acmix_net`.

Shapes  B batch, C_i channels of map i, H W height and width of the image

    backbone   B C H W  ->  [B C_i H/2^(i+2) W/2^(i+2)], i = 0 1 2 3, sides rounded up
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import nn

from ..registry import RegistryError, register, suggest
from .acmix import network as acmix_net
from .acmix import operator as acmix
from .cloformer import network as cloformer_net
from .cloformer import operator as cloformer
from .litv2 import network as litv2_net
from .litv2 import operator as litv2
from .sknet import network as sknet_net
from .sknet import operator as sknet
from .smt import network as smt_net
from .smt import operator as smt


class BackboneRow(nn.Module):
    """What the rows have in common: the network, and the channels of its maps before it is built.

    Args:
        network: The paper's network.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).
    """

    #: Letter of a model's scale -> the paper's size.
    sizes: ClassVar[Mapping[str, str]] = {}
    #: The paper's size -> channels of its four maps.
    widths: ClassVar[Mapping[str, Sequence[int]]] = {}

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps, from fine to coarse."""
        return self.network(x)

    @classmethod
    def out_channels(cls, c1: int, size: str, options: Mapping[str, Any] | None = None, *_: Any) -> tuple[int, ...]:
        """Channels of the maps that a row with these arguments gives.

        Args:
            c1: Channels of the image.
            size: The paper's size.
            options: Entries that replace the size's own.

        Raises:
            RegistryError: No such size.
        """
        options = options if isinstance(options, Mapping) else {}
        if str(size) not in cls.widths:
            hint = suggest(str(size), cls.widths)
            known = ", ".join(cls.widths)
            raise RegistryError(
                f"{cls.__name__} has no {size=}.{hint} Sizes: {known}. Write it by name, {{size: …}}: parse_model has "
                "other uses for some single letters."
            )
        channels = tuple(options.get("channels", cls.widths[str(size)]))
        chosen = options.get("outputs", options.get("out_stages"))  # LITv2's word, SMT's word
        return channels if chosen is None else tuple(channels[i] for i in sorted(chosen))


@register(paper=smt.PAPER, title=smt.TITLE, code=smt.CODE, stride=4)
class SMTMaps(BackboneRow):
    """SMT as backbone: modulation at several scales in fine maps, attention in coarse ones.

    Args:
        c1: Channels of the image.
        size: The paper's "t", "s", "b" or "l"; without it the model's scale letter decides.
        options: Entries that replace the size's own, by name; those of `SMTBackbone`.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "t", "s": "s", "m": "b", "l": "l"}
    widths: ClassVar[Mapping[str, Sequence[int]]] = {
        size: c.get("channels", (64, 128, 256, 512)) for size, c in smt_net.SIZES.items()
    }

    def __init__(self, c1: int, size: str = "t", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(smt_net.SMTBackbone(size, c1, **(options or {})))


@register(**litv2.LITV2, stride=4)
class LITv2Maps(BackboneRow):
    """LITv2 as backbone: feed-forward blocks in fine maps, HiLo attention in coarse ones, deformable token merging.

    Args:
        c1: Channels of the image.
        size: The paper's "s", "m" or "b"; without it the model's scale letter decides.
        options: Entries that replace the size's own, by name; those of `LITv2Backbone`.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "s", "s": "s", "m": "m", "l": "b"}
    widths: ClassVar[Mapping[str, Sequence[int]]] = {size: c["channels"] for size, c in litv2_net.SIZES.items()}

    def __init__(self, c1: int, size: str = "s", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(litv2_net.LITv2Backbone(size, c1, **(options or {})))


@register(paper=cloformer.PAPER, title=cloformer.TITLE, code=cloformer.CODE, stride=4)
class CloFormerMaps(BackboneRow):
    """CloFormer as backbone: in every stage, local weights made from context beside attention to a pooled map.

    Args:
        c1: Channels of the image.
        size: The paper's "xxs", "xs" or "s" (or an ablation of `cloformer_net.SIZES`); without it the model's scale
            letter decides.
        options: Entries that replace the size's own, by name; those of `CloFormerBackbone`.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "xxs", "s": "xs", "m": "s"}
    widths: ClassVar[Mapping[str, Sequence[int]]] = {size: c["channels"] for size, c in cloformer_net.SIZES.items()}

    def __init__(self, c1: int, size: str = "xxs", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(cloformer_net.CloFormerBackbone(size, c1, **(options or {})))


@register(paper=sknet.PAPER, title="Selective Kernel Networks, CVPR 2019", code=sknet.CODE, stride=4)
class SKNetMaps(BackboneRow):
    """SKNet as backbone: a ResNet whose 3x3 convolutions choose their kernel size per channel.

    Args:
        c1: Channels of the image.
        size: The paper's "26", "50" or "101"; without it the model's scale letter decides.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "26", "s": "50", "m": "101"}
    widths: ClassVar[Mapping[str, Sequence[int]]] = {size: (256, 512, 1024, 2048) for size in sknet_net.SIZES}

    def __init__(self, c1: int, size: str = "26") -> None:
        super().__init__(sknet_net.SKNetBackbone(size, c1))


@register(paper=acmix.PAPER, title=acmix.TITLE, code=acmix.CODE, stride=4)
class ACmixResNetMaps(BackboneRow):
    """ACmix-ResNet as backbone: a ResNet whose 3x3 convolutions also attend to a neighbourhood.

    Args:
        c1: Channels of the image.
        size: The paper's "26", "38" or "50"; without it the model's scale letter decides.
        options: `heads`, `kernel_att` and `kernel_conv` of `ACmixResNetBackbone`, by name.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size; otherwise as ACmix.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "26", "s": "38", "m": "50"}
    widths: ClassVar[Mapping[str, Sequence[int]]] = {size: (256, 512, 1024, 2048) for size in acmix_net.SIZES}

    def __init__(self, c1: int, size: str = "26", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(acmix_net.ACmixResNetBackbone(size, c1, **(options or {})))


@register(paper="https://arxiv.org/abs/1612.03144", title="Feature Pyramid Networks for Object Detection, CVPR 2017")
class Level(nn.Module):
    """Hands on one map of a backbone row.

    Args:
        c1: Channels of the backbone row's maps.
        index: Which map, from 0; of four maps 1, 2 and 3 are P3, P4 and P5. Negative numbers count from the coarsest.

    Shape:
        list of (B, c1[i], H_i, W_i) -> (B, c1[index], H_index, W_index).

    Raises:
        RegistryError: The row before it gives no list of maps, or has no such map.
    """

    def __init__(self, c1: tuple[int, ...], index: int = -1) -> None:
        super().__init__()
        self.out_channels(c1, index)
        self.index = index

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """The chosen map."""
        return maps[self.index]

    @staticmethod
    def out_channels(c1: tuple[int, ...], index: int) -> int:
        """Channels of the chosen map."""
        if not isinstance(c1, (tuple, list)):
            raise RegistryError("Level picks one of several maps; `from` must name a backbone row, such as SMTMaps.")
        if isinstance(index, bool) or not isinstance(index, int) or not -len(c1) <= index < len(c1):
            raise RegistryError(f"Level has no map {index!r}: the row before it gives {len(c1)}, counted from 0.")
        return c1[index]

    def extra_repr(self) -> str:
        """Which map."""
        return f"index={self.index}"


class BackboneWeights(nn.Module):
    """Pretrained weights of a backbone row, in the form in which Ultralytics loads, aligns and trains models.

    It runs nothing itself: `pretrained=` and `.load()` carry its one row into a model, and training from it builds the
    model that `yaml` describes.

    Args:
        row: The filled row.
        title: What the weights are, for messages.
        yaml: The model YAML that the row belongs to, with its scale.
    """

    def __init__(self, row: BackboneRow, title: str, yaml: dict[str, Any]) -> None:
        super().__init__()
        attributes: dict[str, Any] = {"i": 0, "f": -1, "type": f"{type(row).__module__}.{type(row).__name__}"}
        attributes["np"] = sum(p.numel() for p in row.parameters())
        for name, value in attributes.items():  # as parse_model marks its rows
            setattr(row, name, value)
        self.model = nn.Sequential(row)
        self.title = title
        self.yaml = yaml
        self.task = "detect"
        self.names: dict[int, str] = {}
        self.stride = torch.tensor([32.0])

    def misfit(self, model: nn.Module) -> str:
        """Why a model has no place for these weights.

        Args:
            model: A model without a row that they fit.
        """
        mine = self.model[0]
        name, own = type(mine).__name__, mine.state_dict()
        row = next((m for m in model.modules() if type(m) is type(mine)), None)
        if row is None:
            return f"these are weights of {self.title}, but the model has no row {name}. Use {self.yaml['yaml_file']}."
        theirs = row.state_dict()
        there, here = ({k: "x".join(map(str, v.shape)) for k, v in d.items()} for d in (own, theirs))
        key = next((k for k in {**there, **here} if there.get(k) != here.get(k)), "")
        return (
            f"these are weights of {self.title}, and the model's row {name} is of another size ({key}: "
            f"{there.get(key, 'none')} there, {here.get(key, 'none')} here). Use {self.yaml['yaml_file']}, whose "
            "letter chooses the size, or state size and options in the row."
        )

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Tell what to do instead."""
        name = self.yaml["yaml_file"]
        raise RuntimeError(
            f"this checkpoint holds the backbone of {self.title} only, no detector. Train one from it: "
            f"yolo train model={name} pretrained=<this file> data=…"
        )
