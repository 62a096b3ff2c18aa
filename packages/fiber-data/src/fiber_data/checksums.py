"""Checksums of a table's files, by which damage is noticed before a sample is made of it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiber_data.formats.sources import Stamp, stamp_of

_CHECKSUM = "checksum"


class DamagedTableError(ValueError):
    """A file of a table does not hold what was written there."""


class SealedFile:
    """A file with what it held when it was written: its parts are compared when each is first read.

    Args:
        path: The file.
        stamp: Its size in bytes and time of change in nanoseconds.
        ends: Where its parts end.
        sums: The checksum of each part.
    """

    def __init__(self, path: Path, stamp: Stamp, ends: Sequence[int], sums: Sequence[int]) -> None:
        self.path, self.stamp, self.ends, self.sums = path, stamp, ends, sums
        self._whole: set[int] = set()

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has written to the file, by its time and size."""
        return stamp_of(self.path) == self.stamp

    def check(self, part: int) -> bool:
        """Compares a part, once; whether this was the first time.

        Raises:
            DamagedTableError: It holds something else.
        """
        if part in self._whole:
            return False
        start = self.ends[:part][-1:]
        is_whole = self.path.stat().st_size == self.ends[-1]
        if not is_whole or checksums(self.path, start, [self.ends[part]]) != [self.sums[part]]:
            raise DamagedTableError(f"{self.path}: damaged; delete {self.path.parent}, which is then made anew")
        self._whole.add(part)
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return SealedFile, (self.path, self.stamp, self.ends, self.sums)


def seal(path: Path, ends: Sequence[int] = ()) -> dict[str, Any]:
    """What `SealedFile` takes beside the path, as JSON holds it.

    Args:
        path: A file that was written and closed.
        ends: Where parts of it end; what is behind them is a part too.
    """
    all_ends = [*ends, path.stat().st_size]
    return {"stamp": stamp_of(path), "ends": all_ends, "sums": checksums(path, [], all_ends)}


def checksums(path: Path, before: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The checksums of parts that lie one behind the other, from the end before them on."""
    start, found = before[-1] if before else 0, []
    with path.open("rb") as file:
        file.seek(start)
        for end in ends:
            found.append(zlib.crc32(file.read(end - start)))
            start = end
    return found


def sealed_json(content: dict[str, Any]) -> str:
    """JSON with its own checksum, which `read_sealed_json` compares."""
    return json.dumps({**content, _CHECKSUM: zlib.crc32(json.dumps(content).encode())})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The content of a file of `sealed_json`.

    Raises:
        OSError: There is no such file.
        DamagedTableError: It holds something else.
    """
    try:
        found: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        checksum = found.pop(_CHECKSUM, None)
        if zlib.crc32(json.dumps(found).encode()) == checksum:
            return found
    except (ValueError, TypeError, RecursionError):
        pass
    raise DamagedTableError(f"{path}: damaged; delete {path.parent}, which is then made anew")
