"""Runs the notebooks that are kept as text, from an empty folder, and writes them with what their cells gave.

    python notebooks.py docs/notebooks OUT [QUICKSTART]

QUICKSTART is the folder of a quickstart; for what it lacks, or without it, there are untrained models.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from stand_ins import make_quickstart

SECONDS = 600  # of a cell


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; a cell that fails raises `CellExecutionError`, which shows it."""
    notebook = jupytext.read(path)
    return NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()


def main(pages: Path, out: Path, given: Path | None = None) -> None:
    """Runs all of a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        quickstart = make_quickstart(Path(name) / "quickstart")
        for each in given.iterdir() if given else ():
            if each.name == "scenes" or (each / "best").is_dir():
                made = quickstart / each.name
                if made.exists():
                    made.rename(Path(name) / f"stand-in-{each.name}")
                made.symlink_to(each.resolve())
        for path in sorted(pages.glob("*.md")):
            target = out / f"{path.stem}.ipynb"
            nbformat.write(run_notebook(path, Path(name)), target)
            sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
