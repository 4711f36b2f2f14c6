"""Latency of all models of a table, measured in turn, once, when the runs are done."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from .plan import FORMAT, Plan, digest
from .store import Store, read_json

FILE = "costs.json"
#: What is measured. Parameters and GFLOPs are counted, and stand in the plan.
MEASURED = ("latency_ms", "latency_p10", "latency_p90", "onnx_ms", "onnx_p10", "onnx_p90")
#: Seconds for each of the two latencies; at least 5 rounds.
SECONDS = 5.0


def key(plan: Plan) -> str:
    """Digest of what decides which latencies are measured. The machine is not part of it, but of `setup`."""
    models = {m.name: {k: v for k, v in m.d.items() if k != "yaml_file"} for m in plan.models}
    return digest({"format": FORMAT, "models": models, "classes": _classes(plan), "imgsz": plan.arguments.get("imgsz")})


def read(store: Store, plan: Plan) -> dict[str, Any]:
    """What was measured for this plan; empty where nothing was."""
    found = read_json(store.folder / FILE)
    return found if found.get("key") == key(plan) and isinstance(found.get("rows"), dict) else {}


def measure(plan: Plan, seconds: float = SECONDS) -> dict[str, Any]:
    """Time the models of a table, built for the classes of the first dataset, with random weights.

    The models take turns, so that whatever slows the machine down slows all of them. A model that cannot be timed or
    exported is left out, with a remark.

    Args:
        plan: The table.
        seconds: Time for each of the two latencies; at least 5 rounds.

    Returns:
        key: of this plan; rows: model -> `MEASURED`, in milliseconds, None where unknown; setup: device, threads,
        imgsz, versions; remarks: sentences.
    """
    import torch

    from ..measure.conditions import Conditions, busy, device_name
    from ..measure.model import folded, onnx_call
    from ..measure.timing import interleave
    from .models import build

    conditions = Conditions(torch.device("cpu"), torch.float32, 1)
    imgsz = -(-int(plan.arguments.get("imgsz", 640)) // 32) * 32  # as Ultralytics rounds it
    setup = {"device": device_name(conditions.device), "threads": 1, "imgsz": imgsz, "torch": torch.__version__}
    remarks: list[str] = []
    if load := busy():
        remarks.append(
            f"Latency was measured while the machine was busy ({load}): the times are too long. Delete {FILE} and "
            "write the report again when it is idle."
        )
    missing = [m for m in ("onnx", "onnxruntime") if importlib.util.find_spec(m) is None]
    if missing:
        remarks.append(
            f"Latency in ONNX Runtime was not measured: {' and '.join(missing)} missing (yolo-attn[export])."
        )
    else:
        setup["onnxruntime"] = importlib.metadata.version("onnxruntime")
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    calls: dict[str, dict[str, Callable[[], object]]] = {"latency": {}, "onnx": {}}
    rows: dict[str, dict[str, float | None]] = {m.name: dict.fromkeys(MEASURED) for m in plan.models}
    with conditions.applied():
        for model in plan.models:
            where = ""
            try:
                torch.manual_seed(0)
                fused = folded(build({**model.d, "nc": _classes(plan)}))
                eager = torch.inference_mode()(partial(fused, image))
                eager()
                calls["latency"][model.name] = eager
                if not missing:
                    where = " in ONNX Runtime"
                    exported = onnx_call(fused, image, 1)
                    exported()
                    calls["onnx"][model.name] = exported
            except Exception as e:  # a model that fails does not affect the others
                reason = f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0][:200]}"
                remarks.append(f"The latency of {model.name}{where} was not measured: {reason}.")
        for kind, of_kind in calls.items():
            for name, spread in interleave(of_kind, seconds=seconds).items() if of_kind else ():
                found = {"ms": spread.median, "p10": spread.p10, "p90": spread.p90}
                rows[name] |= {f"{kind}_{k}": 1e3 * v for k, v in found.items()}
    return {"key": key(plan), "rows": rows, "setup": setup, "remarks": remarks}


def _classes(plan: Plan) -> int:
    return len(plan.datasets[0].names)
