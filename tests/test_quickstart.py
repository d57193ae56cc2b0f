"""examples/quickstart.ipynb: it runs from top to bottom, shows tables and plots, and is kept without outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return found


def test_it_is_kept_without_outputs() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert len(code) > 10
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)


@pytest.mark.slow
@pytest.mark.smollm2
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, in an empty folder, by this Python's own kernel."""
    why = "make setup, or pip install nbclient ipykernel"
    nbformat, nbclient = pytest.importorskip("nbformat", reason=why), pytest.importorskip("nbclient", reason=why)
    pytest.importorskip("ipykernel", reason=why)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = {key for output in _outputs(notebook) for key in output.get("data", {})}
    assert {"text/html", "image/png"} <= shown
    tables = " ".join(output.get("data", {}).get("text/html", "") for output in _outputs(notebook))
    for words in ("Labelled lines", "base model", "By label, in percent", "tuned minus the other, in points"):
        assert words in tables
    assert sum("image/png" in output.get("data", {}) for output in _outputs(notebook)) == 4
    assert (tmp_path / "adapters" / "quickstart-peft" / "export.json").is_file()
    printed = "".join(output.get("text", "") for output in _outputs(notebook))
    assert "Traceback" not in printed
    assert "run: runs/quickstart" in printed


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]
