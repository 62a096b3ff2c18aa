"""Files that a command is asked to write: claimed before the work, so that nothing is lost at its end.

What exists already is replaced only if it is of the kind that is written: never a photo or somebody's annotations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fiber_train.writing import explained


def is_evaluation(path: Path) -> bool:
    """Whether a file holds the numbers of an evaluation, as `fiber evaluate --out` writes them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"counts", "measures"} <= content.keys()


def claim_file(path: Path, option: str, is_ours: Callable[[Path], bool] = lambda path: False) -> None:
    """Makes the folder of a file that will be written, and checks that it can be.

    Args:
        path: The file.
        option: What named it, for messages.
        is_ours: Whether a file that exists may be replaced; by default none may.

    Raises:
        ValueError: It is a folder, or exists and is not ours.
        WriteError: There is no permission, no space, the name is too long, ...
    """
    with explained(path):
        if path.is_dir():
            raise ValueError(f"{option}: {path} is a folder; give the name of a file in it")
        if path.exists() and not is_ours(path):
            raise ValueError(f"{option}: {path} exists already and is not replaced; choose another name, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{path.name}.partial")  # as it will be written
        trial.write_bytes(b"")
        trial.unlink()


def claim_folder(path: Path, option: str) -> None:
    """Makes a folder for several files, and checks that they can be written.

    Raises:
        ValueError: It is a file.
        WriteError: There is no permission, ...
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option}: {path} is a file; several are to be written, give a folder")
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        trial = path / ".trial.partial"
        trial.write_bytes(b"")
        trial.unlink()
