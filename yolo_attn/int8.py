"""INT8 exports that keep the rows of blocks in float.

INT8 gives a tensor 256 values between its extremes. The weights of a softmax over hundreds of positions are mostly
smaller than one step and become zero, and a product of two maps has extremes far from its other values: detections are
lost that the stock layers would keep. The quantisers of ONNX Runtime and NNCF leave out nodes by name, and the names
of exported nodes begin with the path of their module.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from . import registry

_logger = logging.getLogger("ultralytics")
#: Formats whose quantiser leaves out nodes.
FORMATS = ("onnx", "openvino")


def is_int8(options: dict[str, Any]) -> bool:
    """Whether arguments of `Model.export` ask for INT8 weights and activations."""
    scheme = options.get("quantize")
    if scheme is None:
        return str(options.get("int8", False)).strip().lower() not in ("none", "false", "0", "")
    return str(scheme).strip().lower() in ("8", "int8", "w8a8")


def pattern(model: Any) -> str:
    """A regular expression that matches the names of exported nodes of rows that hold our blocks."""
    rows = [str(i) for i, row in enumerate(model.model) if registry.has_blocks(row)]
    return rf"(.*[/.])?model\.({'|'.join(rows)})[/.].*"


@contextlib.contextmanager
def blocks_in_float(model: Any, form: str) -> Iterator[None]:
    """While this lasts, the quantiser of a format leaves out the rows that hold our blocks.

    The quantisers of other formats take everything; a warning says so.

    Args:
        model: An Ultralytics model with our blocks.
        form: Format of the export.
    """
    if form not in FORMATS:
        _logger.warning(
            f"yolo_attn: format={form} quantises the attention blocks too, which loses detections in formats where it "
            f"was measured (docs/export.md). Validate the file, or export to {' or '.join(FORMATS)}, where the blocks "
            f"stay in float, or with quantize=16."
        )
        yield
        return
    home, name, make = {
        "onnx": ("onnxruntime.quantization", "quantize_static", _onnx),
        "openvino": ("nncf", "quantize", _openvino),
    }[form]
    if importlib.util.find_spec(home.partition(".")[0]) is None:  # Ultralytics reports what is missing
        yield
        return
    module: Any = importlib.import_module(home)
    original = getattr(module, name)
    setattr(module, name, functools.wraps(original)(make(original, pattern(model))))
    try:
        yield
    finally:
        setattr(module, name, original)


def _onnx(quantize_static: Callable[..., Any], names: str) -> Callable[..., Any]:
    def quantize(model_input: Any, *args: Any, nodes_to_exclude: Any = None, **kwargs: Any) -> Any:
        import onnx

        graph = onnx.load(str(model_input), load_external_data=False).graph
        ours = [node.name for node in graph.node if re.fullmatch(names, node.name)]
        _log(len(ours))
        return quantize_static(model_input, *args, nodes_to_exclude=[*(nodes_to_exclude or []), *ours], **kwargs)

    return quantize


def _openvino(nncf_quantize: Callable[..., Any], names: str) -> Callable[..., Any]:
    def quantize(model: Any, *args: Any, ignored_scope: Any = None, **kwargs: Any) -> Any:
        import nncf

        ours = [o.get_friendly_name() for o in model.get_ordered_ops() if re.fullmatch(names, o.get_friendly_name())]
        _log(len(ours))
        scope = ignored_scope or nncf.IgnoredScope()
        scope.names = [*dict.fromkeys([*scope.names, *ours])]
        return nncf_quantize(model, *args, ignored_scope=scope, **kwargs)

    return quantize


def _log(nodes: int) -> None:
    _logger.info(f"yolo_attn: the blocks' {nodes} nodes stay in float, everything else becomes INT8 (docs/export.md)")
