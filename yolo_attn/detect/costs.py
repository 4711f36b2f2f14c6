"""What an image costs: latency of every model of a matrix, measured in turn, once, when the cells are done."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from .plan import FORMAT, Plan, digest
from .store import Store, write_json

FILE = "costs.json"
#: What is measured; parameters and GFLOPs are counted.
MEASURED = ("latency_ms", "latency_p10", "latency_p90", "onnx_ms", "onnx_p10", "onnx_p90")
#: Seconds for each of the two latencies of a dataset; at least 5 rounds.
SECONDS = 5.0


def key(plan: Plan) -> str:
    """Digest of what decides which costs are measured. The machine is not in it: `setup` tells it."""
    models = {m.name: {k: v for k, v in m.d.items() if k != "yaml_file"} for m in plan.models}
    classes = {d.name: len(d.names) for d in plan.datasets}
    return digest({"format": FORMAT, "models": models, "classes": classes, "imgsz": plan.arguments.get("imgsz")})


def read(store: Store, plan: Plan) -> dict[str, Any] | None:
    """What was measured for this plan; None where nothing was."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((store.folder / FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("key") == key(plan) and isinstance(found.get("rows"), dict):
            return found
    return None


def costs(store: Store, plan: Plan) -> dict[str, Any]:
    """What was measured for this plan, measured now where it was not."""
    found = read(store, plan)
    if found is None:
        found = measure(plan)
        write_json(store.folder / FILE, found)
    return found


def measure(plan: Plan, seconds: float = SECONDS) -> dict[str, Any]:
    """Time the models of a matrix, built for each dataset's number of classes, with random weights.

    The models take turns, so that whatever slows the machine down slows all of them. A model that cannot be timed or
    exported is left out, with a remark.

    Args:
        plan: The matrix.
        seconds: Time for each of the two latencies of a dataset; at least 5 rounds.

    Returns:
        key: of this plan; rows: dataset -> model -> parameters, gflops, latency_ms, latency_p10, latency_p90, onnx_ms,
        onnx_p10, onnx_p90, None where unknown; setup: device, threads, imgsz, versions; remarks: sentences.
    """
    import torch

    from ..measure.conditions import Conditions, device_name

    conditions = Conditions(torch.device("cpu"), torch.float32, 1)
    imgsz = -(-int(plan.arguments.get("imgsz", 640)) // 32) * 32  # as Ultralytics rounds it
    missing = [m for m in ("onnx", "onnxruntime") if importlib.util.find_spec(m) is None]
    remarks: list[str] = []
    if missing:
        remarks.append(
            f"Latency in ONNX Runtime was not measured: {' and '.join(missing)} missing (yolo-attn[export])."
        )
    alike: dict[int, dict[str, dict[str, Any]]] = {}  # datasets with as many classes cost the same
    rows = {}
    with conditions.applied():
        for data in plan.datasets:
            classes = 1 if plan.arguments.get("single_cls") else len(data.names)
            if classes not in alike:
                alike[classes] = _rows(plan, classes, imgsz, seconds, not missing, remarks)
            rows[data.name] = copy.deepcopy(alike[classes])
    setup: dict[str, Any] = {"device": device_name(conditions.device), "threads": 1, "imgsz": imgsz}
    setup["torch"] = torch.__version__
    if not missing:
        import onnxruntime

        setup["onnxruntime"] = onnxruntime.__version__
    return {"key": key(plan), "rows": rows, "setup": setup, "remarks": list(dict.fromkeys(remarks))}


def _rows(
    plan: Plan, classes: int, imgsz: int, seconds: float, onnx: bool, remarks: list[str]
) -> dict[str, dict[str, Any]]:
    """Model -> costs, for a number of classes."""
    import torch

    from ..measure.model import cost, folded, onnx_call
    from ..measure.timing import interleave
    from .models import build

    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    rows: dict[str, dict[str, Any]] = {m.name: dict.fromkeys(("parameters", "gflops", *MEASURED)) for m in plan.models}
    eager: dict[str, Callable[[], object]] = {}
    exported: dict[str, Callable[[], object]] = {}
    for model in plan.models:
        try:
            torch.manual_seed(0)
            built = build({**model.d, "nc": classes})
            parameters, gflops = cost(built, imgsz)
            fused = folded(built)
            with torch.inference_mode():
                fused(image)
        except Exception as e:  # one model that fails costs the others nothing
            remarks.append(f"The latency of {model.name} was not measured: {_first_line(e)}.")
            continue
        rows[model.name] |= {"parameters": parameters, "gflops": gflops}
        eager[model.name] = partial(_predict, fused, image)
        if onnx:
            try:
                exported[model.name] = onnx_call(fused, image, 1)
                exported[model.name]()
            except Exception as e:
                exported.pop(model.name, None)
                remarks.append(f"{model.name} was not timed in ONNX Runtime: {_first_line(e)}.")
    for name, calls in (("latency", eager), ("onnx", exported)):
        if calls:
            for model_name, spread in interleave(calls, seconds=seconds).items():
                found = {"ms": spread.median, "p10": spread.p10, "p90": spread.p90}
                rows[model_name] |= {f"{name}_{k}": 1e3 * v for k, v in found.items()}
    return rows


def _predict(model: Any, image: Any) -> object:
    import torch

    with torch.inference_mode():
        return model(image)


def _first_line(e: Exception) -> str:
    text = str(e).strip().splitlines()
    return f"{type(e).__name__}: {text[0][:200]}" if text else type(e).__name__
