"""examples/predict.ipynb runs, and its saved outputs are small."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.patience import PATIENCE

NOTEBOOK = ROOT / "examples/predict.ipynb"


def printed(notebook: nbformat.NotebookNode) -> str:
    """What the cells print."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text", "") for output in outputs)


def test_saved_outputs_are_complete_small_and_of_no_machine():
    content = NOTEBOOK.read_text()
    notebook = nbformat.reads(content, 4)
    nbformat.validate(notebook)
    assert len(content) < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users)/", content)
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert "text/html" in kinds
    assert kinds.count("image/png") == 3
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(range(1, 16))


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("configs", "datasets"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "examples").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    place = {"metadata": {"path": str(tmp_path / "examples")}}
    limits = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), int(10 * PATIENCE))
    NotebookClient(notebook, kernel_name="python3", resources=place, **limits).execute()
    text = printed(notebook)
    top1 = float(re.search(r"test top-1 ([\d.]+) %", text)[1])
    assert top1 > 70  # chance is 25
    assert int(re.search(r"(\d+) of 40 correct", text)[1]) == round(0.4 * top1)
    assert re.search(r"00:00:0\d\.\d+  (left|right|up|down) ", text)  # segments
