"""Samples made from rows of a table as they are asked for, such as a Hugging Face data set or a data base."""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import torch
from PIL import Image

from fiber_data.formats.faults import Fault
from fiber_data.images import BrokenImageError
from fiber_data.table import TableSamples

Sample = TypeVar("Sample")
# What Pillow raises on damaged files, where rows decode their images, and what no fault of a program looks like.
_DAMAGES = (OSError, EOFError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError)


class Rows(Protocol):
    """What can be counted and indexed: a list, a `datasets.Dataset`, any other table."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class MappedSamples(Sequence[Sample]):
    """The samples of rows, each made when it is asked for, and never kept.

    Some facts a data set must know of all samples before it starts: how many captions each has, or the sizes of images
    with boxes. It then makes every sample once, decoding its image if the rows do that, unless `columns` tells it:

        MappedSamples(rows, make, columns={"captions": rows["captions"]})

    Args:
        rows: The table. It is sent to worker processes as it is.
        make: The sample of a row, a dict as of `fiber_data.read_captions` or another reader. ``image`` may be anything
            that `fiber_data.load_image` takes. Worker processes that are spawned need a function of a module.
        columns: Values of keys of all samples that are known without making them. ``id`` is asked of all that are
            measured; ``captions`` of captions; ``image_id`` and ``answers`` of questions; ``label`` of sentences about
            two images; ``size`` of boxes; and ``original_id`` of captions with boxes, one of which is drawn for each
            image.

    Raises:
        ValueError: A column has not as many values as there are rows.
    """

    def __init__(
        self, rows: Rows, make: Callable[[Any], Sample], *, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self.rows = rows
        self.make = make
        self.columns = dict(columns or {})
        for key, values in self.columns.items():
            if len(values) != len(rows):
                raise ValueError(f"the column {key!r} has {len(values)} values, expected {len(rows)}, one for each row")

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The sample at `index`, or a list of those of a slice.

        Raises:
            BrokenImageError: The row, or a file of it, cannot be read.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        try:
            return self.make(self.rows[position])
        except _DAMAGES as error:
            raise BrokenImageError(f"row {position}: cannot be read ({type(error).__name__}: {error})") from error

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))


class TakenSamples(Sequence[Any]):
    """Some of the samples of a table.

    Args:
        table: All of them.
        places: The positions of those that are meant, int64 (n,), in the order that is wanted.
    """

    def __init__(self, table: TableSamples, places: torch.Tensor) -> None:
        self.table, self.places = table, places

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What was wrong with the files that they were read from."""
        return self.table.faults

    @property
    def unique_ids(self) -> bool:
        """Whether each is known to have an id of its own."""
        return self.table.unique_ids and len(self.places.unique()) == len(self.places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The sample at `index`, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self.table[int(self.places[index])]

    def glance(self, *keys: str) -> Iterator[dict[str, Any]]:
        """Some keys of all samples."""
        if not bool((self.places[1:] > self.places[:-1]).all()):
            return (self[index] for index in range(len(self)))
        chosen = np.zeros(len(self.table), np.int8)
        chosen[self.places.numpy()] = 1
        return compress(self.table.glance(*keys), chosen)

    def codes(self, key: str) -> np.ndarray | None:
        """As of `TableSamples`."""
        codes = self.table.codes(key)
        if codes is None:
            return None
        _, first, own = np.unique(codes[self.places.numpy()], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[own].astype(np.int32)

    def array(self, key: str) -> np.ndarray | None:
        """As of `TableSamples`."""
        found = self.table.array(key)
        if found is None:
            return None
        numbers, places = np.asarray(found), self.places.numpy()
        if numbers.ndim == 2:
            return numbers[places]
        return np.cumsum(numbers[places] - np.where(places > 0, numbers[places - 1], 0))


def glance(samples: Sequence[Any], *keys: str) -> Iterator[Mapping[str, Any]]:
    """All samples, or no more of them than some keys where these are known without making samples.

    Args:
        samples: Samples of a reader, mapped ones of an index, or `MappedSamples` with `columns`.
        keys: The keys to read.

    Returns:
        An iterator over dicts that hold at least these keys, if the samples do.
    """
    if isinstance(samples, TableSamples | TakenSamples):
        return samples.glance(*keys)
    if isinstance(samples, MappedSamples) and samples.columns.keys() >= set(keys):
        values = zip(*(samples.columns[key] for key in keys), strict=True)
        return (dict(zip(keys, each, strict=True)) for each in values)
    return (samples[index] for index in range(len(samples)))  # not all that have a length end an iteration by it


def take(samples: Sequence[Sample], places: Sequence[int]) -> Sequence[Sample]:
    """Some of the samples, by their positions; what was made as it is asked for, still is.

    Args:
        samples: Samples of a reader, `MappedSamples`, or another sequence.
        places: Positions, in the order that is wanted.
    """
    if isinstance(samples, list | tuple):
        return [samples[place] for place in places]
    if isinstance(samples, TableSamples):
        return TakenSamples(samples, torch.tensor(places))
    if isinstance(samples, TakenSamples):
        return TakenSamples(samples.table, samples.places[torch.tensor(places)])
    known = samples.columns if isinstance(samples, MappedSamples) else {}
    columns = {key: [values[place] for place in places] for key, values in known.items()}
    return MappedSamples(places, samples.__getitem__, columns=columns)


def image_key(sample: Mapping[str, Any], other: str) -> str:
    """What tells a sample's image from others: its path, or the value of another key if it is held in memory."""
    image = sample.get("image")
    return str(image) if isinstance(image, str | Path) else repr(sample[other])
