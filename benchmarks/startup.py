"""Measure the cost of the start-up files, for programs that never import Ultralytics and for those that do.

    python benchmarks/startup.py [what=python] [n=300] [out=benchmarks/results]
    python benchmarks/startup.py what=yolo [n=20]

Each sample is a fresh interpreter that processes one site folder and reports the time: a folder with the start-up
files, and one with a .pth file that does nothing, in turn (A B A B ...). With what=yolo it then imports Ultralytics and
builds the stock yolov8n, as every `yolo` command does. The difference of a pair is the cost of a start. Writes
startup-<python>-<os>.csv or startup-yolo-<python>-<os>.csv and prints median, p10, p90 and n.
"""

from __future__ import annotations

import compileall
import csv
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from yolo_attn.commands.parser import PATH, Argument, Command, whole

STARTUP = Path(__file__).resolve().parent.parent / "patches" / "startup"
CHILDREN = {
    "python": """
import os, site, sys, time
start = time.perf_counter()
site.addsitedir(sys.argv[1])
print(time.perf_counter() - start)
""",
    "yolo": """
import os, site, sys, time
start = time.perf_counter()
site.addsitedir(sys.argv[1])
sys.path += sys.argv[2:]
from ultralytics import YOLO
YOLO("yolov8n.yaml")
print(time.perf_counter() - start)
""",
}
SAMPLES = {"python": 300, "yolo": 20}


def sample(what: str, folder: Path) -> float:
    """Seconds that one fresh interpreter needs for a site folder and the code after it."""
    # Installed packages are plain paths, so that only the start-up file of the folder runs.
    installed = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path[1:] if p)]
    command = [sys.executable, "-S", "-c", CHILDREN[what], str(folder), *installed]
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def run(what: str, n: int | None, out: Path) -> int:
    """Measure, print, write."""
    n = n or SAMPLES[what]
    with tempfile.TemporaryDirectory() as tmp:
        ours, empty = Path(tmp, "ours"), Path(tmp, "empty")
        for folder in (ours, empty):
            folder.mkdir()
        for suffix in ("py", "pth"):
            shutil.copy(STARTUP / f"yolo_attn_boot.{suffix}", ours)
        (empty / "nothing.pth").write_text("import sys\n")
        compileall.compile_dir(ours, quiet=1)  # as pip does at installation
        pairs = [(sample(what, ours), sample(what, empty)) for _ in range(n)]
    extra = [(a - b) * 1e6 for a, b in pairs]
    deciles = statistics.quantiles(extra, n=10)
    kind = "startup" if what == "python" else f"startup-{what}"
    name = f"{kind}-py{platform.python_version()}-{platform.system().lower()}-{platform.machine()}.csv"
    out.mkdir(parents=True, exist_ok=True)
    with open(out / name, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["with_us", "without_us", "difference_us"])
        writer.writerows(
            [f"{a * 1e6:.1f}", f"{b * 1e6:.1f}", f"{d:.1f}"] for (a, b), d in zip(pairs, extra, strict=True)
        )
    print(f"start without the hook: median {statistics.median(b for _, b in pairs) * 1e3:.4g} ms")
    print(
        f"added by the hook: median {statistics.median(extra):.0f} us, "
        f"p10 {deciles[0]:.0f}, p90 {deciles[-1]:.0f}, n {n}"
    )
    print(out / name)
    return 0


COMMAND = Command(
    "benchmarks/startup.py",
    "Measure the cost of the start-up files.",
    run,
    Argument("what", "the program that starts", default="python", choices=tuple(SAMPLES)),
    Argument("n", "pairs of interpreters; by default 300, for yolo 20", whole(2)),
    Argument("out", "folder for the CSV", PATH, default=Path(__file__).parent / "results"),
    program="python",
)

if __name__ == "__main__":
    sys.exit(COMMAND(sys.argv[1:]))
