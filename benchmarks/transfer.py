"""Fine-tuning with aligned weights against Ultralytics' own transfer, paired by seed.

    python benchmarks/transfer.py data=data.yaml weights=yolov8n.pt [models=yolov8n-sam,yolov8n-hilo] [seeds=3]
                                  [epochs=5] [imgsz=320] [batch=8] [out=benchmarks/results]

Each cell is a training in its own process: the same model, data, seed and arguments, once with the patch `load_weights`
and once with it undone. Writes transfer-<data>.csv with a row per cell, and prints the mean paired difference in
mAP50-95 with its 95 % t interval. Stock Ultralytics gets the same weights file.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CELL = """
import json, sys
model, data, weights, seed, epochs, imgsz, batch, arm, folder = sys.argv[1:]
from ultralytics import YOLO
from ultralytics.nn import tasks
if arm == "stock":
    from yolo_attn.patches import load_weights
    load_weights.PATCH.undo()
metrics = YOLO(f"{model}.yaml").train(
    data=data, pretrained=weights, seed=int(seed), epochs=int(epochs), imgsz=int(imgsz), batch=int(batch), workers=0,
    nbs=int(batch), plots=False, verbose=False, project=folder, name=f"{model}-{arm}-{seed}",
)
print("RESULT " + json.dumps({"map": float(metrics.box.map), "map50": float(metrics.box.map50)}))
"""

#: Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def cell(*words: str) -> dict[str, float]:
    """Scores of one training in a fresh process."""
    done = subprocess.run([sys.executable, "-c", CELL, *words], capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    if done.returncode or line is None:
        raise SystemExit(f"{words} failed:\n{done.stderr[-3000:]}")
    return json.loads(line.removeprefix("RESULT "))


def main() -> None:
    """Train the pairs, print, write."""
    given = {"models": "yolov8n-sam,yolov8n-hilo", "seeds": "3", "epochs": "5", "imgsz": "320", "batch": "8"}
    given |= dict(word.split("=", 1) for word in sys.argv[1:])
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
            differences = []
            for seed in range(int(given["seeds"])):
                scores = {}
                for arm in ("aligned", "stock"):
                    words = (str(seed), given["epochs"], given["imgsz"], given["batch"], arm, folder)
                    scores[arm] = cell(model, data, weights, *words)
                    writer.writerow([model, seed, arm, f"{scores[arm]['map']:.4f}", f"{scores[arm]['map50']:.4f}"])
                    f.flush()
                differences.append(scores["aligned"]["map"] - scores["stock"]["map"])
            n, mean = len(differences), statistics.fmean(differences)
            half = T95[n - 2] * statistics.stdev(differences) / math.sqrt(n) if 2 <= n <= 10 else math.nan
            print(f"{model}: aligned - stock = {mean:+.4f} mAP50-95, 95 % interval ± {half:.4f}, {n} seeds")
    print(file)


if __name__ == "__main__":
    main()
