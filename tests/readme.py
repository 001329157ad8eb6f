"""README.md is nbs/index.ipynb as Markdown: python tests/readme.py writes it."""

from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    """The text that README.md must have"""
    exporter = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    text, _ = exporter.from_notebook_node(notebook)
    note = "<!-- Made from nbs/index.ipynb by make export; edit that. -->\n"
    lines = [line.rstrip() for line in text.replace("](images/", "](nbs/images/").strip().splitlines()]
    return note + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
