"""Every library notebook runs from its first cell to its last in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name: str, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / name, as_version=4)
    sockets = {"transport": "ipc", "connection_file": str(tmp_path / "kernel.json")}  # another kernel could take a port
    where = {"metadata": {"path": ROOT}}
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=where, config=Config(KernelManager=sockets)
    )
    client.execute()


def test_there_are_notebooks() -> None:
    assert "nbs/00_errors.ipynb" in NOTEBOOKS
