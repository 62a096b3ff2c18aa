"""What a tar shard holds and where: read from its headers once, kept in an index, so that no tar is scanned twice.

An index is a file of lines: a head with the size of the shard and a checksum of the other lines, then an object a
sample, ``{"key", "images": [[name, offset, size]], "record"}``, where ``record`` is what its JSON and text say, as far
as readers use it. `fiber_data.pack` writes it beside the shard (``train-00000.index.jsonl``). Of other tars it is made
at first use and kept in ``index`` of the cache folder (see `fiber_data.blocks`), until the shard has another size, or
time or version.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fiber_data import blocks, remote
from fiber_data.formats.samples import parse_line
from fiber_data.suffixes import image_suffixes

SUFFIX = ".index.jsonl"
CAPTION_KEYS = ("captions", "caption", "text")
SEVERAL, IMAGES = "samples", "images"
"""Keys of a JSON that holds several samples of one image, and of samples with several images."""
_FORMAT = "fiber-data index 1"
_USED = (*CAPTION_KEYS, "id", "split", SEVERAL, IMAGES)
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # webdataset's: a name up to the first dot behind the last slash
_MOST_TEXT = 2**24  # bytes of a sample's JSON or text
_AHEAD = 2**18  # bytes that are read at once of a remote shard: headers and small files behind an image
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class ShardImage:
    """An image file inside of a tar shard; `fiber_data.load_image` takes it as a file object.

    Attributes:
        shard: The tar file, or its URL.
        member: Name of the image in it.
        offset: Where its bytes begin.
        size: How many they are.
        version: Of a remote shard, when it was indexed.
    """

    shard: Path | str
    member: str
    offset: int
    size: int
    version: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.shard}: {self.member}"

    def read(self, _size: int = -1, /) -> bytes:
        """The whole file.

        Raises:
            OSError: The shard is gone, has become shorter, or is another one than was indexed; or as of
                `fiber_data.remote.read_range`.
        """
        content = read_part(self.shard, self.offset - tarfile.BLOCKSIZE, self.offset + self.size, self.version)
        if len(content) != self.size + tarfile.BLOCKSIZE:
            raise OSError(f"{self.shard} ends inside of {self.member}; copy the shard again")
        if not self._is_header(content[: tarfile.BLOCKSIZE]):  # a file's header lies just before it
            raise OSError(
                f"{self.shard}: {self.member} is not where it was when the shard was indexed, so the shard was changed "
                "since; start again"
            )
        return content[tarfile.BLOCKSIZE :]

    def _is_header(self, block: bytes) -> bool:
        try:
            found = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.TarError:
            return False
        has_name = not self.member.isascii() or len(self.member) > tarfile.LENGTH_NAME or found.name == self.member
        return found.size == self.size and has_name  # other names stand in a header of their own


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        place: Its path or URL.
        size: Its bytes.
        version: Its time, or what a server calls its content; another one makes a kept index stale.
        folder: Name of the folder that it lies in, where ids need it to differ between shards; else empty.
        has_index: Whether an index lies beside it.
    """

    place: Path | str
    size: int
    version: str
    folder: str = ""
    has_index: bool = False

    @property
    def stem(self) -> str:
        """Its name without suffix, with the folder where that is needed."""
        name = self.place.stem if isinstance(self.place, Path) else file_name(self.place).removesuffix(".tar")
        return f"{self.folder}/{name}" if self.folder else name


class Entry(NamedTuple):
    """What a shard holds under one key.

    Attributes:
        key: The name that its files share.
        images: Of each image file its name, offset and size, in bytes.
        record: What JSON or text say.
        error: What is wrong with these, instead.
    """

    key: str
    images: list[tuple[str, int, int]]
    record: dict[str, Any]
    error: str = ""


def file_name(url: str) -> str:
    """The last part of a URL's path."""
    return re.split(r"[?#]", url, maxsplit=1)[0].rpartition("/")[2]


def index_beside(place: Path | str) -> Path | str:
    """Where the index of a packed shard lies."""
    if isinstance(place, Path):
        return place.with_name(place.name.removesuffix(".tar") + SUFFIX)
    return f"{place.removesuffix('.tar')}{SUFFIX}"


def read_part(place: Path | str, start: int, end: int, version: str = "") -> bytes:
    """The bytes from `start` to `end` of a file, fewer if it ends before.

    Raises:
        OSError: It cannot be read, see `fiber_data.remote.read_range`.
    """
    if isinstance(place, str):
        return blocks.read(place, start, end, version)
    with place.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def read_entries(shard: Shard) -> Iterator[Entry]:
    """What a shard holds, from its index if there is one that fits.

    Raises:
        OSError: The shard cannot be read.
        ValueError: It is cut off, damaged, compressed or no tar.
    """
    kept = blocks.cache_folder() / "index" / f"{hashlib.sha256(str(shard.place).encode()).hexdigest()[:32]}.jsonl"
    found = _beside(shard, kept) or _kept(kept, shard)
    if found is not None:
        yield from found
        return
    entries = []
    for entry in _scan(shard):
        yield entry
        entries.append(entry)
    _keep(kept, entries, shard)


