"""Samples one by one, from files too large to hold: what a reader is a list of.

A reader ``read_x(root, split, *, bad_entries=None, ...)`` may be the list of a generator
``iterate_x(root, split, faults, *, ...)``, which gives samples while it notes what is wrong:

    @iterated_by(iterate_x)
    def read_x(root, split, *, bad_entries=None, ...):
        faults = Faults(Path(root), bad_entries is None)
        return collect(iterate_x(root, split, faults, ...), faults)

It sets ``faults.source`` to its file once that is found. `fiber_data.index` asks the generator, so that no list of all
samples is ever made.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from fiber_data.formats.faults import Faults, Samples

Sample = TypeVar("Sample")
Record = TypeVar("Record")
Key = TypeVar("Key", bound=Hashable)
Read = TypeVar("Read", bound=Callable[..., Any])
_DEEPEST = 1000  # as deep as Python's own parser goes
LARGE = 2**28
"""Bytes from which on a file is read piece by piece; smaller ones are parsed at once, which tells errors best."""


def iterated_by(iterate: Callable[..., Any]) -> Callable[[Read], Read]:
    """Says which generator a reader is the list of: ``read_x.iterate``."""

    def mark(read: Read) -> Read:
        read.iterate = iterate  # type: ignore[attr-defined]
        return read

    return mark


def collect(samples: Iterable[Sample], faults: Faults) -> Samples[Sample]:
    """The list of a generator's samples, after a warning of what is wrong with their file."""
    found = list(samples)
    faults.warn(stacklevel=4)
    return Samples(found, faults)


def is_large(path: Path) -> bool:
    """Whether a file is to be read piece by piece."""
    return path.stat().st_size >= LARGE


class JsonStream:
    """A JSON object in a file, of which one member is read at a time.

    Args:
        path: The file, in UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self, key: str) -> Iterator[Any]:
        """The entries of a list, one by one, with a progress bar; none if there is no such list.

        Raises:
            ValueError: The file is not JSON in UTF-8.
        """
        from tqdm import tqdm

        size = self.path.stat().st_size
        with tqdm(desc=f"{self.path.name}: {key}", total=size, unit="B", unit_scale=True, delay=1, disable=None) as bar:
            yield from self._parsed(f"{key}.item", bar)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is small."""
        return next(self._parsed(key), default)

    def outline(self) -> Any:
        """The object with its lists and objects empty; a list if the file holds a list."""
        import ijson

        found: dict[str, Any] = {}
        for prefix, event, value in self._guarded(lambda file: ijson.parse(file, use_float=True)):
            if prefix == "" and event == "start_array":
                return []
            if prefix and "." not in prefix and event not in ("end_array", "end_map", "map_key"):
                found[prefix] = [] if event == "start_array" else {} if event == "start_map" else value
        return found

    def _parsed(self, prefix: str, bar: Any = None) -> Iterator[Any]:
        import ijson

        return self._guarded(lambda file: ijson.items(file, prefix, use_float=True), bar)

    def _guarded(self, parse: Callable[[Any], Iterable[Any]], bar: Any = None) -> Iterator[Any]:
        import ijson

        with self.path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # the byte-order mark of Windows
                file.seek(0)
            try:
                yield from parse(_Counted(file, bar))
            except (ijson.JSONError, ValueError) as error:
                what = str(error).strip().partition("\n")[0]
                raise ValueError(f"{self.path}: not valid JSON ({what}); is the download complete?") from error


class _Counted:
    """A file that tells a progress bar what was read of it."""

    def __init__(self, file: Any, bar: Any) -> None:
        self.file, self.bar = file, bar

    def read(self, size: int = -1) -> bytes:
        content: bytes = self.file.read(size)
        if self.bar is not None:
            self.bar.update(len(content))
        check_depth(content)
        return content


def check_depth(content: bytes) -> None:
    """Refuses a part of a JSON file that goes too deep, for which ijson's memory grows with the square of the depth.

    Raises:
        ValueError: It opens many more lists and objects than it closes.
    """
    if sum(map(content.count, (b"[", b"{"))) - sum(map(content.count, (b"]", b"}"))) > _DEEPEST:
        raise ValueError("nested too deeply")


class Spool(Generic[Record]):
    """Records in a temporary file, appended and then read by number."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the spool
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, record: Record) -> None:
        """Adds a record, which can be pickled."""
        self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(record, pickle.HIGHEST_PROTOCOL)))

    def __getitem__(self, number: int) -> Record:
        start, end = self._ends[number], self._ends[number + 1]
        self._file.flush()
        self._file.seek(start)
        record: Record = pickle.loads(self._file.read(end - start))
        self._file.seek(0, os.SEEK_END)
        return record

    def __iter__(self) -> Iterator[Record]:
        self._file.flush()
        self._file.seek(0)
        for start, end in zip(self._ends[:-1], self._ends[1:], strict=True):
            self._file.seek(start)
            yield pickle.loads(self._file.read(end - start))


def records(path: Path) -> list[Any] | Spool[Any]:
    """Where records of a file are kept while it is read: a list, or of a large file a `Spool`."""
    return Spool() if is_large(path) else []


class Join(Generic[Key, Sample, Record]):
    """Samples by key, and what later entries of a file add to each; given in the order of the samples.

    Of a large file it holds no more in memory than the keys, and 16 bytes for each sample and addition.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[Key, int] = {}
        self._samples, self._added = records(path), records(path)
        self._owners = array("q")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: Key) -> Sample:
        return self._samples[self._places[key]]

    def first(self, count: int) -> list[Sample]:
        """The first samples."""
        return [self._samples[number] for number in range(min(count, len(self)))]

    def add(self, key: Key, sample: Sample) -> None:
        """Adds a sample of a new key."""
        self._places[key] = len(self._samples)
        self._samples.append(sample)

    def attach(self, key: Key, record: Record) -> None:
        """Adds something to a sample that is there."""
        self._owners.append(self._places[key])
        self._added.append(record)

    def __iter__(self) -> Iterator[tuple[Sample, Sequence[Record]]]:
        import numpy as np

        owners = np.frombuffer(self._owners, dtype=np.int64)
        order = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[order], np.arange(len(self) + 1))
        for number in range(len(self)):
            added = order[ends[number] : ends[number + 1]]
            yield self._samples[number], [self._added[int(place)] for place in added]
