"""Orders of an epoch: which sample stands at which place, computed for the places that are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fiber_data.permutation import Permutation

Draw = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From places of an epoch, int64 (N,), to the samples that are drawn there and their epochs, int64 (N, 2)."""


class Order(ABC):
    """Which samples an epoch consists of, and in which order: a function of (seed, epoch).

    Attributes:
        num_samples: Samples of the data set.
        num_places: Samples that are drawn in an epoch.
        most_draws: How often an epoch draws a sample at most.
        scattered: Whether neighbors of the data set may be anywhere in the epoch, independently.
    """

    num_samples: int
    num_places: int
    most_draws: int = 1
    scattered: bool = True

    @abstractmethod
    def draw(self, seed: int, epoch: int) -> Draw:
        """What gives the samples of an epoch by their places."""

    @property
    def fingerprint(self) -> int:
        """A number that differs between orders of other settings; 0 where the length says all."""
        return 0


class Unchanged(Order):
    """The order of the data set, in every epoch."""

    scattered = False

    def __init__(self, length: int) -> None:
        self.num_samples = self.num_places = length

    def draw(self, seed: int, epoch: int) -> Draw:
        """The places themselves."""
        return lambda places: _with_epoch(places, epoch)


class Shuffled(Order):
    """All samples of a data set in random order."""

    def __init__(self, length: int) -> None:
        self.num_samples = self.num_places = length

    def draw(self, seed: int, epoch: int) -> Draw:
        """Places of a permutation."""
        permutation = Permutation(self.num_samples, seed, epoch)
        return lambda places: _with_epoch(permutation(places), epoch)


class Blocks(Order):
    """A data set of consecutive blocks, such as shards on another machine: blocks in random order, mixed with a few.

    An epoch goes through the blocks in random order, `mixed` of them at a time; the samples of these are in random
    order among each other. Consecutive global batches thus read from the same few blocks, and every block is read in
    one stretch of the epoch:

    - any `mixed` blocks at a time, the next set when their samples are used up, so that a cache of ``2 * mixed`` blocks
      fetches each of them once in an epoch, with one set to be read and one on its way;
    - every rank reads of all blocks of a set, because global batches do not depend on the number of ranks.

    A source of a `fiber_data.Mixture` is read the same way, in stretches that the samples of others lengthen.

    With `unique_groups` or `alike_groups` the sampler moves samples within its windows (see
    `fiber_data.sampling.WINDOW_BATCHES`) and reads the blocks of a window together: let a set hold about as many.

        EpochSampler(len(dataset), 4096, order=Blocks(shard_lengths, mixed=16))

    Args:
        lengths: Samples of each block, in the order of the data set; a block may be empty.
        mixed: Blocks whose samples are mixed, at least 1. The more, the better is the order mixed, and the more blocks
            are needed at once.

    Raises:
        ValueError: A length is negative or all are 0, or `mixed` is below 1.
    """

    scattered = False

    def __init__(self, lengths: Sequence[int] | NDArray[np.int64], *, mixed: int = 16) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if self.lengths.ndim != 1 or (self.lengths < 0).any() or not self.lengths.any():
            raise ValueError(f"expected the lengths of blocks, of which one has samples, not {lengths!r:.80}")
        if mixed < 1:
            raise ValueError(f"mixed must be at least 1 block, is {mixed}")
        self.mixed = mixed
        self.num_samples = self.num_places = int(self.lengths.sum())

    @property
    def fingerprint(self) -> int:
        """Of the lengths and `mixed`."""
        return crc32(np.append(self.lengths, self.mixed).tobytes())

    def draw(self, seed: int, epoch: int) -> Draw:
        """Places of a permutation of each set of blocks."""
        order = Permutation(len(self.lengths), seed, epoch)(np.arange(len(self.lengths)))
        lengths = self.lengths[order]
        ends: NDArray[np.int64] = np.cumsum(lengths)  # of the blocks, in the order of the epoch
        shift: NDArray[np.int64] = (np.cumsum(self.lengths) - self.lengths)[order] - (ends - lengths)
        set_ends = np.append(ends[self.mixed - 1 : -1 : self.mixed], ends[-1])

        def draw(places: NDArray[np.int64]) -> NDArray[np.int64]:
            sets = np.searchsorted(set_ends, places, side="right")
            mixed = np.empty_like(places)
            for number in np.unique(sets).tolist():
                own, start = sets == number, int(set_ends[number - 1]) if number else 0
                permutation = Permutation(int(set_ends[number]) - start, seed, epoch, 1, number)
                mixed[own] = start + permutation(places[own] - start)
            mixed += shift[np.searchsorted(ends, mixed, side="right")]
            return _with_epoch(mixed, epoch)

        return draw


def _with_epoch(samples: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
    return np.stack([samples, np.full_like(samples, epoch)], axis=1)
