"""Folders that are ours: the marker `fiber.json`, which lists files with sizes and checksums, and the lock of a run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARKER, LOCK = "fiber.json", ".fiber.lock"
FORMAT = 1  # raised when older versions can no longer read a folder

# What file systems answer that know no locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def mark(folder: Path, kind: str, files: Collection[Path] = (), **more: Any) -> None:
    """Writes the marker.

    Args:
        folder: What is ours from now on.
        kind: What it is: "run", "checkpoint", "model", ...; `fiber_data.scenes` marks a "scenes" likewise.
        files: Whole files in it to list.
        more: What else to keep, as JSON holds it.
    """
    listed = {path.relative_to(folder).as_posix(): _describe(path) for path in sorted(files) if path.name != MARKER}
    content = {"format": FORMAT, "kind": kind, "files": listed, **more}
    temporary = folder / f".{MARKER}.partial"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / MARKER)


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a folder, None where there is none or it cannot be read.

    Raises:
        ValueError: A newer version wrote it.
    """
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        return None
    if content["format"] <= FORMAT and not isinstance(content.get("files"), dict):
        return None
    if content["format"] > FORMAT:
        raise ValueError(
            f"{folder} was written in format {content['format']!s:.40}, this version reads up to {FORMAT}; "
            "install a newer fiber-train"
        )
    files = content.get("files")
    return content if isinstance(files, dict) and all(map(_is_description, files.values())) else None


def is_ours(folder: Path) -> bool:
    """Whether the marker is there."""
    return read_marker(folder) is not None


def is_empty(path: Path) -> bool:
    """Whether a path is absent or a folder without anything in it."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def check_free(folder: Path) -> None:
    """Refuses to replace a folder that is neither empty nor ours.

    Raises:
        FileExistsError: It holds somebody else's files.
    """
    if not is_empty(folder) and not is_ours(folder):
        raise FileExistsError(f"{folder} holds other files; choose another folder (it has no {MARKER} of ours)")


def check_ours(folder: Path, kind: str, names: Collection[str]) -> None:
    """Refuses to write into a folder of somebody else's.

    Args:
        folder: It may be absent, ours, or hold other things under other names, which are left alone.
        kind: What it is to be.
        names: What will be written or replaced in it.

    Raises:
        FileExistsError: It holds something under one of the names without our marker, or is something else of ours.
        ValueError: A newer version wrote it.
    """
    marker = read_marker(folder)
    if marker is not None and marker.get("kind") != kind:
        raise FileExistsError(f"{folder} holds a {marker.get('kind')!s:.40}, not a {kind}; choose another folder")
    found = [name for name in (MARKER, *names) if not is_empty(folder / name)]
    if marker is None and found:
        raise FileExistsError(
            f"{folder} holds a {found[0]} that is not of a {kind} (it has no {MARKER} of ours), which would be "
            "overwritten; choose another folder"
        )


def find_damage(folder: Path, names: Collection[str] | None = None, but: Collection[str] = ()) -> str | None:
    """What differs from what was written, in a few words; None if nothing does.

    Args:
        folder: What `mark` marked.
        names: Files to look at, by default all that are listed.
        but: Files and folders in it not to look at.

    Raises:
        ValueError: A newer version wrote it.
    """
    marker = read_marker(folder)
    if marker is None:
        return f"it has no {MARKER} that can be read"
    for name, wanted in marker["files"].items():
        path = folder / name
        if (names is not None and name not in names) or name.partition("/")[0] in but:
            continue
        shown = f"{name if name.isprintable() else repr(name):.80}"
        if not os.path.isfile(path):  # noqa: PTH113 - Path's fails for some names
            return f"{shown} is missing"
        if (size := path.stat().st_size) != wanted["size"]:
            return f"{shown} has {size:,} bytes of {wanted['size']:,}"
        if _describe(path) != wanted:
            return f"{shown} has other bytes than were written"
    return None


def _is_description(value: Any) -> bool:
    """Whether a marker's entry is as `_describe` writes it."""
    is_whole = isinstance(value, dict) and isinstance(value.get("sha256"), str)
    return is_whole and isinstance(value.get("size"), int) and 0 <= value["size"] < 2**63


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, made if need be, until the block or the process ends.

    The lock is the operating system's (POSIX, over NFS too), so that it dies with its process. Where there are none, a
    warning says so.

    Raises:
        ValueError: Another process has it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        warnings.warn(f"{folder} is not kept from other runs: this system has no POSIX locks", stacklevel=3)
        yield
        return
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: not inherited by its loading processes
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise ValueError(
                    f"{folder} is in use by {holder}; wait until that ends, or choose another folder"
                ) from error
            warnings.warn(f"{folder} is not kept from other runs: its file system has no locks", stacklevel=3)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
