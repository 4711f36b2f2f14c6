"""examples/tutorial.ipynb runs from start to end, and is committed with small outputs that name no machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "tutorial.ipynb"


def outputs(cells: list) -> str:
    """Everything that the cells print, as text."""
    found = [o for cell in cells for o in cell.get("outputs", [])]
    return "".join("".join(o.get("text", "")) for o in found)


def test_the_committed_notebook_has_outputs_with_pictures_and_is_small() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    text = json.dumps(cells)
    assert NOTEBOOK.stat().st_size < 200_000 and text.count('"image/jpeg"') == 2
    assert not any(o["output_type"] == "error" for cell in cells for o in cell.get("outputs", []))
    assert "blocks contribute" in outputs(cells) and "largest difference from PyTorch" in outputs(cells)
    assert re.findall(r"/(?:home|root|work|tmp|Users)/", outputs(cells)) == []


@pytest.mark.slow
def test_the_notebook_runs_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("TUTORIAL_EPOCHS", "1")
    monkeypatch.setenv("TUTORIAL_WEIGHTS", "")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = outputs(notebook.cells)
    assert "torch.Size([1, 64, 19, 15])" in text and "blocks contribute" in text
    assert re.search(r"yolov8n-sam\.yaml +3\.39 M parameters, 10\.1 GFLOPs", text)
