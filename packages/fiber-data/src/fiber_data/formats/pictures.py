"""Where the pictures of an annotation file lie: people move them, and file names begin with folders or not."""

from collections.abc import Iterable, Sequence
from pathlib import Path


class PictureFinder:
    """Looks for pictures in several folders under several names; each folder on disk is listed once.

    Args:
        folders: Where to look, the likeliest first.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))
        self._listed: dict[Path, set[str]] = {}
        self._last = (0, 0)  # where the last one was found is where the next one will be

    def find(self, names: Sequence[str]) -> Path:
        """The first place where the picture is; the likeliest one if it is nowhere.

        Args:
            names: What the file may be called, relative to the folders.
        """
        ways = [self._last, *((folder, name) for folder in range(len(self.folders)) for name in range(len(names)))]
        for folder, name in ways:
            if name < len(names) and self._exists(path := self.folders[folder] / names[name]):
                self._last = folder, name
                return path
        return self.folders[0] / names[0]

    def _exists(self, path: Path) -> bool:
        parent = path.parent
        if parent not in self._listed:
            self._listed[parent] = {entry.name for entry in parent.iterdir()} if parent.is_dir() else set()
        return path.name in self._listed[parent]
