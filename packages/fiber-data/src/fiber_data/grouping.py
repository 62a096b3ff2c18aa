"""Batches in which no two samples are of one group, or all of them are: some samples of an epoch, arranged at once."""

from collections.abc import Sequence
from math import log
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_BUCKETS = 2**22  # in which samples of groups are counted
_CHUNK = 2**20  # samples whose groups are taken together
_SURE = 40.0  # -log of the chance that one group is too often in one window


class Lookup(Protocol):
    """Integers that an array of positions gives, such as a column of a table on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: NDArray[np.int64], /) -> Any: ...


Groups = Sequence[int] | Tensor | NDArray[np.integer] | Lookup


def as_lookup(groups: Groups) -> Lookup:
    """Groups as what an array of positions can index; what can do that already stays where it is."""
    if isinstance(groups, Tensor):
        return groups.detach().cpu().numpy()
    return np.asarray(groups) if isinstance(groups, Sequence) else groups


def look_up(groups: Lookup, places: NDArray[np.int64]) -> NDArray[np.integer]:
    """The groups at these places, (N,)."""
    return np.asarray(groups[places])


def largest_group(groups: Lookup) -> int:
    """At least the size of the largest group; more only where there are more groups than four million."""
    counts = np.zeros(_BUCKETS, dtype=np.int64)
    for start in range(0, len(groups), _CHUNK):
        own = look_up(groups, np.arange(start, min(start + _CHUNK, len(groups))))
        counts += np.bincount(np.mod(own, _BUCKETS).astype(np.int64), minlength=_BUCKETS)
    return int(counts.max(initial=0))


def fits(largest: int, num_batches: int, share: float) -> bool:
    """Whether a group is never, or as good as never, more often in a window than the window has batches.

    Args:
        largest: Samples of the largest group.
        num_batches: Of the window.
        share: Of all samples that a window holds: each is there with this chance; 1 if nothing is known of that.
    """
    expected, too_many = largest * share, num_batches + 1
    if largest <= num_batches:
        return True
    return expected < too_many and too_many * log(too_many / expected) - too_many + expected > _SURE  # Chernoff's bound


def gather(groups: NDArray[np.integer], batch_size: int) -> NDArray[np.int64]:
    """Reorders so that batches hold samples of one group, in the order in which they become full.

    Args:
        groups: Of samples in a given order, (N,).
        batch_size: Samples of a batch.

    Returns:
        The places 0 .. N - 1, reordered. What is left of the groups stands at the end, by group.
    """
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = numbers.argsort(kind="stable")
    rank = np.arange(len(groups)) - np.repeat(counts.cumsum() - counts, counts)  # in the group
    in_full_batch = rank < np.repeat(counts // batch_size * batch_size, counts)
    batches = by_group[in_full_batch].reshape(-1, batch_size)
    return np.concatenate([batches[batches[:, -1].argsort()].ravel(), by_group[~in_full_batch]])


def separate(groups: NDArray[np.integer], batch_size: int) -> NDArray[np.int64]:
    """Reorders so that no batch holds two samples of a group; where an order exists, one is found.

    Batches are filled in the given order, putting off samples whose group is already in the batch. A group
    with as many samples left as there are batches left must be in each of them, and goes first: by the
    Gale-Ryser theorem that rule suffices for batches of equal size. The incomplete last batch is therefore
    filled first.

    Args:
        groups: Of samples in a given order, (N,).
        batch_size: Samples of a batch.

    Returns:
        The places 0 .. N - 1, reordered.

    Raises:
        ValueError: A group has more samples than there are batches for it.
    """
    full, rest = divmod(len(groups), batch_size)
    sizes = [rest] * bool(rest) + [batch_size] * full
    _, first, numbers, left = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    stream, by_group = _Stream(numbers, len(left)), numbers.argsort(kind="stable")
    following = left.cumsum() - left  # of each group the first sample that is not taken, in `by_group`
    turn = first  # of groups that have equally many samples left, those first that have had so many for longest
    num_groups_of = np.bincount(left, minlength=len(sizes) + 1)  # by samples left
    batches = []
    for number, size in enumerate(sizes):
        batches_left, forced = len(sizes) - number, np.empty(0, dtype=np.int64)
        if num_groups_of[batches_left]:
            forced = np.flatnonzero(left == batches_left)
            forced = forced[turn[forced].argsort()]
        present = np.concatenate([forced, stream.take(max(0, size - len(forced)), forced, left)])
        if len(present) != size or num_groups_of[batches_left + 1 :].any():
            raise ValueError(_cannot_separate(groups, batch_size))
        batches.append(by_group[following[present]])
        following[present] += 1
        num_groups_of += np.bincount(left[present] - 1, minlength=len(num_groups_of))
        num_groups_of -= np.bincount(left[present], minlength=len(num_groups_of))
        left[present] -= 1
        turn[present] = len(groups) * (number + 1) + np.arange(size)
    return np.concatenate(batches[1:] + batches[:1] if rest else batches)


class _Stream:
    """Groups of samples in their order, those that were put off before the others.

    A group whose samples were taken ahead of their turn has more entries than samples left.
    """

    def __init__(self, groups: NDArray[np.int64], num_groups: int) -> None:
        self.groups = groups
        self.at = 0
        self.put_off = groups[:0]
        self._first = np.zeros(num_groups, dtype=np.int64)
        self._forced = np.zeros(num_groups, dtype=bool)

    def take(self, number: int, forced: NDArray[np.int64], left: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next groups, each once, that have samples left and are not among the forced; fewer if there are not."""
        reach, groups = number + 8, self.groups
        self._forced[forced] = True
        while True:
            ahead = np.concatenate([self.put_off, groups[self.at : self.at + reach]])
            places = np.arange(len(ahead))
            self._first[ahead[::-1]] = places[::-1]  # of equal ones the last assignment stays
            fresh = (self._first[ahead] == places) & (left[ahead] > 0) & ~self._forced[ahead]
            chosen = np.flatnonzero(fresh)[:number]
            if len(chosen) == number or self.at + reach >= len(groups):
                break
            reach *= 2
        self._forced[forced] = False
        end = int(chosen[-1]) + 1 if len(chosen) else 0
        passed = left[ahead[:end]] > 0
        passed[chosen] = False
        waiting = len(self.put_off)
        self.put_off = np.concatenate([ahead[:end][passed], self.put_off[end:]])
        self.at += max(0, end - waiting)
        return ahead[chosen]


def _cannot_separate(groups: NDArray[np.integer], batch_size: int) -> str:
    names, counts = np.unique(groups, return_counts=True)
    name, most = names[counts.argmax()], counts.max()
    return (
        f"cannot keep the samples of a group apart: {len(groups)} samples in batches of {batch_size}, the largest "
        f"group ({name}) has {most}: lower batch_size, or draw one sample of a group per epoch"
    )
