"""Samples as a table on disk that all processes map: written in batches of rows, read a row or some columns at a time.

A table is a folder:

- ``samples-TOKEN.arrow``: Arrow's file format, a typed column for each key of the samples (see `fiber_data.kinds`) and,
  as text, what fits none of them;
- ``TOKEN-N.int64``: numbers that data sets ask of all samples at once, as plain arrays: of lists of texts how many
  texts there are up to each sample, and pairs such as sizes;
- ``table.json``: what else is known, also checksums of these files, see `fiber_data.checksums`.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

import numpy as np

from fiber_data.checksums import SealedFile, read_sealed_json, seal, sealed_json
from fiber_data.formats.faults import Fault
from fiber_data.kinds import (
    Kind,
    MisfitError,
    UnkeptError,
    arrow_type,
    common_kind,
    decoder,
    encode,
    from_text,
    to_text,
)

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 2**14  # of a batch
TABLE_FILE = "table.json"
_OTHER = " other keys"
_BATCHES = 256  # that a process keeps open; they are views of the file
_TEXTS, _PAIR = ["list", "str"], ["tuple", "int"]


class TableWriteError(OSError):
    """The disk is full, or the like."""


class MappedArray:
    """An array in a file, mapped when it is first asked; to pickle it passes the path. What is written stays here.

    Args:
        file: The file; it has one part.
        shape: Of the array; its numbers are int64.
    """

    def __init__(self, file: SealedFile, shape: tuple[int, ...]) -> None:
        self.file, self.shape = file, shape
        self._array: np.ndarray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._array is None:
            self.file.check(0)
            self._array = np.memmap(
                self.file.path, np.int64, "c", shape=self.shape
            )  # torch warns of what it cannot write
        return np.array(self._array, dtype) if copy else np.asarray(self._array, dtype)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedArray, (self.file, self.shape)


class TableSamples(Sequence[Any]):
    """The samples of a table, each made when it is asked for; to pickle them passes the path.

    Attributes:
        faults: What was wrong with the files that they were read from.
        unique_ids: Whether each sample has an ``id`` of its own, a number or text that reads like no other.

    Args:
        folder: The table.
        token: Of which writing, if it must be that one.

    Raises:
        OSError: There is no table, or that of another writing.
        DamagedTableError: It is damaged; what else is damaged is told by whoever reads there.
    """

    def __init__(self, folder: Path, token: str | None = None) -> None:
        import pyarrow as pa

        self.folder = folder
        known = read_sealed_json(folder / TABLE_FILE)
        if token not in (None, known["token"]):
            raise FileNotFoundError(f"{folder}: the table was written again while it was in use; start again")
        self.token, self._length, self.about = known["token"], known["length"], known["about"]
        self.unique_ids: bool = known["unique_ids"]
        self.faults = tuple(Fault(**each) for each in known["faults"])
        self._arrays: dict[str, list[Any]] = known["arrays"]
        self.kinds: dict[str, Kind] = known["kinds"]
        self._columns = {key: (place, decoder(kind)) for place, (key, kind) in enumerate(self.kinds.items())}
        self._sealed = {name: SealedFile(folder / name, **each) for name, each in known["files"].items()}
        self._samples = self._sealed[f"samples-{self.token}.arrow"]
        self._samples.check(len(self._samples.ends) - 1)  # where the batches are
        options = pa.ipc.IpcReadOptions(use_threads=False)  # no threads in processes that fork
        self._file = pa.ipc.open_file(pa.memory_map(str(self._samples.path)), options=options)
        self._batch = lru_cache(_BATCHES)(self._read_batch)

    def __reduce__(self) -> tuple[Any, ...]:
        return TableSamples, (self.folder, self.token)

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has written to its files."""
        return all(file.is_untouched for file in self._sealed.values())

    def _read_batch(self, number: int) -> pa.RecordBatch:
        is_new = self._samples.check(number)
        batch = self._file.get_batch(number)
        if is_new:
            batch.validate(full=True)  # a table of other hands could name places elsewhere in memory
        return batch

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The sample at `index`, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        batch, row = self._batch(position // ROWS), position % ROWS
        sample = {}
        for key, (place, make) in self._columns.items():
            if (value := batch.column(place)[row].as_py()) is not None:
                sample[key] = value if make is None else make(value)
        if (other := batch.column(len(self._columns))[row].as_py()) is not None:
            sample |= {key: from_text(text) for key, text in json.loads(other).items()}
        return sample

    def __iter__(self) -> Iterator[Any]:
        return self.glance(*self.kinds, everything=True)

    def glance(self, *keys: str, everything: bool = False) -> Iterator[dict[str, Any]]:
        """Some keys of all samples, or (`everything`) these and those that have no column; batch by batch."""
        for number in range(self._file.num_record_batches):
            batch = self._read_batch(number)
            rows: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
            for key in keys:
                if key in self._columns:
                    place, make = self._columns[key]
                    for row, value in zip(rows, batch.column(place).to_pylist(), strict=True):
                        if value is not None:
                            row[key] = value if make is None else make(value)
            other = batch.column(len(self._columns))
            if other.null_count < len(other):
                for row, text in zip(rows, other.to_pylist(), strict=True):
                    found = {} if text is None else json.loads(text)
                    row |= {key: from_text(own) for key, own in found.items() if everything or key in keys}
            yield from rows

    def codes(self, key: str) -> np.ndarray | None:
        """Of texts or paths the number of each sample's, int32 (n,), in the order in which they first come."""
        import pyarrow as pa

        if self.kinds.get(key) not in ("str", "path"):
            return None
        place, _ = self._columns[key]
        batches = [self._read_batch(number) for number in range(self._file.num_record_batches)]
        column = pa.chunked_array([batch.column(place) for batch in batches])
        if column.null_count:
            return None
        codes: np.ndarray = column.dictionary_encode().combine_chunks().indices.to_numpy()
        return codes

    def array(self, key: str) -> MappedArray | None:
        """The numbers of a key of all samples, if there are any.

        Returns:
            Of lists of texts int64 (n,), the number of texts up to and with each sample; of pairs of whole numbers
            int64 (n, 2).
        """
        if key not in self._arrays:
            return None
        name, *shape = self._arrays[key]
        return MappedArray(self._sealed[name], tuple(shape))


def write_table(
    folder: Path,
    token: str,
    samples: Iterable[Any],
    describe: Callable[[], tuple[Any, Iterable[Fault]]] = lambda: (None, ()),
) -> int:
    """Writes samples to a folder, in memory of a batch and 8 bytes for each sample.

    Args:
        folder: An empty folder.
        token: A name of this writing, unlike any other.
        samples: Dicts whose keys are text, consumed once.
        describe: Gives, after the last sample, what else to keep (as JSON holds it) and what was wrong.

    Returns:
        How many there are; of none no table is made.

    Raises:
        UnkeptError: A sample holds what no table keeps, or is no such dict.
        TableWriteError: It cannot be written.
    """
    import pyarrow as pa

    rest = iter(samples)
    if not (batch := list(islice(rest, ROWS))):
        return 0
    kinds, ids, length = _kinds(batch), _Ids(), 0
    schema = pa.schema([(key, arrow_type(kind)) for key, kind in kinds.items()] + [(_OTHER, pa.string())])
    with _Numbers(folder, token, kinds) as numbers, _Sink(folder / f"samples-{token}.arrow", schema) as sink:
        while batch:
            sink.write(_columns(batch, kinds, schema))
            numbers.write(batch)
            ids.add(batch)
            length += len(batch)
            batch = list(islice(rest, ROWS))
    about, faults = describe()
    arrays = numbers.shapes(length)
    with _refusals(folder):
        files = {name: seal(folder / name) for name, *_ in arrays.values()}
        files[sink.path.name] = seal(sink.path, sink.ends)
    known = {
        "token": token,
        "length": length,
        "kinds": kinds,
        "arrays": arrays,
        "files": files,
        "unique_ids": ids.are_unique(),
        "faults": [vars(fault) for fault in faults],
        "about": about,
    }
    with _refusals(folder), (folder / TABLE_FILE).open("w", encoding="utf-8") as file:
        file.write(sealed_json(known))
        _to_disk(file)
    return length


def _kinds(samples: Sequence[Any]) -> dict[str, Kind]:
    """Of each key that has a column."""
    values: dict[str, list[Any]] = {}
    for sample in samples:
        if type(sample) is not dict or not all(type(key) is str for key in sample):
            raise UnkeptError(f"a {type(sample).__name__}")
        for key, value in sample.items():
            values.setdefault(key, []).append(value)
    kinds = {}
    for key, own in values.items():
        with suppress(UnkeptError):
            if (kind := common_kind(own)) not in (None, "null"):
                kinds[key] = kind
    return kinds


def _columns(samples: Sequence[Any], kinds: Mapping[str, Kind], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {key: [None] * len(samples) for key in kinds}
    others: list[str | None] = []
    for row, sample in enumerate(samples):
        other = {}
        for key, value in sample.items():
            try:
                if value is None:  # in a column that is an absent key
                    raise MisfitError
                columns[key][row] = encode(kinds[key], value)
            except (KeyError, MisfitError):
                other[key] = to_text(value)
        others.append(json.dumps(other) if other else None)
    arrays = [pa.array(own, arrow_type(kinds[key])) for key, own in columns.items()]
    return pa.record_batch([*arrays, pa.array(others, pa.string())], schema=schema)


class _Sink:
    """Arrow's file of batches."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.path, self._folder = path, path.parent
        self.ends: list[int] = []  # of the batches
        with _refusals(self._folder):
            self._file = path.open("wb")
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        with _refusals(self._folder):
            self._writer.write_batch(batch)
            self.ends.append(self._file.tell())

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        with _refusals(self._folder):
            self._writer.close()
            _to_disk(self._file)
            self._file.close()


class _Numbers:
    """The plain arrays of a table, those alone that every sample has a part in."""

    def __init__(self, folder: Path, token: str, kinds: Mapping[str, Kind]) -> None:
        keys = [key for key, kind in kinds.items() if kind in (_TEXTS, _PAIR)]
        self._folder, self._is_texts = folder, {key: kinds[key] == _TEXTS for key in keys}
        self._names = {key: f"{token}-{number}.int64" for number, key in enumerate(keys)}
        self._totals = dict.fromkeys(keys, 0)
        with _refusals(folder):
            self._files = {key: (folder / name).open("wb") for key, name in self._names.items()}

    def write(self, samples: Sequence[Any]) -> None:
        for key, file in list(self._files.items()):
            values = [sample.get(key) for sample in samples]
            if self._is_texts[key]:
                is_whole = all(type(value) in (list, tuple) for value in values)
            else:
                is_whole = all(
                    type(each) is tuple and len(each) == 2 and set(map(type, each)) == {int} for each in values
                )
            if not is_whole:
                self._files.pop(key).close()
                del self._names[key]
                continue
            if self._is_texts[key]:
                numbers = self._totals[key] + np.cumsum([len(value) for value in values], dtype=np.int64)
                self._totals[key] = int(numbers[-1])
            else:
                numbers = np.array(values, np.int64)
            with _refusals(self._folder):
                file.write(numbers.tobytes())

    def shapes(self, length: int) -> dict[str, list[Any]]:
        """For each key the name of its file and the shape of its array."""
        return {key: [name, length] if self._is_texts[key] else [name, length, 2] for key, name in self._names.items()}

    def __enter__(self) -> _Numbers:
        return self

    def __exit__(self, *_: object) -> None:
        with _refusals(self._folder):
            for file in self._files.values():
                _to_disk(file)
                file.close()


class _Ids:
    """Whether ids differ, by their hashes; two that have one hash by chance count as one id."""

    def __init__(self) -> None:
        self._hashes, self._is_whole = array("q"), True

    def add(self, samples: Sequence[Any]) -> None:
        ids = [sample.get("id") for sample in samples]
        self._is_whole = self._is_whole and all(type(own) in (int, str) and bool(str(own).strip()) for own in ids)
        self._hashes.extend(hash(str(own)) for own in ids)

    def are_unique(self) -> bool:
        found = np.sort(np.frombuffer(self._hashes, np.int64))
        return self._is_whole and not bool((found[1:] == found[:-1]).any())


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TableWriteError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
