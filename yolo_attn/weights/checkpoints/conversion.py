"""From a checkpoint of a paper's authors to a backbone row with its weights, and to a checkpoint of Ultralytics."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ... import atomic
from ...blocks.backbones import BackboneWeights
from ...errors import UsageError
from .files import CheckpointFile
from .inert import Named, Placeholder, Stored
from .recognise import Recognised, recognise
from .refusals import CheckpointError, RefusedError

#: Where training codes keep the state dict, in the order in which they are looked for.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "state_dict_ema", "ema")
#: Prefixes that are removed where all names have them, and those that mark a part of a larger model.
ALL_HAVE, SOME_HAVE = ("module.", "_orig_mod.", "model."), ("backbone.", "encoder.")
MOST_BYTES = 4 * 2**30


@dataclass
class Conversion:
    """What was found in a checkpoint of a paper's authors, and our row filled with it.

    Attributes:
        path: The file.
        found: The network and its row.
        wrapper: Under which name the state dict was found; empty where the file is one.
        beside: What else was saved, and was not read.
        prefix: What was removed from the tensors' names.
        count: Tensors of the state dict.
        others: Tensors of other parts, such as a detector's neck.
        nonfinite: Tensors that hold NaN or infinite numbers.
    """

    path: Path
    found: Recognised
    wrapper: str = ""
    beside: list[str] = field(default_factory=list)
    prefix: str = ""
    count: int = 0
    others: list[str] = field(default_factory=list)
    nonfinite: list[str] = field(default_factory=list)

    @property
    def scales(self) -> list[str]:
        """Letters of the shipped model whose backbone is of this size."""
        sizes = type(self.found.row).sizes
        return [] if self.found.options else [letter for letter, size in sizes.items() if size == self.found.size]

    @property
    def models(self) -> list[str]:
        """Names of the shipped models that the weights fit; none for a size that the paper does not have."""
        return [self.found.family.model.replace("yolov8", f"yolov8{letter}", 1) for letter in self.scales]

    def checkpoint(self) -> dict[str, Any]:
        """A checkpoint as Ultralytics loads it."""
        import yaml

        from ...yamls import shipped as assets

        letter = (self.scales or ["n"])[0]
        name = self.found.family.model
        d = yaml.safe_load((assets.folder() / name).read_text(encoding="utf-8"))
        d |= {"scale": letter, "yaml_file": name.replace("yolov8", f"yolov8{letter}", 1)}
        if not self.scales:
            d["backbone"][0][3] = [{"size": self.found.size, "options": _plain(self.found.options)}]
        model = BackboneWeights(self.found.row, self.found.title, d)
        return {"epoch": -1, "model": model, "ema": None, "optimizer": None, "train_args": {}, "source": self.path.name}

    def save(self, out: str | Path) -> None:
        """Write the checkpoint; the file is complete or untouched.

        Args:
            out: The file to write; ends in .pt, as Ultralytics requires.

        Raises:
            UsageError: Another ending, a folder that does not exist, or the authors' own file.
            OSError: It cannot be written.
        """
        out = Path(out)
        if out.suffix != ".pt":
            raise UsageError(f"out={out}: Ultralytics loads checkpoints that end in .pt, such as {out.stem}.pt.")
        if out.exists() and out.samefile(self.path):
            raise UsageError(f"out={out} is the file to be converted; choose another name.")
        if not out.parent.is_dir():
            raise UsageError(f"out={out}: there is no folder {out.parent}.")
        content = io.BytesIO()  # in memory first: PyTorch hides the cause where a disk is full
        torch.save(self.checkpoint(), content)
        atomic.write_bytes(out, content.getbuffer())

    def __str__(self) -> str:
        """What was found, in lines."""
        numbers = sum(p.numel() for p in self.found.row.parameters())
        lines = {
            "network": f"{self.found.title}, {numbers:,} parameters without the classifier",
            "options": ", ".join(f"{k}={v}" for k, v in _plain(self.found.options).items()),
            "state dict": f"under {self.wrapper!r}" if self.wrapper else "the file itself",
            "prefix": f"{self.prefix} removed" if self.prefix else "",
            "not read": ", ".join(self.beside),
            "used": f"{self.count - len(self.others) - len(self.found.dropped)} of {self.count} tensors",
            "dropped": brief([*self.found.dropped, *self.others]),
            "new": f"{brief(self.found.fresh)} (not in the file)" if self.found.fresh else "",
            "warning": f"NaN or infinite numbers in {brief(self.nonfinite)}" if self.nonfinite else "",
            "fits": " ".join(self.models)
            or f"a row {type(self.found.row).__name__} with these options; heads and windows leave no shape, state "
            "them in that row",
        }
        return "\n".join([str(self.path), *(f"  {k:<11}{v}" for k, v in lines.items() if v)])


def read(path: str | Path) -> Conversion:
    """Recognise a checkpoint of a paper's authors and fill our backbone row with it.

    Nothing in the file is executed, whatever it contains; see `inert`.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is damaged, not of a network known here, or asks for what no checkpoint needs.
        OSError: It cannot be opened.
    """
    path = Path(path)
    with CheckpointFile(path) as file:
        try:
            where, state, beside = _state_dict(file.content)
            total = len(state)
            prefix, state, others = _without_prefixes(state)
            tensors = _read_all(file, state)
            found = recognise(tensors)
        except CheckpointError as e:
            e.path = path
            raise
    nonfinite = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    return Conversion(path, found, where, beside, prefix, total, others, nonfinite)


def load(path: str | Path) -> tuple[dict[str, Any], str]:
    """What Ultralytics' `torch_safe_load` returns for a checkpoint of a paper's authors.

    Args:
        path: The file.

    Returns:
        The checkpoint, the path.

    Raises:
        CheckpointError: See `read`.
        OSError: It cannot be opened.
    """
    from ultralytics.utils import LOGGER

    conversion = read(path)
    left = brief([*conversion.found.dropped, *conversion.others]) or "nothing"
    LOGGER.info(f"yolo_attn: {conversion.path.name} is {conversion.found.title}; left out: {left}")
    return conversion.checkpoint(), str(path)


def brief(names: list[str]) -> str:
    """A few of many names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _state_dict(content: Any) -> tuple[str, dict[str, Any], list[str]]:
    """The state dict in a file's content: under which names, itself, and what else was saved."""
    path: list[str] = []
    beside: list[str] = []
    for _ in range(4):
        if isinstance(content, dict) and any(isinstance(v, Stored) for v in content.values()):
            if not all(isinstance(k, str) and _is_name(k) for k in content):
                raise RefusedError("its state dict has names that no tensor has")
            return ".".join(path), dict(content), beside
        if not isinstance(content, dict):
            break
        key = next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
        beside += [_described(k, v) for k, v in content.items() if k != key]
        if key is None:
            content = next((v for k in WRAPPERS if isinstance(v := content.get(k), Placeholder)), content)
            break
        path.append(key)
        content = content[key]
    raise CheckpointError(_no_state_dict(content, beside))


