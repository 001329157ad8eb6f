"""The kernel `mlops-nb` starts in the project's root, so a stage notebook finds its files in JupyterLab as in a job."""

import json
from pathlib import Path
from typing import Any

import nbformat
from conftest import ROOT
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient


def test_it_starts_in_the_root() -> None:
    manager, client = start_new_kernel(kernel_name="mlops-nb", cwd=str(ROOT / "nbs" / "stages"))
    printed: list[str] = []

    def keep(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    code = "import os, mlops_nb; print(os.getcwd(), mlops_nb.__file__)"
    client.execute_interactive(code, output_hook=keep, timeout=30)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert "".join(printed).split() == [str(ROOT), str(ROOT / "mlops_nb" / "__init__.py")]


def test_outside_a_project_it_stays_where_it_is(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os\nos.getcwd()")])
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="mlops-nb", resources=where, timeout=60).execute()
    assert notebook.cells[0].outputs[0]["data"]["text/plain"] == repr(str(tmp_path))


def test_a_stage_notebook_runs_as_in_jupyterlab(clone: Path) -> None:
    """Cell by cell, with the defaults of its parameters cell, from the notebook's own folder"""
    (clone / "artifacts/train.parquet").unlink()
    notebook = nbformat.read(clone / "nbs/stages/01_prepare.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "mlops-nb"
    where = {"metadata": {"path": str(clone / "nbs/stages")}}
    NotebookClient(notebook, kernel_name="mlops-nb", resources=where, timeout=120).execute()
    assert (clone / "artifacts/train.parquet").exists()
    assert json.loads((clone / "reports/prepare/metrics.json").read_text())["test"] == 898
