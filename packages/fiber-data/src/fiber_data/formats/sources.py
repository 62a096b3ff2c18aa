"""What a reader read or sought, by which samples that are kept of it are known to be stale: files, folders, patterns.

Functions that open annotation files or list folders note it here; `watching` collects what is noted. A reader that
opens a file by itself calls `note_file` before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Stamp = list[int] | None  # size in bytes and time of change in nanoseconds; None for what is not there


@dataclass
class Sources:
    """What was read or sought, as it was then.

    Attributes:
        files: Size and time of change of each annotation file.
        folders: Time of change of each folder in which images were sought: it changes with the names in it.
        patterns: What each pattern of names gave, by folder and pattern.
    """

    files: dict[str, Stamp] = field(default_factory=dict)
    folders: dict[str, Stamp] = field(default_factory=dict)
    patterns: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def is_current(self) -> bool:
        """Whether all of it is still as it was."""
        return (
            all(stamp_of(Path(path)) == stamp for path, stamp in self.files.items())
            and all(stamp_of(Path(path), is_folder=True) == stamp for path, stamp in self.folders.items())
            and all(
                _matches(Path(root), pattern) == names
                for root, of_root in self.patterns.items()
                for pattern, names in of_root.items()
            )
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it; ``Sources(**content)`` reads it."""
        return asdict(self)


_watched: ContextVar[Sources | None] = ContextVar("watched", default=None)


@contextmanager
def watching() -> Iterator[Sources]:
    """Collects what is noted inside."""
    sources = Sources()
    token = _watched.set(sources)
    try:
        yield sources
    finally:
        _watched.reset(token)


def note_file(path: Path) -> None:
    """Notes a file that is about to be read, or that would be if it were there."""
    if (sources := _watched.get()) is not None:
        sources.files.setdefault(str(path), stamp_of(path))


def note_folder(path: Path) -> None:
    """Notes a folder whose names are about to be listed."""
    if (sources := _watched.get()) is not None:
        sources.folders.setdefault(str(path), stamp_of(path, is_folder=True))


def glob(root: Path, pattern: str) -> list[Path]:
    """The sorted matches of a pattern below a folder, noted."""
    if (sources := _watched.get()) is not None:
        sources.patterns.setdefault(str(root), {}).setdefault(pattern, _matches(root, pattern))
    return sorted(root.glob(pattern))


def _matches(root: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob(pattern))


def stamp_of(path: Path, is_folder: bool = False) -> Stamp:
    """The size and time of change of a file, or the time of a folder; None for what is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [0 if is_folder else found.st_size, found.st_mtime_ns]
