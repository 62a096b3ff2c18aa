"""The folder that tables lie in: marked as ours, a table is locked while it is written, whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from fiber_data.table import TableWriteError

try:
    import fcntl
except ImportError:  # of Windows; there only the rename keeps processes apart
    fcntl = None  # type: ignore[assignment]

FOLDER = ".fiber_index"
_MARKER = "fiber.json"
_PARTIAL, _OLD = ".partial", ".old"


def user_cache() -> Path:
    """Where tables lie whose data cannot be written beside."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fiber" / FOLDER


def claim(place: Path) -> None:
    """Makes and marks the folder of tables.

    Raises:
        TableWriteError: It cannot be made, or is not ours.
    """
    marker = place / _MARKER
    if marker.is_file():
        return
    with _refusals(place):
        if place.is_dir() and any(not each.name.startswith(f".{_MARKER}") for each in place.iterdir()):
            if marker.is_file():  # by another process, meanwhile
                return
            raise TableWriteError(
                f"{place}: holds other files, without our marker; move them, or keep the index elsewhere"
            )
        place.mkdir(parents=True, exist_ok=True)
        temporary = place / f".{_MARKER}.{uuid.uuid4().hex[:8]}"
        temporary.write_text(json.dumps({"format": 1, "kind": "index", "files": {}}) + "\n", encoding="utf-8")
        temporary.replace(marker)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Held by one process at a time, for each table; the system lets go of it if that dies."""
    from tqdm import tqdm

    with _refusals(folder.parent):
        file = folder.with_name(f"{folder.name}.lock").open("w")
    with file:
        with tqdm(desc=f"waiting for the index {folder}", delay=2, disable=None, bar_format="{desc}: {elapsed}") as bar:
            while fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
                    bar.update()
                except OSError:  # a file system without locks
                    break
        yield


@contextlib.contextmanager
def partial_folder(folder: Path, token: str) -> Iterator[Path]:
    """An empty folder beside a table's; what earlier writers left, who were killed, is removed first, it at the end."""
    for left in folder.parent.glob(f"{folder.name}.*"):
        if left.suffix in (_PARTIAL, _OLD):
            shutil.rmtree(left, ignore_errors=True)
    path = folder.with_name(f"{folder.name}.{token}{_PARTIAL}")
    with _refusals(path):
        path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def put_in_place(partial: Path, folder: Path) -> None:
    """Moves what was written to its place; processes that map what was there before keep that."""
    with _refusals(folder):
        if folder.exists():
            old = partial.with_suffix(_OLD)
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except TableWriteError:
        raise
    except OSError as error:
        raise TableWriteError(f"{path}: cannot be written ({error.strerror or error})") from error
