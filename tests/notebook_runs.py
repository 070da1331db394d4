"""The notebooks, and how tests run them."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
TEXTS = sorted(FOLDER.glob("*.py"))
SECONDS = 280


def execute(path: Path, folder: Path) -> Any:
    """Run a notebook from top to bottom with ``folder`` as its working directory; it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def outputs(notebook: Any, kind: str) -> list[Any]:
    """All that cells displayed as ``kind``, a MIME type."""
    return [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output and kind in output.data
    ]


def printed(notebook: Any) -> str:
    """All that cells printed."""
    streams = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    ]
    return "".join(stream.text for stream in streams)
