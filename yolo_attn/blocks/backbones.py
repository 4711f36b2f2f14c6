"""Whole networks of papers as the first row of a YOLO, and the row that selects one of their maps.

A backbone row takes the image and gives four maps, at strides 4, 8, 16 and 32; `Level` rows after it pass them on one
by one, so that any stock row can follow:

    - [-1, 1, SMTMaps, []] # 0; the model's scale letter selects the paper's size
    - [0, 1, Level, [1]] # 1-P3/8
    - [0, 1, Level, [2]] # 2-P4/16
    - [0, 1, Level, [3]] # 3-P5/32

Shapes  B batch, C_i channels of map i, H W height and width of the image

    backbone   B C H W  ->  [B C_i H/2^(i+2) W/2^(i+2)], i = 0 1 2 3, sides rounded up
"""

from __future__ import annotations

from collections.abc import Mapping
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
from .trunk import Backbone


class BackboneRow(nn.Module):
    """What the rows have in common; a subclass names its network.

    Args:
        c1: Channels of the image.
        size: The paper's size; by default that of scale n.
        options: Entries that replace the size's own, by name; those of `network_class`.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    #: The paper's network.
    network_class: ClassVar[type[Backbone]]
    #: Letter of a model's scale -> the paper's size.
    sizes: ClassVar[Mapping[str, str]] = {}

    def __init__(self, c1: int, size: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.network = self.network_class(self.size(size), c1, **(options or {}))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps, from fine to coarse."""
        return self.network(x)

    @classmethod
    def size(cls, size: str | None) -> str:
        """The paper's size that a row means."""
        return next(iter(cls.sizes.values())) if size is None else str(size)

    @classmethod
    def out_channels(
        cls, c1: int, size: str | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[int, ...]:
        """Channels of the maps that a row with these arguments gives.

        Args:
            c1: Channels of the image.
            size: The paper's size; by default that of scale n.
            options: Entries that replace the size's own.

        Raises:
            RegistryError: Unknown size.
            ValueError: Unknown option.
        """
        network, chosen = cls.network_class, cls.size(size)
        if chosen not in network.sizes:
            hint = suggest(chosen, network.sizes)
            raise RegistryError(
                f"{cls.__name__} has no {size=}.{hint} Sizes: {', '.join(network.sizes)}. "
                "Write it by name, {size: …}: parse_model has other uses for some single letters."
            )
        return network.chosen(network.configure(chosen, options or {}))[1]


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
    network_class: ClassVar[type[Backbone]] = smt_net.SMTBackbone


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
    network_class: ClassVar[type[Backbone]] = litv2_net.LITv2Backbone


@register(paper=cloformer.PAPER, title=cloformer.TITLE, code=cloformer.CODE, stride=4)
class CloFormerMaps(BackboneRow):
    """CloFormer as backbone: in every stage, local weights computed from context, beside attention to a pooled map.

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
    network_class: ClassVar[type[Backbone]] = cloformer_net.CloFormerBackbone


@register(paper=sknet.PAPER, title="Selective Kernel Networks, CVPR 2019", code=sknet.CODE, stride=4)
class SKNetMaps(BackboneRow):
    """SKNet as backbone: a ResNet whose 3x3 convolutions choose their kernel size per channel.

    Args:
        c1: Channels of the image.
        size: The paper's "26", "50" or "101"; without it the model's scale letter decides.
        options: Entries that replace the size's own, by name; those of `SKNetBackbone`.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "26", "s": "50", "m": "101"}
    network_class: ClassVar[type[Backbone]] = sknet_net.SKNetBackbone


@register(paper=acmix.PAPER, title=acmix.TITLE, code=acmix.CODE, stride=4)
class ACmixResNetMaps(BackboneRow):
    """ACmix-ResNet as backbone: a ResNet whose 3x3 convolutions also attend to a neighbourhood.

    Args:
        c1: Channels of the image.
        size: The paper's "26", "38" or "50"; without it the model's scale letter decides.
        options: Entries that replace the size's own, by name; those of `ACmixResNetBackbone`.

    Shape:
        (B, c1, H, W) -> list of (B, C_i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option; otherwise as ACmix.
    """

    sizes: ClassVar[Mapping[str, str]] = {"n": "26", "s": "38", "m": "50"}
    network_class: ClassVar[type[Backbone]] = acmix_net.ACmixResNetBackbone


@register(helper="selects one of the maps of a backbone row")
class Level(nn.Module):
    """Passes on one map of a backbone row.

    Args:
        c1: Channels of the backbone row's maps.
        index: Which map, from 0; of four maps, 1, 2 and 3 are P3, P4 and P5. Negative numbers count from the coarsest.

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

    It cannot run itself: `pretrained=` and `.load()` transfer its one row into a model, and training from it builds the
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
        """Why these weights do not fit a model.

        Args:
            model: A model without a row that takes them.
        """
        source = self.model[0]
        name = type(source).__name__
        row = next((m for m in model.modules() if type(m) is type(source)), None)
        if row is None:
            return f"these are weights of {self.title}, but the model has no row {name}. Use {self.yaml['yaml_file']}."
        there, here = ({k: "x".join(map(str, v.shape)) for k, v in m.state_dict().items()} for m in (source, row))
        key = next((k for k in {**there, **here} if there.get(k) != here.get(k)), "")
        return (
            f"these are weights of {self.title}, and the model's row {name} is of another size ({key}: "
            f"{there.get(key, 'none')} there, {here.get(key, 'none')} here). Use {self.yaml['yaml_file']}, whose "
            "letter chooses the size, or state size and options in the row."
        )

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Raise, with what to do instead."""
        name = self.yaml["yaml_file"]
        raise RuntimeError(
            f"this checkpoint holds the backbone of {self.title} only, no detector. Train one from it: "
            f"yolo train model={name} pretrained=<this file> data=…"
        )
