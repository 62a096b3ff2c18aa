"""Several data sets as one: an epoch that draws an exact number of samples from each of them."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fiber_data.dataset import BrokenSample
from fiber_data.orders import Draw, Order
from fiber_data.permutation import Permutation
from fiber_data.sampling import EpochIndex

APART = 2**40
"""Numbers of images, and of texts, of a source are those of its own data set plus so much for each source before it."""
_SOURCE = 2  # in keys of permutations, beside (seed, pass)


class Mixture(Order):
    """An epoch with so many samples of each of several data sets, that lie one behind the other.

    Each source has a stream without end, pass after pass over all its samples, each pass in another order. An epoch
    draws the next `counts[i]` of source i, so that over time every sample of a source comes equally often, whatever
    part of a pass, or however many, an epoch takes. The samples of all sources are in random order among each other.

    The epoch of a drawn sample, by which its augmentation is drawn, is the number of its pass: a sample that comes
    twice in an epoch of the mixture comes in two epochs of its own.

    Args:
        lengths: Samples of each source.
        counts: Samples that an epoch draws from each.

    Raises:
        ValueError: A length or count is not positive.
    """

    def __init__(self, lengths: Sequence[int], counts: Sequence[int]) -> None:
        if len(lengths) != len(counts) or not lengths or min(*lengths, *counts) < 1:
            raise ValueError(
                f"expected a length and a count, at least 1, for each source, not lengths {list(lengths)!r:.80} and "
                f"counts {list(counts)!r:.80}"
            )
        self.lengths, self.counts = tuple(lengths), tuple(counts)
        self.num_samples, self.num_places = sum(lengths), sum(counts)
        pairs = zip(lengths, counts, strict=True)
        # A stream is cut anywhere, so that an epoch meets one pass more than it is long.
        self.most_draws = max(-(-count // length) + (count % length > 0) for length, count in pairs)

    @property
    def fingerprint(self) -> int:
        """Of lengths and counts."""
        return crc32(np.array([self.lengths, self.counts], dtype=np.int64).tobytes())

    def draw(self, seed: int, epoch: int) -> Draw:
        """What stands at the places of an epoch: positions in the streams, mixed."""
        mixed = Permutation(self.num_places, seed, epoch)
        ends = np.cumsum(self.counts)

        def draw(places: NDArray[np.int64]) -> NDArray[np.int64]:
            positions = mixed(places)
            sources = np.searchsorted(ends, positions, side="right")
            drawn = np.empty((len(places), 2), dtype=np.int64)
            first = 0
            for source, (length, count, end) in enumerate(zip(self.lengths, self.counts, ends.tolist(), strict=True)):
                own = np.flatnonzero(sources == source)
                passes, place = np.divmod(positions[own] - (end - count) + epoch * count, length)
                for number in np.unique(passes).tolist():
                    now = passes == number
                    drawn[own[now], 0] = first + Permutation(length, seed, number, _SOURCE, source)(place[now])
                drawn[own, 1] = passes
                first += length
            return drawn

        return draw


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

    def __getitem__(self, index: int) -> dict[str, Any] | BrokenSample:
        """The item at `index`, in the epoch that the index names."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        source = bisect_right(self._ends, index)
        first = self._ends[source] - self.lengths[source]
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
