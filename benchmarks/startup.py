"""What the plugin's start-up files cost a Python program that never imports Ultralytics.

    python benchmarks/startup.py [n=300] [out=benchmarks/results]

Each sample is a fresh interpreter that processes one site folder and reports how long that took: a folder with the
start-up files, and one with a .pth file that does nothing, in turn (A B A B ...). The difference of a pair is what a
start pays. Writes startup-<python>-<os>.csv and prints median, p10, p90 and n.
"""

from __future__ import annotations

import compileall
import csv
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STARTUP = Path(__file__).resolve().parent.parent / "patches" / "startup"
CHILD = """
import os, site, sys, time
start = time.perf_counter()
site.addsitedir(sys.argv[1])
print(time.perf_counter() - start)
"""


def sample(folder: Path) -> float:
    """Seconds that one fresh interpreter spends on a site folder."""
    words = [sys.executable, "-S", "-c", CHILD, str(folder)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, print, write."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    n, out = int(given.get("n", 300)), Path(given.get("out", Path(__file__).parent / "results"))
    with tempfile.TemporaryDirectory() as tmp:
        ours, empty = Path(tmp, "ours"), Path(tmp, "empty")
        for folder in (ours, empty):
            folder.mkdir()
        for ending in ("py", "pth"):
            shutil.copy(STARTUP / f"yolo_attn_boot.{ending}", ours)
        (empty / "nothing.pth").write_text("import sys\n")
        compileall.compile_dir(ours, quiet=1)  # as pip does at installation
        pairs = [(sample(ours), sample(empty)) for _ in range(n)]
    extra = [(a - b) * 1e6 for a, b in pairs]
    deciles = statistics.quantiles(extra, n=10)
    name = f"startup-py{platform.python_version()}-{platform.system().lower()}-{platform.machine()}.csv"
    out.mkdir(parents=True, exist_ok=True)
    with open(out / name, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["with_us", "without_us", "difference_us"])
        writer.writerows(
            [f"{a * 1e6:.1f}", f"{b * 1e6:.1f}", f"{d:.1f}"] for (a, b), d in zip(pairs, extra, strict=True)
        )
    print(
        f"added to a start: median {statistics.median(extra):.0f} us, "
        f"p10 {deciles[0]:.0f}, p90 {deciles[-1]:.0f}, n {n}"
    )
    print(out / name)


if __name__ == "__main__":
    main()