def write_index(path: Path, entries: Iterable[Entry], *, num_bytes: int, version: str = "") -> None:
    """Writes the index of a shard of so many bytes, beside its name first."""
    lines = "".join(_to_line(entry) for entry in entries).encode()
    head = {"format": _FORMAT, "num_bytes": num_bytes, "version": version, "sha256": hashlib.sha256(lines).hexdigest()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(json.dumps(head).encode() + b"\n" + lines)
    part.replace(path)


def parse_index(content: bytes, *, num_bytes: int, version: str = "") -> list[Entry] | None:
    """The entries of an index; None if it is damaged, or of a shard of another size or version."""
    first, _, lines = content.partition(b"\n")
    try:
        head = json.loads(first)
        wanted = {"format": _FORMAT, "num_bytes": num_bytes, "version": version}
        if head != {**wanted, "sha256": hashlib.sha256(lines).hexdigest()}:
            return None
        return [_from_line(line) for line in lines.splitlines()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _to_line(entry: Entry) -> str:
    content = {"key": entry.key, "images": entry.images, "record": entry.record}
    return json.dumps({**content, "error": entry.error} if entry.error else content) + "\n"


def _from_line(line: bytes) -> Entry:
    content = json.loads(line)
    images = [(name, offset, size) for name, offset, size in content["images"]]
    return Entry(content["key"], images, content["record"], content.get("error", ""))


def _beside(shard: Shard, kept: Path) -> list[Entry] | None:
    """The entries of the index that was packed with a shard; that of a remote one is asked for once."""
    if not shard.has_index:
        return None
    place = index_beside(shard.place)
    if isinstance(place, Path):
        with contextlib.suppress(OSError):
            return parse_index(place.read_bytes(), num_bytes=shard.size)
        return None
    if (found := _kept(kept, shard)) is not None:
        return found
    try:
        found = parse_index(remote.read_all(place), num_bytes=shard.size)
    except (FileNotFoundError, PermissionError):  # as stores answer that do not tell what is there
        return None
    if found is not None:
        _keep(kept, found, shard)
    return found


def _kept(path: Path, shard: Shard) -> list[Entry] | None:
    try:
        return parse_index(path.read_bytes(), num_bytes=shard.size, version=shard.version)
    except OSError:
        return None


def _keep(path: Path, entries: list[Entry], shard: Shard) -> None:
    with contextlib.suppress(OSError):  # no space, no permission: the next use scans again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index(path, entries, num_bytes=shard.size, version=shard.version)


# Tars without an index


def _scan(shard: Shard) -> Iterator[Entry]:
    """The entries of a tar by its headers."""
    suffixes = image_suffixes()
    with _open(shard) as file:
        for key, members in groupby(_members(shard, file), key=lambda member: _KEY.fullmatch(member.name)[1]):  # type: ignore[index]
            files = list(members)
            images = [(member.name, member.offset_data, member.size) for member in files if _ending(member) in suffixes]
            try:
                yield Entry(key, images, _record(files, f"{shard.place}: {key}", file))
            except ValueError as error:
                yield Entry(key, images, {}, str(error).removeprefix(f"{shard.place}: {key}: "))


def _open(shard: Shard) -> BinaryIO:
    if isinstance(shard.place, Path):
        return shard.place.open("rb")
    return io.BufferedReader(_RemoteReader(shard.place, shard.size, shard.version), _AHEAD)


def _ending(member: tarfile.TarInfo) -> str:
    return f".{member.name.rpartition('.')[2].lower()}"


def _members(shard: Shard, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The files of a shard that have a key, without their contents."""
    start = file.read(tarfile.BLOCKSIZE)
    if kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None):
        raise ValueError(
            f"{shard.place}: expected a tar without compression, for images are read from their place in it; found one "
            f"compressed by {kind}: unpack it"
        )
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all that went by
                if member.isreg() and not member.issparse():
                    if member.offset_data + member.size > shard.size:
                        raise ValueError(f"{shard.place}: ends inside of {member.name}; copy the shard again")
                    if _KEY.fullmatch(member.name):
                        yield member
            file.seek(tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):  # at a damaged header tarfile only stops
                raise ValueError(f"{shard.place}: damaged at byte {tar.offset:,}; copy the shard again")
    except tarfile.TarError as error:
        raise ValueError(f"{shard.place}: expected a tar without compression, found a damaged one ({error})") from error


def _record(members: list[tarfile.TarInfo], where: str, file: BinaryIO) -> dict[str, Any]:
    """What is used of a sample's JSON object, with the text beside it where it has no caption."""
    texts: dict[str, str] = {}
    for member in members:
        if (ending := _ending(member)) in (".json", ".txt"):
            if member.size > _MOST_TEXT:
                raise ValueError(f"{where}: {member.name} has {member.size:,} bytes; expected at most {_MOST_TEXT:,}")
            position = file.tell()
            file.seek(member.offset_data)
            try:
                texts[ending] = file.read(member.size).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: expected {member.name} in UTF-8 ({error.reason})") from error
            finally:
                file.seek(position)
    record = parse_line(texts[".json"], where) if ".json" in texts else {}
    if ".txt" in texts and SEVERAL not in record and all(record.get(name) is None for name in CAPTION_KEYS):
        record["caption"] = texts[".txt"]
    return {key: record[key] for key in _USED if record.get(key) is not None}


class _RemoteReader(io.RawIOBase):
    """A remote file for `io.BufferedReader`, which reads ahead."""

    def __init__(self, url: str, size: int, version: str) -> None:
        self.url, self.size, self.version = url, size, version
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        end = min(self._position + len(buffer), self.size)
        if end <= self._position:
            return 0
        content = blocks.read(self.url, self._position, end, self.version)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
