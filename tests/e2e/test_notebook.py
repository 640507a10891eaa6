"""The notebook of the first hour, executed as Jupyter does, with a small study."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERV_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("ERV_STUDY", str(ROOT / "tests/e2e/small_study.yaml"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(ROOT / "notebooks/first_hour.ipynb", as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "committed without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = {kind for cell in notebook.cells for out in cell.get("outputs", ()) for kind in out.get("data", {})}
    assert {"image/png", "text/markdown", "text/html"} <= kinds
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "explanation reward for happiness:" in said
    assert "grpo_erv: target " in said and list((tmp_path / "run/report").glob("*.html"))
