"""Runtimes of the export formats; imports none of them."""

from __future__ import annotations

import importlib.util

#: Format of Ultralytics' exporter -> package that runs its files on the CPU, by its name in an index.
PACKAGES = {
    "torchscript": "torch",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "mnn": "MNN",
    "executorch": "executorch",
    "litert": "ai-edge-litert",
}


def is_installed(format: str) -> bool:
    """Whether the runtime of a format is installed."""
    return importlib.util.find_spec(PACKAGES[format].replace("-", "_")) is not None
