"""What to insert: the block, the carrier and the options that a user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import registry
from ..registry import Block, suggest
from .base import ModelError

#: Value of `carrier=` -> what it does.
CARRIERS = {
    "row": "insert x + BN0(operator(x)); the model computes the same function before training",
    "csp": "insert the operator into a stock C2f or C3k2, after each bottleneck; the same function before training",
    "down": "replace a strided convolution by a block that downsamples",
    "fuse": "replace Concat by a block with two inputs",
    "none": "insert the block as its author wrote it",
}
#: Stock row -> kind of carrier inside it.
CSP_KINDS = {"C2f": "c2f", "C3k2": "c3k2"}


@dataclass(frozen=True)
class Request:
    """A block and how to use it.

    Attributes:
        block: The operator's record.
        carrier: A key of `CARRIERS`.
        options: The user's options; they override those that the registry suggests for a level.
        suggested: Use the suggested options.
    """

    block: Block
    carrier: str
    options: Mapping[str, Any]
    suggested: bool = True

    def options_at(self, level: str) -> dict[str, Any]:
        """Options of a row at a level."""
        return {**(self.block.places.get(level, {}) if self.suggested else {}), **self.options}


def find_block(name: str) -> tuple[Block, str]:
    """The operator of a name, and the carrier that the name implies.

    Args:
        name: An operator's name, the name of one of its rows, or its short name (cbam for CBAMRow, senetv2 for SaE);
            case does not matter.

    Returns:
        The operator's record; "csp", "down", "fuse" or "row".

    Raises:
        ModelError: No such block.
    """
    blocks = registry.list_blocks()
    named = next((b for b in blocks if b.name == name), None)
    for short in (False, True):  # a block's full name wins over another block's short name
        candidates = ((b, b.names if short else b.names[:1]) for b in blocks)
        named = named or next((b for b, names in candidates if name.lower() in map(str.lower, names)), None)
    if named is None:
        if "," in name:
            raise ModelError(f"block={name}: one block is expected here; insert the next one into the result.")
        near = suggest(name, [n for b in blocks for n in b.names])
        raise ModelError(f"block={name}: no such block.{near} `yolo-attn list` shows all of them.")
    operator = registry.of(named.operator) if named.operator else named
    assert operator is not None
    if operator.many:
        return operator, "fuse"
    return operator, "down" if operator.stride > 1 else "csp" if named.carrier in CSP_KINDS.values() else "row"


def check_options(block: Block, options: Mapping[str, Any]) -> None:
    """Raise a `ModelError` for an option that the block's constructor does not have."""
    known = {k: p for k, p in block.options.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for option in options:
        if option not in known:
            listed = ", ".join(f"{k}={p.default!r}" for k, p in known.items()) or "none"
            raise ModelError(f"{block.name} has no option {option!r}.{suggest(option, known)} Its options: {listed}.")


def read_request(block: str, carrier: str | None, options: Mapping[str, Any]) -> Request:
    """Check the block, the carrier and the options that a user names.

    Raises:
        ModelError: A name is unknown, or the block cannot be used in that way.
    """
    operator, implied = find_block(block)
    if carrier is not None and carrier not in CARRIERS:
        near = suggest(carrier, CARRIERS)
        raise ModelError(f"carrier={carrier}: no such carrier.{near} Carriers: {', '.join(CARRIERS)}.")
    carrier = carrier or implied
    if operator.many and carrier != "fuse":
        raise ModelError(f"carrier={carrier}: {operator.name} takes several inputs; use carrier=fuse.")
    if carrier == "fuse" and not operator.many:
        fusing = ", ".join(b.name for b in registry.list_blocks() if b.many) or "none"
        raise ModelError(f"carrier=fuse: {operator.name} takes one input; blocks that take several: {fusing}.")
    if carrier == "down" and operator.stride != 2:
        down = ", ".join(b.name for b in registry.list_blocks() if b.stride == 2) or "none"
        raise ModelError(f"carrier=down: {operator.name} keeps height and width; blocks that downsample: {down}.")
    if carrier != "down" and operator.stride != 1:
        raise ModelError(
            f"carrier={carrier}: {operator.name} has stride {operator.stride}; use carrier=down (stride 2)."
        )
    kinds = {b.carrier for b in registry.list_blocks() if b.operator is operator.cls}
    if (carrier == "row" and "row" not in kinds) or (carrier == "csp" and not kinds & set(CSP_KINDS.values())):
        raise ModelError(
            f"carrier={carrier}: {operator.name} has no carriers. Declare them with @register(row='...'), or use "
            "carrier=none, which inserts the block as it is; the model then computes another function from the start."
        )
    check_options(operator, options)
    return Request(operator, carrier, dict(options))


def read_option(name: str, text: str) -> Any:
    """The value of a block's option in a command, as YAML reads it; 1e-5 and the like are numbers as well.

    Raises:
        ModelError: YAML cannot read it.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ModelError(f"{name}={text}: YAML cannot read the value ({str(e).splitlines()[0]}).") from e
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return {"none": None}.get(value.lower(), value)
    return value
