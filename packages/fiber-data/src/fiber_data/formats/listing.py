"""Which files are on disk, and which one is meant where a name is not there exactly.

Folders are listed, each once, instead of asking the disk for every file, so that large sets are quick.
"""

import errno
import os
from itertools import chain
from pathlib import Path
from unicodedata import normalize

from fiber_data.formats.sources import note_folder


class FolderListing:
    """Which files are on disk: ``path in listing``, and each folder is listed once."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}
        self._by_stem: dict[Path, dict[str, list[str]]] = {}
        self._folders: dict[Path, Path | None] = {}
        self._subfolders: dict[Path, list[str]] = {}

    def __contains__(self, path: Path) -> bool:
        return path.name in self._list(path.parent)

    def alike(self, path: Path) -> Path | None:
        """The one file whose name differs in what file systems change: composed letters, case, the image's suffix.

        macOS decomposes letters (NFD), Windows ignores case, also of folders, and tools convert images. Of several
        names none is meant.
        """
        folder = self._folder(path.parent)
        if folder is None:
            return None
        if folder not in self._by_stem:
            stems: dict[str, list[str]] = {}
            for name in self._list(folder):
                stems.setdefault(_folded(Path(name).stem), []).append(name)
            self._by_stem[folder] = stems
        if not (names := self._by_stem[folder].get(_folded(path.stem), [])):
            return None  # as most images of web data that are missing
        from fiber_data.suffixes import image_suffixes  # Pillow only where a name is not there as it is written

        suffixes = image_suffixes()
        images = [name for name in names if Path(name).suffix.lower() in suffixes]
        composed, folded = normalize("NFC", path.name), _folded(path.name)
        for alike in (
            [name for name in names if normalize("NFC", name) == composed],
            [name for name in names if _folded(name) == folded],
            images if path.suffix.lower() in suffixes else [],
        ):
            if alike:
                return folder / alike[0] if len(alike) == 1 else None
        return None

    def _list(self, folder: Path) -> set[str]:
        if folder not in self._names:
            note_folder(folder)
            self._names[folder] = {entry.name for entry in folder.iterdir()} if _is_folder(folder) else set()
        return self._names[folder]

    def _folder(self, path: Path) -> Path | None:
        """The folder, or the one that differs in composed letters and case."""
        unknown = []
        for each in chain([path], path.parents):  # no recursion: names of files may be of a thousand folders
            if each in self._folders:
                break
            unknown.append(each)
            if _is_folder(each):
                break
        for each in reversed(unknown):
            self._folders[each] = each if _is_folder(each) else self._alike_in(self._folders.get(each.parent), each)
        return self._folders[path]

    def _alike_in(self, above: Path | None, path: Path) -> Path | None:
        if above is None:
            return None
        if above not in self._subfolders:
            note_folder(above)
            self._subfolders[above] = _subfolders(above)
        alike = [name for name in self._subfolders[above] if _folded(name) == _folded(path.name)]
        return above / alike[0] if len(alike) == 1 else None


def _folded(name: str) -> str:
    return normalize("NFC", normalize("NFC", name).casefold())


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False  # no file can be called so


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
