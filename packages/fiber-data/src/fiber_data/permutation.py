"""Permutations of any length that are computed where they are used, and take no memory that grows with the length."""

from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray

from fiber_data.seeding import derive_seed, make_generator

LONGEST_TABLE = 65_536
"""Up to this length a permutation is drawn as a table: a network over few places reaches only some permutations."""
_ROUNDS = 8
_STEP, _FIRST, _SECOND = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Permutation:
    """A random order of `length` things, a function of its key.

    A Feistel network over a table of about sqrt(length) rows and columns: row and column are shifted in turn by a hash
    of the other, so that each round can be undone. Of what falls outside of the length the image is taken again (Black
    and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002); the hash is the finalizer of SplitMix64.

    Args:
        length: How many things, at least 0.
        key: Integers >= 0, as of `derive_seed`. Other keys give orders that have nothing to do with each other.

    Example:
        >>> Permutation(10**9, 0, 1)(np.arange(3)).shape  # the first three of a billion
        (3,)
    """

    def __init__(self, length: int, *key: int) -> None:
        self.length = length
        self._table: NDArray[np.int64] | None = None
        if length <= LONGEST_TABLE:
            self._table = torch.randperm(length, generator=make_generator(*key)).numpy()
            return
        rows = isqrt(length - 1) + 1
        self._sides = np.uint64(rows), np.uint64(-(-length // rows))
        self._keys = [np.uint64(derive_seed(*key, number)) for number in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at these places of the order.

        Args:
            places: Of 0 .. length - 1, int64 (N,).

        Returns:
            Different numbers of 0 .. length - 1 for different places, int64 (N,).
        """
        if self._table is not None:
            return self._table[places]
        values = self._rounds(places.astype(np.uint64))
        while (outside := np.flatnonzero(values >= self.length)).size:
            values[outside] = self._rounds(values[outside])
        return values.astype(np.int64)

    def _rounds(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows, columns = self._sides
        row, column = np.divmod(values, columns)
        for number, key in enumerate(self._keys):
            if number % 2:
                column = (column + _hash(row, key)) % columns
            else:
                row = (row + _hash(column, key)) % rows
        return row * columns + column


def _hash(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Numbers below 2**63, so that a little may be added."""
    mixed = values * _STEP + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)
