"""Patch: export.

Graphs that are not exported with `dynamic=True` get sizes as numbers (`yolo_attn.kernels.graph.fixed_sizes`), which
more runtimes take and which are smaller. In INT8 files the blocks stay in float where the format allows it; where it
does not, a warning comes before the export. A file that the installed runtime of its format does not load is removed
and reported; Ultralytics reports success for it. TorchScript files keep following the size of their input. Models
without our blocks are exported by the untouched original.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from .. import registry
from .patch import Function, Patch

#: Formats whose runtimes have a gather with constant indices.
GATHER = ("onnx", "openvino", "engine")


def _make(original: Function) -> Function:
    def export(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Export, with sizes as numbers where the graph is for one size, and check that the file loads."""
        if not hasattr(self.model, "modules") or not registry.has_blocks(self.model):
            return original(self, *args, **kwargs)
        from .. import int8
        from ..kernels.graph import fixed_sizes

        options = {"format": "torchscript", "dynamic": False, **self.overrides, **kwargs}
        form = str(options["format"]).lower()
        with contextlib.ExitStack() as stack:
            if form != "torchscript" and not options["dynamic"]:
                stack.enter_context(fixed_sizes(form in GATHER))
            if int8.is_int8(options):
                stack.enter_context(int8.blocks_in_float(self.model, form))
            file = original(self, *args, **kwargs)
        if file:
            _check(form, Path(file))
        return file

    return export


def _check(form: str, file: Path) -> None:
    from ..measure.exported import LoadError, check_loads

    try:
        check_loads(form, file)
    except LoadError as e:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        raise LoadError(
            f"format={form} does not support this model: {e}. The file was removed. Export to another format, such as "
            f"format=onnx or format=openvino, or replace the block; docs/export.md lists what each format supports."
        ) from e


PATCH = Patch(
    name="export",
    target="ultralytics.engine.model:Model.export",
    versions="8.3.200 - 8.4.190",
    why="models with attention blocks do not export to ncnn, CoreML, LiteRT and ExecuTorch.",
    make=_make,
)
