"""Blocks of remote files in a local folder of bounded size, which processes share: each is asked for once.

``FIBER_DATA_CACHE`` names the folder (by default ``fiber-data`` in ``XDG_CACHE_HOME`` or ``~/.cache``), and
``FIBER_DATA_CACHE_GB`` its size in 10^9 bytes; by default it is 0, and what is read is not kept. Blocks that were not
used for the longest time make room for others. Environment variables reach worker processes, however they start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fiber_data import remote

BLOCK = 8 * 2**20
"""Bytes of a block."""
_LOCKS = 64  # processes that want different blocks seldom wait for each other
_KEPT = 0.9  # of the size, when room is made: to list the folder takes time

Fetch = Callable[[str, int, int], bytes]


def cache_folder() -> Path:
    """The folder for blocks and for indices of shards."""
    if given := os.environ.get("FIBER_DATA_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fiber-data"


def cache_size() -> int:
    """The most bytes of blocks.

    Raises:
        ValueError: ``FIBER_DATA_CACHE_GB`` is no number.
    """
    given = os.environ.get("FIBER_DATA_CACHE_GB") or "0"
    try:
        size = float(given) * 1e9
        return int(max(size, 0))
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"FIBER_DATA_CACHE_GB: expected a number of 10^9 bytes, such as 50, found {given!r}"
        ) from error


def read(url: str, start: int, end: int, version: str) -> bytes:
    """The bytes from `start` to `end` of a remote file, through the cache if there is one.

    Args:
        url: The file.
        start: First byte.
        end: Behind the last byte.
        version: Blocks of another version are not used, see `fiber_data.remote.RemoteFile`.

    Raises:
        OSError: As of `fiber_data.remote.read_range`, like ImportError.
    """
    limit = cache_size()
    if not limit:
        return remote.read_range(url, start, end)
    return BlockCache(cache_folder() / "blocks", limit).read(url, start, end, version)


class BlockCache:
    """See the module.

    Args:
        folder: Holds the blocks and nothing else.
        limit: Its size in bytes.
        block: Bytes of a block.
        fetch: Reads a range of a URL.
    """

    def __init__(self, folder: Path, limit: int, block: int | None = None, fetch: Fetch = remote.read_range) -> None:
        self.folder, self.limit, self.fetch = folder, limit, fetch
        self.block = BLOCK if block is None else block

    def read(self, url: str, start: int, end: int, version: str) -> bytes:
        """As of the function `read`."""
        name = hashlib.sha256(f"{url}\0{version}\0{self.block}".encode()).hexdigest()[:32]
        parts = []
        for number in range(start // self.block, -(-end // self.block)):
            first = number * self.block
            parts.append(self._part(url, name, number, max(start - first, 0), min(end - first, self.block)))
        return b"".join(parts)

    def _part(self, url: str, name: str, number: int, start: int, end: int) -> bytes:
        path = self.folder / name / f"{number:06}"
        if (found := _read_part(path, start, end)) is not None:
            return found
        with self._locked(f"{int(name[:8], 16) + number:x}"):  # whoever comes second finds it there
            if (found := _read_part(path, start, end)) is not None:
                return found
            content = self.fetch(url, number * self.block, (number + 1) * self.block)
            with contextlib.suppress(OSError):  # no space, no permission: then it is not kept
                self._keep(path, content)
        return content[start:end]

    def _keep(self, path: Path, content: bytes) -> None:
        if len(content) > self.limit:
            return
        with self._locked("size"):
            total = self.folder / "total"
            try:
                used = int(total.read_text())
            except (OSError, ValueError):
                used = self.limit + 1  # unknown
            if used + len(content) > self.limit:
                used = self._make_room(len(content))
            path.parent.mkdir(parents=True, exist_ok=True)
            total.write_text(str(used + len(content)))
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(content)
            part.replace(path)

    def _make_room(self, wanted: int) -> int:
        """Deletes blocks until another of so many bytes has room, and gives the size of those that are left."""
        files = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                about = path.stat()
                files.append((about.st_mtime_ns, about.st_size, path))
        used = sum(size for _, size, _ in files)
        target = min(int(self.limit * _KEPT), self.limit - wanted)
        if used + wanted > self.limit:
            for _, size, path in sorted(files):
                if used <= target:
                    break
                path.unlink(missing_ok=True)
                used -= size
        return used

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process and thread at a time; where nothing can be locked, all of them."""
        try:
            import fcntl

            self.folder.mkdir(parents=True, exist_ok=True)
            number = name if name == "size" else str(int(name, 16) % _LOCKS)
            file = (self.folder / f"{number}.lock").open("a")
        except (ImportError, OSError):
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read_part(path: Path, start: int, end: int) -> bytes | None:
    """A part of a block; None if it is not there or, after a crash, not whole."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(end - start)
        os.utime(path)  # it was used
    except OSError:
        return None
    return content if len(content) == end - start else None
