"""A sample of benchmarks/reliability, and that its counts would notice a loss."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest
from jobs import python, run

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "reliability"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="forks and signals of POSIX")]
SAMPLE = {
    "kill yaml out=": 4,
    "kill convert": 4,
    "kill shapes": 4,
    "full disk": 6,
    "mutated model YAMLs": 4,
    "transfer pairs": 4,
    "models built and dropped": 4,
    "damaged checkpoints": 4,
}


def test_nothing_is_lost_in_a_sample_of_every_fast_part(tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    run(sys.executable, BENCHMARK, f"part={','.join(SAMPLE)}", "n=4", f"out={out}", cwd=tmp_path)
    part = "full disk"
    run(sys.executable, BENCHMARK, f"part={part}", "n=2", f"out={out}", cwd=tmp_path)  # replaces its line
    with open(out, newline="") as f:
        lines = list(csv.DictReader(f))
    assert {line["part"]: int(line["tried"]) for line in lines} == SAMPLE
    assert {line["lost"] for line in lines} == {"0"}


def test_files_that_are_written_in_place_are_counted_as_lost_on_a_full_disk(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = [{str(BENCHMARK.parent)!r}]
from pathlib import Path
from reliability import files
from yolo_attn import yamls

def in_place(path, text):
    with open(path, "w") as f:
        f.write(text)

yamls.write_text = in_place
print(sum(line.startswith("yaml") for line in files.full_disk(2, 0, Path(sys.argv[1])).lost))
"""
    assert python(code, tmp_path, cwd=tmp_path, OMP_NUM_THREADS="1").split()[-1] == "2"


def test_a_wrong_argument_lists_the_parts(tmp_path: Path) -> None:
    assert "kill yaml out=" in run(sys.executable, BENCHMARK, "part=kill", cwd=tmp_path, ok=False)
