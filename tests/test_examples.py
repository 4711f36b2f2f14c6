"""Every file in examples/ runs by itself: a fresh process, an empty folder."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from jobs import run, tiny_dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TRAINING = ("own_block", "train_shipped")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


def example(name: str, *arguments: str, cwd: Path) -> str:
    """Output of an example."""
    return run(sys.executable, EXAMPLES / f"{name}.py", *arguments, cwd=cwd)


@pytest.mark.slow
def test_an_operator_learns_in_plain_pytorch(tmp_path: Path) -> None:
    losses = [float(line.split()[-1]) for line in example("operator_in_pytorch", cwd=tmp_path).splitlines()]
    assert len(losses) == 3 and losses[-1] < losses[0]


@pytest.mark.slow
def test_a_block_of_ones_own_trains(data: str, tmp_path: Path) -> None:
    text = example("own_block", "1", "64", data, cwd=tmp_path)
    assert "SE" in (tmp_path / "yolov8-se.yaml").read_text()
    assert "1 epochs completed" in text


@pytest.mark.slow
def test_a_shipped_model_trains_scores_and_exports(data: str, tmp_path: Path) -> None:
    text = example("train_shipped", "1", "64", data, cwd=tmp_path)
    exported = Path(text.split("exported to")[-1].strip().splitlines()[0])
    assert "mAP50" in text and (tmp_path / exported).suffix == ".onnx" and (tmp_path / exported).is_file()


def test_every_example_is_run_here() -> None:
    assert sorted(p.stem for p in EXAMPLES.glob("*.py")) == sorted([*TRAINING, "operator_in_pytorch"])


def test_a_block_of_ones_own_takes_about_fifteen_lines() -> None:
    tree = ast.parse((EXAMPLES / "own_block.py").read_text(encoding="utf-8"))
    docstrings = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    inside = {line for n in docstrings for line in range(n.lineno, n.end_lineno + 1)}
    lines = (EXAMPLES / "own_block.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(text.strip()) and number not in inside for number, text in enumerate(lines, 1)) <= 15