def _no_state_dict(content: Any, beside: list[str]) -> str:
    if isinstance(content, Placeholder):
        if content.name.startswith("yolo_attn."):
            return "this file is converted already; use it as it is, under a name that ends in .pt"
        if content.name.startswith("ultralytics."):
            return "this is a checkpoint of Ultralytics; use it as it is, under a name that ends in .pt"
        return (
            f"it holds an object of the class {content.name}, which is not executed here, instead of a state dict. "
            "Load it with its own code and save `model.state_dict()`"
        )
    what = f"a dict of {', '.join(beside[:8])}" if beside else f"a {type(content).__name__}"
    return f"it holds no state dict, but {what}"


def _without_prefixes(state: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """The prefixes that wrappers added, the state dict without them, and tensors of other parts."""
    prefix = ""
    others: list[str] = []
    state = dict(state)
    while True:
        common = next((p for p in ALL_HAVE if state and all(k.startswith(p) for k in state)), None)
        common = common or next((p for p in SOME_HAVE if any(k.startswith(p) for k in state)), None)
        if common is None:
            return prefix, state, others
        others += [prefix + k for k in state if not k.startswith(common)]
        state = {k.removeprefix(common): v for k, v in state.items() if k.startswith(common)}
        prefix += common


def _read_all(file: CheckpointFile, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict.

    Raises:
        CheckpointError: Some are no tensors, or together are larger than they can be.
    """
    unread = [k for k, v in state.items() if not isinstance(v, Stored)]
    if unread:
        raise CheckpointError(f"{brief(unread)} in its state dict are no tensors that can be read")
    size = sum(v.size for v in state.values())
    if size > min(file.size, MOST_BYTES):
        raise RefusedError(f"its tensors take {size:,} bytes, more than the file or any network known here has")
    return {k: file.read(v) for k, v in state.items()}


def _described(key: Any, value: Any) -> str:
    name = key if isinstance(key, str) and _is_name(key) else f"a {type(key).__name__} as key"
    return f"{name} ({value.name})" if isinstance(value, (Placeholder, Named)) else name


def _is_name(text: str) -> bool:
    """Whether a text can be printed in a message."""
    return text.isprintable() and len(text) <= 200


def _plain(value: Any) -> Any:
    """Options as a YAML would have them: lists instead of tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
