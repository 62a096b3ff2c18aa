"""A long list of small records that worker processes share instead of copying.

A Python list of dicts is copied into every worker of a data loader, page by page, as reference counts are
touched. Here the records lie serialized in one tensor, which is shared by forked and by spawned workers
alike.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import torch

Record = TypeVar("Record")


class PackedRecords(Sequence[Record]):
    """A read-only sequence of picklable records; reading one gives a fresh copy of it.

    Args:
        records: The records, consumed once.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        buffer = bytearray()
        ends = []
        for record in records:
            buffer += pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        self._bytes = torch.frombuffer(buffer, dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)
        self._ends = torch.tensor(ends, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The record at `index`, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start = int(self._ends[position - 1]) if position else 0
        packed: np.ndarray = self._bytes[start : int(self._ends[position])].numpy()
        return pickle.loads(packed.data)

    def __iter__(self) -> Iterator[Record]:
        return (self[position] for position in range(len(self)))
