"""Several data sets as one: an epoch that draws an exact number of samples from each of them."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fiber_data.dataset import BrokenSample
from fiber_data.orders import Draw, Order, Shuffled
from fiber_data.permutation import Permutation
from fiber_data.sampling import EpochIndex
from fiber_data.seeding import derive_seed

APART = 2**40
"""Numbers of images, and of texts, of a source are those of its own data set plus so much for each source before it."""
_SOURCE = 2  # in the seeds of sources, beside that of the mixture and their number
_STRETCH = 4096  # places in which sources are mixed


class Mixture(Order):
    """An epoch with so many samples of each of several data sets, that lie one behind the other.

    Each source has a stream without end, pass after pass over all its samples, each pass in another order. An epoch
    draws the next `counts[i]` of source i, so that over time every sample of a source comes equally often, whatever
    part of a pass, or however many, an epoch takes. Every few thousand places of the epoch hold all sources in
    proportion, in random order among each other, and go on in each stream: a source that is read in blocks still is.

    The epoch of a drawn sample, by which its augmentation is drawn, is the number of its pass: a sample that comes
    twice in an epoch of the mixture comes in two epochs of its own.

    Args:
        sources: Of each its number of samples, or the order of its passes, such as `fiber_data.Blocks`.
        counts: Samples that an epoch draws from each.

    Raises:
        ValueError: A number of samples or count is not positive, or a pass of an order is not over all samples once.
    """

    def __init__(self, sources: Sequence[int | Order], counts: Sequence[int]) -> None:
        self.orders = [source if isinstance(source, Order) else Shuffled(source) for source in sources]
        self.lengths, self.counts = tuple(order.num_samples for order in self.orders), tuple(counts)
        if len(self.lengths) != len(counts) or not counts or min(*self.lengths, *counts) < 1:
            raise ValueError(
                f"expected a length and a count, at least 1, for each source, not lengths {self.lengths!r:.80} and "
                f"counts {self.counts!r:.80}"
            )
        if any(order.num_places != order.num_samples for order in self.orders):
            raise ValueError("a source must be an order of all its samples, each once in a pass; this one draws others")
        self.num_samples, self.num_places = sum(self.lengths), sum(counts)
        self.scattered = all(order.scattered for order in self.orders)
        pairs = zip(self.lengths, counts, strict=True)
        # A stream is cut anywhere, so that an epoch meets one pass more than it is long.
        self.most_draws = max(-(-count // length) + (count % length > 0) for length, count in pairs)
        self._stretch = max(_STRETCH, len(counts) ** 2)
        self._largest = max(range(len(counts)), key=self.counts.__getitem__)

    @property
    def fingerprint(self) -> int:
        """Of lengths, counts and orders."""
        orders = [order.fingerprint for order in self.orders]
        return crc32(np.array([self.lengths, self.counts, orders], dtype=np.int64).tobytes())

    def _drawn_before(self, place: int) -> NDArray[np.int64]:
        """How many samples of each source come before the start, or the end, of a stretch.

        Each source has its share, rounded down; the largest one takes what is left, which is never too little where a
        stretch is longer than the square of the number of sources.
        """
        shares = np.array([place * count // self.num_places for count in self.counts])
        shares[self._largest] += place - shares.sum()
        return shares

    def draw(self, seed: int, epoch: int) -> Draw:
        """What stands at the places of an epoch: positions in the streams, mixed."""

        @lru_cache(maxsize=4 * len(self.orders))
        def of_pass(source: int, number: int) -> Draw:
            return self.orders[source].draw(derive_seed(seed, _SOURCE, source), number)

        def draw(places: NDArray[np.int64]) -> NDArray[np.int64]:
            sources, positions = self._streams(places, seed, epoch)
            drawn = np.empty((len(places), 2), dtype=np.int64)
            for source, length in enumerate(self.lengths):
                own = np.flatnonzero(sources == source)
                passes, place = np.divmod(positions[own] + epoch * self.counts[source], length)
                for number in np.unique(passes).tolist():
                    now = passes == number
                    drawn[own[now]] = of_pass(source, number)(place[now])
                drawn[own, 0] += sum(self.lengths[:source])
            return drawn

        return draw

    def _streams(self, places: NDArray[np.int64], seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which source is drawn from at each place, and which of its samples in this epoch, counted from 0."""
        sources, positions = np.empty_like(places), np.empty_like(places)
        stretches = places // self._stretch
        for number in np.unique(stretches).tolist():
            start = number * self._stretch
            stop = min(start + self._stretch, self.num_places)
            before, own = self._drawn_before(start), np.flatnonzero(stretches == number)
            mixed = Permutation(stop - start, seed, epoch, 1, number)(places[own] - start)
            ends = np.cumsum(self._drawn_before(stop) - before)
            sources[own] = np.searchsorted(ends, mixed, side="right")
            positions[own] = mixed + (before - np.append(0, ends[:-1]))[sources[own]]
        return sources, positions


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to weights, by the largest remainders.

    Args:
        total: Their sum.
        weights: Positive numbers.

    Raises:
        ValueError: A share is below one half, and would be nothing.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    if 0 in counts:
        place = counts.index(0)
        raise ValueError(
            f"the weight {weights[place]} of {sum(weights):g} is less than one of {total} samples; raise it"
        )
    return counts


class MixtureDataset(Dataset[dict[str, Any] | BrokenSample]):
    """The items of several data sets, one behind the other, each with the number of its source.

    An item is that of its data set, and besides has ``source``, int64 (), the number of the data set. ``image_id`` and
    ``text_id`` or ``text_ids``, which are numbers in a data set of their own, are kept apart by `APART`; ``index`` is
    the position among all.

    Args:
        parts: The data sets.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = list(parts)
        self.lengths = [len(part) for part in parts]  # type: ignore[arg-type]
        self._ends = list(accumulate(self.lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def alike(self, index: int) -> range:
        """The indices of the source that has `index`, of which `fiber_data.ReplacingDataset` takes others."""
        source = bisect_right(self._ends, index)
        return range(self._ends[source] - self.lengths[source], self._ends[source])

    def __getitem__(self, index: int) -> dict[str, Any] | BrokenSample:
        """The item at `index`, in the epoch that the index names."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        source = bisect_right(self._ends, index)
        first = self.alike(index).start
        item = self.parts[source][EpochIndex(int(index) - first, getattr(index, "epoch", 0))]
        if isinstance(item, BrokenSample):
            return item
        item = {**item, "index": int(index), "source": torch.tensor(source)}
        for key in ("image_id", "text_id"):
            if key in item:
                item[key] += source * APART
        if "text_ids" in item:
            item["text_ids"] = [number + source * APART for number in item["text_ids"]]
        return item
