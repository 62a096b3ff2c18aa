"""Another sample in place of one that cannot be read, so that batches stay full and a run goes on.

A pair: the data set tries samples until one can be read, the collator makes a batch of what was found and says what was
not. Which sample comes instead follows from (seed, epoch, index) and from which can be read, whatever process asks.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from fiber_data.dataset import BrokenSample
from fiber_data.mixture import MixtureDataset
from fiber_data.permutation import Permutation
from fiber_data.sampling import EpochIndex

MOST_TRIES = 100
"""Samples that are tried for one place in a batch."""
_REPLACEMENT = 1  # beside (seed, epoch, index), of which the item itself is drawn


class Tried(NamedTuple):
    """An item, and what could not be read before it was found."""

    item: dict[str, Any] | None
    """None if `MOST_TRIES` samples, or all that there are, cannot be read."""
    broken: tuple[str, ...]
    """A sentence for each sample."""


class ReplacingDataset(Dataset[Tried]):
    """The items of a data set, each one that cannot be read replaced by another of the same epoch.

    Of a `fiber_data.MixtureDataset` the other is of the same source.

    Args:
        dataset: Gives a `fiber_data.BrokenSample` for what cannot be read, as every `fiber_data.SeededDataset` does.
        seed: Seed of the choice of another sample.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Tried:
        """The item at `index`, or the first that can be read of others in random order."""
        item, broken = self.dataset[index], []
        if isinstance(item, BrokenSample):
            broken.append(item.reason)
            for other in self._others(index):
                item = self.dataset[other]
                if not isinstance(item, BrokenSample):
                    break
                broken.append(item.reason)
        return Tried(None if isinstance(item, BrokenSample) else item, tuple(broken))

    def _others(self, index: int) -> Iterator[EpochIndex]:
        epoch = getattr(index, "epoch", 0)
        alike = self.dataset.alike(index) if isinstance(self.dataset, MixtureDataset) else range(len(self))
        order = Permutation(len(alike), self.seed, epoch, int(index), _REPLACEMENT)
        others = alike.start + order(np.arange(min(len(alike), MOST_TRIES)))
        return (EpochIndex(other, epoch) for other in others[others != int(index)][: MOST_TRIES - 1].tolist())


class ReplacingCollator:
    """Makes batches of what a `ReplacingDataset` gives.

    A batch is that of `collate`, and has besides:

    - ``broken``: a list with a sentence for each sample that was tried in vain;
    - ``replaced``: bool (B,), the places that others have taken.

    A place for which nothing could be read is filled with an item of the batch that could be; a batch without any is
    not collated, and its list ``ids`` is empty.

    Args:
        collate: What makes batches of items, such as `fiber_data.ImageTextCollator`.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, tried: Sequence[Tried]) -> dict[str, Any]:
        """Makes the batch."""
        broken = [reason for each in tried for reason in each.broken]
        good = [each.item for each in tried if each.item is not None]
        if not good:
            return {"ids": [], "broken": broken}
        spare = itertools.cycle(good)
        batch = self.collate([next(spare) if each.item is None else each.item for each in tried])
        return {**batch, "broken": broken, "replaced": torch.tensor([bool(each.broken) for each in tried])}
