"""Fine-tuning with aligned weights against Ultralytics' own transfer, paired by seed.

    python benchmarks/transfer.py data=data.yaml weights=yolov8n.pt [models=yolov8n-sam,yolov8n-hilo] [seeds=3]
                                  [epochs=5] [imgsz=320] [batch=8] [out=benchmarks/results]

Each run is a training in its own process: the same model, data, seed and arguments, once with the patch `load_weights`
and once without it. Writes transfer-<data>.csv with a row for each run, and prints the mean paired difference in
mAP50-95 with its 95 % t interval. Stock Ultralytics gets the same weights file. Needs the extra `bench`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from yolo_attn.detect.statistics import paired

RUN = """
import json, sys
model, data, weights, seed, epochs, imgsz, batch, arm, folder = sys.argv[1:]
from ultralytics import YOLO
if arm == "stock":
    from yolo_attn.patches import load_weights
    load_weights.PATCH.undo()
metrics = YOLO(f"{model}.yaml").train(
    data=data, pretrained=weights, seed=int(seed), epochs=int(epochs), imgsz=int(imgsz), batch=int(batch), workers=0,
    nbs=int(batch), plots=False, verbose=False, project=folder, name=f"{model}-{arm}-{seed}",
)
print("RESULT " + json.dumps({"map": float(metrics.box.map), "map50": float(metrics.box.map50)}))
"""
DEFAULTS = {"models": "yolov8n-sam,yolov8n-hilo", "seeds": "3", "epochs": "5", "imgsz": "320", "batch": "8"}


def train(*arguments: str) -> dict[str, float]:
    """Scores of one training in a fresh process.

    Args:
        *arguments: Those of `RUN`.
    """
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    if done.returncode or line is None:
        raise SystemExit(f"{arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(line.removeprefix("RESULT "))


def main() -> None:
    """Train the pairs, print, write."""
    given = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    if "data" not in given or "weights" not in given:
        raise SystemExit(__doc__)
    data, weights = str(Path(given["data"]).resolve()), str(Path(given["weights"]).resolve())
    out = Path(given.get("out", Path(__file__).parent / "results"))
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"transfer-{Path(data).parent.name}-e{given['epochs']}-px{given['imgsz']}.csv"
    with tempfile.TemporaryDirectory() as folder, open(file, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["model", "seed", "arm", "mAP50-95", "mAP50"])
        for model in given["models"].split(","):
            scores: dict[str, dict[int, float]] = {"aligned": {}, "stock": {}}
            for seed in range(int(given["seeds"])):
                for arm in scores:
                    options = (str(seed), given["epochs"], given["imgsz"], given["batch"], arm, folder)
                    found = train(model, data, weights, *options)
                    scores[arm][seed] = found["map"]
                    writer.writerow([model, seed, arm, f"{found['map']:.4f}", f"{found['map50']:.4f}"])
                    f.flush()
            result = paired(scores["aligned"], scores["stock"])
            mean, low, high, n = (result[k] for k in ("mean", "t_low", "t_high", "n"))
            interval = f"none: {result['why']}" if low is None else f"{low:+.4f} to {high:+.4f}"
            print(f"{model}: aligned - stock = {mean:+.4f} mAP50-95, 95 % interval {interval}, {n} seeds")
    print(file)


if __name__ == "__main__":
    main()
