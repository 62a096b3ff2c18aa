"""What images are called that a tool downloaded by the rows of a file, which the first rows tell.

- the last part of the address (``"{url_name}"``);
- the number of the row, with zeros before it or not (``"{row}.jpg"``, ``"{row:09}.jpg"``), also in the folders of
  img2dataset (``"{shard:05}/{row:09}.jpg"``), or with the address's checksum (``"{row}_{crc32}"``);
- a hash of the address (``"{md5}.jpg"``, ``"{sha1}.jpg"``, ``"{sha256}.jpg"``).

The endings of images may be others.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from fiber_data.formats.files import portable_names
from fiber_data.formats.ids import Id
from fiber_data.formats.listing import FolderListing

PROBED = 1000  # rows that tell what images are called
_NAMES = (
    "{url_name}",
    *("{row}.jpg", *(f"{{row:0{width}}}.jpg" for width in (5, 6, 7, 8, 9, 12))),
    *("{shard:05}/{row:09}.jpg", "{row}_{crc32}", "{md5}.jpg", "{sha1}.jpg", "{sha256}.jpg"),
)
_SHARD = 10_000  # images in a folder of img2dataset


class Row(NamedTuple):
    """A row: its location, its number from 0, captions, address, the file's name if there is one, and its own id."""

    where: str
    number: int
    captions: list[str]
    url: str
    file: str
    own: Id | None


class RowImages:
    """The images of rows, by the name and in the folder that the first rows tell.

    Args:
        folders: Where they may lie.
        listing: What is known of the disk already.
        name: What they are called, see the module; None tries what tools call them.
        first_row: The number of the first row in names, 0 or 1; None finds it out.

    Raises:
        ValueError: The name has fields that there are not.
    """

    def __init__(self, folders: list[Path], listing: FolderListing, name: str | None, first_row: int | None) -> None:
        self._folders, self._listing = folders, listing
        self._names = _NAMES if name is None else (name,)
        self._first_row = first_row
        try:
            self._path(Row("", 0, [], "", "", None), (Path(), self._names[0], 0))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            known = "row, shard, url_name, crc32, md5, sha1, sha256"
            raise ValueError(
                f"image_name {name!r} is no pattern of the fields {known}, such as '{{row:09}}.jpg'"
            ) from error
        self._chosen: tuple[Path, str, int] = (folders[0], self._names[0], first_row or 0)

    def look(self, rows: list[Row], count: Callable[[], int]) -> None:
        """Finds out what images are called, from the first rows; `count` tells how many there are."""
        unnamed = [row for row in rows if not row.file]
        numbers = (0, 1) if self._first_row is None else (self._first_row,)
        ways = [
            (folder, name, start)
            for folder in self._folders
            for name in self._names
            for start in (numbers if "{row" in name else numbers[:1])
        ]
        for is_there in (self._listing.__contains__, self._listing.alike):
            found = {way: sum(bool(is_there(self._path(row, way))) for row in unnamed) for way in ways}
            if unnamed and any(found.values()):
                folder, name, start = max(ways, key=lambda way: found[way])
                if "{row" in name and self._first_row is None:
                    start = self._start(rows[0], folder, name, count)
                self._chosen = folder, name, start
                return

    def _start(self, row: Row, folder: Path, name: str, count: Callable[[], int]) -> int:
        """The number of the first row: 0 if there is such an image, 1 if there is one of as many as there are rows."""
        probes = {0: row._replace(number=0), 1: row._replace(number=count() - 1)}
        for start, probe in probes.items():
            if "{crc32}" in name:
                return 0  # the checksum tells them apart
            path = self._path(probe, (folder, name, start))
            if path in self._listing or self._listing.alike(path):
                return start
        raise ValueError(
            f"{row.where}: images in {folder} are numbered by rows, but neither the first nor the last tells whether "
            "from 0 or from 1; set first_row"
        )

    def find(self, row: Row) -> Path:
        """The image of a row on disk, or where it ought to be."""
        if row.file:
            ways = [folder / name for folder in self._folders for name in portable_names(row.file)]
            return next((path for path in ways if path in self._listing), None) or next(
                filter(None, map(self._listing.alike, ways)), ways[0]
            )
        path = self._path(row, self._chosen)
        return path if path in self._listing else self._listing.alike(path) or path

    def _path(self, row: Row, way: tuple[Path, str, int]) -> Path:
        folder, name, start = way
        number = row.number + start
        fields = {"row": number, "shard": number // _SHARD, "url_name": _Hashes(row.url)}
        return folder / name.format(
            **fields, **{kind: _Hashes(row.url, kind) for kind in ("crc32", "md5", "sha1", "sha256")}
        )


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:  # such as of a bracket, which only an IPv6 address may have
        return re.split(r"[?#]", url, maxsplit=1)[0]


class _Hashes:
    """What a name takes from an address, computed where the name has it."""

    def __init__(self, url: str, kind: str = "") -> None:
        self._url, self._kind = url, kind

    def __format__(self, _: str) -> str:
        if not self._kind:
            return Path(unquote(_path_of(self._url))).name or "_"
        content = self._url.encode(errors="replace")
        return str(zlib.crc32(content)) if self._kind == "crc32" else hashlib.new(self._kind, content).hexdigest()
