"""The papers' authors' checkpoints as weights for the backbone rows, and the command `yolo-attn convert`.

`pretrained=smt_tiny.pth` and `.load("smt_tiny.pth")` do the same on the fly.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...blocks.backbones import BackboneWeights
from ...commands.cli import UsageError, arguments
from .files import CheckpointFile
from .inert import CheckpointError, Placeholder, Stored
from .recognise import Recognised, recognise

__all__ = ["CheckpointError", "Conversion", "load", "main", "read"]

#: Where training codes keep the state dict, in the order in which they are looked for.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "state_dict_ema", "ema")
#: Beginnings of names that are taken off where all tensors have them, and where those without are something else's.
ALL_HAVE, SOME_HAVE = ("module.", "_orig_mod.", "model."), ("backbone.", "encoder.")
MOST_BYTES = 4 * 2**30


@dataclass
class Conversion:
    """What was found in a checkpoint of a paper's authors, and our row filled with it.

    Attributes:
        path: The file.
        found: The network and its row.
        wrapper: Under which name the state dict lay; empty where the file is one.
        beside: What else was saved, and was not looked into.
        prefix: What was taken off the tensors' names.
        count: Tensors of the state dict.
        others: Tensors of other parts, such as a detector's neck.
    """

    path: Path
    found: Recognised
    wrapper: str = ""
    beside: list[str] = field(default_factory=list)
    prefix: str = ""
    count: int = 0
    others: list[str] = field(default_factory=list)

    @property
    def scales(self) -> list[str]:
        """Letters of the shipped model whose backbone is of this size."""
        sizes = type(self.found.row).sizes
        return [] if self.found.options else [letter for letter, size in sizes.items() if size == self.found.size]

    @property
    def models(self) -> list[str]:
        """Names of the shipped models that the weights fit; none for a size of somebody's own."""
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
        """Write the checkpoint; the file is there completely or not at all.

        Args:
            out: Where to; ends in .pt, as Ultralytics wants it.

        Raises:
            UsageError: Another ending, or the authors' own file.
            OSError: It cannot be written.
        """
        out = Path(out)
        if out.suffix != ".pt":
            raise UsageError(f"out={out}: Ultralytics loads checkpoints that end in .pt, such as {out.stem}.pt.")
        if out.exists() and out.samefile(self.path):
            raise UsageError(f"out={out} is the file to be converted; choose another name.")
        if not out.parent.is_dir():
            raise UsageError(f"out={out}: there is no folder {out.parent}.")
        handle, part = tempfile.mkstemp(prefix=f".{out.stem}-", suffix=".part", dir=out.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(self.checkpoint(), file)
            os.chmod(part, 0o644)
            os.replace(part, out)
        except BaseException:
            os.unlink(part)
            raise

    def __str__(self) -> str:
        """What was found, in lines."""
        numbers = sum(p.numel() for p in self.found.row.parameters())
        lines = {
            "network": f"{self.found.title}, {numbers:,} parameters without the classifier",
            "options": ", ".join(f"{k}={v}" for k, v in _plain(self.found.options).items()),
            "state dict": f"under {self.wrapper!r}" if self.wrapper else "the file itself",
            "prefix": f"{self.prefix} taken off" if self.prefix else "",
            "not read": ", ".join(self.beside),
            "used": f"{self.count - len(self.others) - len(self.found.dropped)} of {self.count} tensors",
            "dropped": _brief([*self.found.dropped, *self.others]),
            "new": f"{_brief(self.found.fresh)} (not in the file)" if self.found.fresh else "",
            "fits": " ".join(self.models)
            or f"a row {type(self.found.row).__name__} with these options; heads and "
            "windows leave no shape and are for that row to state",
        }
        return "\n".join([str(self.path), *(f"  {k:<11}{v}" for k, v in lines.items() if v)])


def read(path: str | Path) -> Conversion:
    """Recognise a checkpoint of a paper's authors and fill our backbone row with it.

    Nothing in the file is executed, whatever it says; see `inert`.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is damaged, not of a network known here, or asks for what no checkpoint needs.
        FileNotFoundError: There is none.
    """
    path = Path(path)
    file = CheckpointFile(path)
    where, state, beside = _state_dict(path.name, file.content)
    total = len(state)
    prefix, state, others = _unprefixed(state)
    odd = [k for k, v in state.items() if not isinstance(v, Stored)]
    if odd:
        raise CheckpointError(f"{path.name}: {_brief(odd)} in its state dict are no tensors that can be read.")
    size = sum(v.size for v in state.values())
    if size > min(file.size, MOST_BYTES):
        limit = "the file or any network understood here"
        raise CheckpointError(f"{path.name} was refused: its tensors take {size:,} bytes, more than {limit} has.")
    try:
        found = recognise({k: file.read(v) for k, v in state.items()})
    except CheckpointError as e:
        raise CheckpointError(f"{path.name}: {e}") from e
    return Conversion(path, found, where, beside, prefix, total, others)


def load(path: str | Path) -> tuple[dict[str, Any], str]:
    """What Ultralytics' `torch_safe_load` is to return for a checkpoint of a paper's authors.

    Args:
        path: The file.

    Returns:
        The checkpoint, the path.
    """
    from ultralytics.utils import LOGGER

    conversion = read(path)
    left = _brief([*conversion.found.dropped, *conversion.others]) or "nothing"
    LOGGER.info(f"yolo_attn: {conversion.path.name} is {conversion.found.title}; left out: {left}")
    return conversion.checkpoint(), str(path)


def main(words: Iterable[str]) -> int:
    """`yolo-attn convert`: say what is in a checkpoint, and write it as Ultralytics loads it.

    Args:
        words: weights=<file>, and out=<file> to write one.

    Returns:
        0.

    Raises:
        UsageError: Wrong words.
        CheckpointError: See `read`.
    """
    given = arguments(words, ("weights", "out"))
    if "weights" not in given:
        raise UsageError("which file? Say weights=smt_tiny.pth, and out=smt_tiny-yolo.pt to write it for Ultralytics.")
    try:
        conversion = read(given["weights"])
        print(conversion)
        if "out" in given:
            conversion.save(given["out"])
    except OSError as e:
        raise UsageError(f"{e.filename}: {e.strerror}.") from e
    used = given.get("out", given["weights"])
    model = conversion.models[0] if conversion.models else "<your model>.yaml"
    print(f"{'wrote ' + used if 'out' in given else 'usable'}: yolo train model={model} pretrained={used} data=…")
    return 0


def _state_dict(name: str, content: Any) -> tuple[str, dict[str, Any], list[str]]:
    """The state dict in a file's content: under which names, itself, and what lies beside it."""
    path: list[str] = []
    beside: list[str] = []
    for _ in range(4):
        if isinstance(content, dict) and any(isinstance(v, Stored) for v in content.values()):
            return ".".join(path), {str(k): v for k, v in content.items()}, beside
        if not isinstance(content, dict):
            break
        key = next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
        beside += [_describe(k, v) for k, v in content.items() if k != key]
        if key is None:
            content = next((v for k in WRAPPERS if isinstance(v := content.get(k), Placeholder)), content)
            break
        path.append(key)
        content = content[key]
    raise CheckpointError(f"{name}: {_no_state_dict(content, beside)}")


def _no_state_dict(content: Any, beside: list[str]) -> str:
    if isinstance(content, Placeholder):
        if content.name.startswith("yolo_attn."):
            return "this file is converted already; use it as it is, under a name that ends in .pt."
        if content.name.startswith("ultralytics."):
            return "this is a checkpoint of Ultralytics; use it as it is, under a name that ends in .pt."
        return (
            f"it holds an object of the class {content.name}, which is not executed here, instead of a state dict. "
            "Load it with its own code and save `model.state_dict()`."
        )
    what = f"a dict of {', '.join(beside[:8])}" if beside else f"a {type(content).__name__}"
    return f"it holds no state dict, but {what}."


def _unprefixed(state: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """The state dict without the wrappers' beginnings of names: those, itself, and tensors of other parts."""
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


def _describe(key: Any, value: Any) -> str:
    return f"{key} ({value.name})" if isinstance(value, Placeholder) else str(key)


def _brief(names: list[str]) -> str:
    """A few of many names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _plain(value: Any) -> Any:
    """Options as a YAML would have them: lists instead of tuples."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
