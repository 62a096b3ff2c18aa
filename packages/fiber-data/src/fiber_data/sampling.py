"""The order of training: a function of (seed, epoch), sliced for any number of ranks, resumable at any batch."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from fiber_data.grouping import Groups, as_lookup, fits, gather, largest_group, look_up, separate
from fiber_data.orders import Draw, Order, Shuffled, Unchanged

WINDOW_BATCHES = 16
WINDOW_SAMPLES = 16_384
"""The least that a window holds, so many batches and so many samples, if the epoch has them.

It takes some hundredths of a second to keep the samples of groups apart in a window, which is when the epoch begins."""
_ALIKE_WIDER = 4  # windows for groups that are kept together: each ends with batches of what is left over


class EpochIndex(int):
    """An index that knows its epoch, so that a data set in any worker can draw that epoch's augmentation."""

    epoch: int

    def __new__(cls, index: int, epoch: int) -> "EpochIndex":
        """Makes the index of one item in one epoch."""
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self

    def __sub__(self, other: int) -> "EpochIndex":
        """The index less an offset, in the same epoch: `torch.utils.data.ConcatDataset` asks its parts with it."""
        return EpochIndex(int(self) - other, self.epoch)

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return EpochIndex, (int(self), self.epoch)


class EpochSampler(Sampler[list[int]]):
    """A batch sampler whose state is three integers.

    The order of an epoch depends on (seed, epoch) alone; a global batch is a slice of it, and a rank takes a
    slice of the global batch. A run may thus go on with another number of workers or ranks, and see each
    sample exactly once. The order is computed as it is used, a window of batches at a time, and takes no memory that
    grows with the data set. The sampler cannot know how far a prefetching loader was *consumed*, so the training
    loop says it: `advance()` after every step. Iterating starts behind what was seen, and changes nothing::

        sampler = EpochSampler(len(dataset), batch_size=64, seed=0)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
        for epoch in range(sampler.epoch, num_epochs):
            sampler.set_epoch(epoch)
            for batch in loader:
                ...
                sampler.advance()

    Args:
        length: Number of samples of the data set.
        batch_size: Samples in a *global* batch, over all ranks.
        seed: Seed of the order.
        rank: This process, 0 <= rank < world_size.
        world_size: Number of processes, a divisor of `batch_size`.
        shuffle: Whether to permute; if not, every epoch runs in the order of the data set.
        drop_last: Whether to leave out the last, incomplete batch. If not, ranks may get last slices of
            unequal length, and a rank whose slice would be empty gets one batch fewer.
        pad_last: Whether to fill the last batch with the first samples of the epoch instead, so that all
            ranks do equal work; a metric must then count ids once. Needs ``drop_last=False``.
        unique_groups: For each sample a group number, such as the image of a caption. No two samples of a
            group then meet in one global batch. A list, an array, a tensor, or whatever gives an array of
            numbers for an array of positions, such as a column of a table on disk. Samples are moved within
            a window, which is wider than usual where groups are too large for that, if need be the epoch.
        alike_groups: For each sample a group number, such as whether an image is tall (see
            `fiber_data.DetectionDataset.aspect_groups`), given likewise. Global batches then hold samples of one
            group, so that little is padded; what is left over of the groups meets in the last ones of each
            window. No sample is lost by that.
        order: Which samples an epoch draws, and in which order, in place of all of them shuffled: such as
            `fiber_data.Blocks`, for data in shards on another machine.

    Raises:
        ValueError: The sizes do not fit each other; the message says which and how to mend it.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        pad_last: bool = False,
        unique_groups: Groups | None = None,
        alike_groups: Groups | None = None,
        order: Order | None = None,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.pad_last = pad_last
        self.epoch = 0
        self.samples_seen = 0
        self._order = order or (Shuffled(length) if shuffle else Unchanged(length))
        self._groups = None if unique_groups is None else as_lookup(unique_groups)
        self._alike = None if alike_groups is None else as_lookup(alike_groups)
        self._check(order is not None)
        num_windows = self._num_windows()
        self._batches_before = np.arange(num_windows + 1) * self.batches_per_epoch // num_windows

    def _check(self, ordered: bool) -> None:
        if self.batch_size < 1 or self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"expected batch_size >= 1 and 0 <= rank < world_size, not batch_size {self.batch_size}, "
                f"rank {self.rank}, world_size {self.world_size}"
            )
        if self.batch_size % self.world_size:
            raise ValueError(
                f"the global batch_size ({self.batch_size}) must be a multiple of world_size ({self.world_size})"
            )
        if self.pad_last and (self.drop_last or self._groups is not None):
            raise ValueError("pad_last needs drop_last=False, and cannot be joined with unique_groups")
        if ordered and not self.shuffle:
            raise ValueError("give an order or shuffle=False, not both: shuffle=False is the order of the data set")
        if self._order.num_samples != self.length:
            raise ValueError(f"the order is of {self._order.num_samples} samples, expected {self.length}")
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"{self._order.num_places} samples give no batch of {self.batch_size}: "
                "lower batch_size, or set drop_last=False where an incomplete batch will do"
            )
        if self._groups is not None and self._alike is not None:
            raise ValueError("give unique_groups or alike_groups, not both: a batch cannot always satisfy the two")
        for name, groups in (("unique_groups", self._groups), ("alike_groups", self._alike)):
            if groups is not None and len(groups) != self.length:
                raise ValueError(f"{name} must name a group for each of the {self.length} samples, not {len(groups)}")

    def _num_windows(self) -> int:
        """Into how many windows, nearly equal in batches, an epoch is cut.

        A window must be able to keep the samples of each group apart. Where a group may be too large for that, there
        are fewer and wider ones.
        """
        order, full = self._order, self._order.num_places // self.batch_size
        least = max(WINDOW_BATCHES, -(-WINDOW_SAMPLES // self.batch_size))
        windows = max(1, full // (least if self._alike is None else least * _ALIKE_WIDER))
        if self._groups is None or windows == 1:
            return windows
        largest = largest_group(self._groups) * order.most_draws
        while windows > 1:
            share = min(1.0, (full // windows + 2) / full) if order.scattered else 1.0
            if fits(largest, full // windows, share):
                break
            windows //= 2
        return windows

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in a whole epoch."""
        full, rest = divmod(self._order.num_places, self.batch_size)
        return full if self.drop_last else full + bool(rest)

    @property
    def _num_places(self) -> int:
        """Places of the epoch that are used, padding left out."""
        return self.batches_per_epoch * self.batch_size if self.drop_last else self._order.num_places

    def _window(self, draw: Draw, number: int) -> NDArray[np.int64]:
        """The samples of a window in order, and their epochs, (N, 2)."""
        first, stop = (self._batches_before[number : number + 2] * self.batch_size).tolist()
        drawn = draw(np.arange(first, min(stop, self._num_places)))
        if self._groups is not None:
            drawn = drawn[separate(look_up(self._groups, drawn[:, 0]), self.batch_size)]
        if self._alike is not None:
            drawn = drawn[gather(look_up(self._alike, drawn[:, 0]), self.batch_size)]
        return drawn

    def _at(self, places: NDArray[np.int64], window: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
        """The samples at some places of the epoch, and their epochs, (N, 2)."""
        firsts = self._batches_before * self.batch_size
        numbers = np.searchsorted(firsts[1:-1], places, side="right")
        drawn = np.empty((len(places), 2), dtype=np.int64)
        for number in np.unique(numbers).tolist():
            own = numbers == number
            drawn[own] = window(number)[places[own] - firsts[number]]
        return drawn

    def __iter__(self) -> Iterator[list[int]]:
        """Yields this rank's share of each global batch that is still to come in this epoch."""
        draw, num_places = self._order.draw(self.seed, self.epoch), self._num_places
        window = lru_cache(maxsize=2)(partial(self._window, draw))
        for start in range(self.samples_seen, num_places, self.batch_size):
            places = np.arange(start, start + self.batch_size)
            places = places % num_places if self.pad_last else places[: num_places - start]
            share = places[self._slice(len(places))]
            if len(share):
                yield [EpochIndex(*each) for each in self._at(share, window).tolist()]

    def _slice(self, size: int) -> slice:
        return slice(size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size)

    def __len__(self) -> int:
        """Number of batches that iterating now would yield on this rank."""
        full, rest = divmod(max(0, self._num_places - self.samples_seen), self.batch_size)
        share = self._slice(rest)
        return full + int(rest > 0 and (self.pad_last or share.start < share.stop))

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch; naming the current one keeps the position, as a resumed run needs."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.samples_seen = 0

    def advance(self, num_batches: int = 1) -> None:
        """Notes that this many global batches were trained on."""
        self.samples_seen = min(self.samples_seen + num_batches * self.batch_size, self._order.num_places)

    def state_dict(self) -> dict[str, int]:
        """The position: seed, epoch, samples seen over all ranks; and the length and batch size that it counts in.

        Of an order that has settings, their fingerprint too.
        """
        keys = ("seed", "epoch", "samples_seen", "length", "batch_size")
        state = {key: getattr(self, key) for key in keys}
        return {**state, "order": self._order.fingerprint} if self._order.fingerprint else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a position, which may come from another number of ranks.

        Raises:
            ValueError: The state belongs to a data set of another length, to another order, or, with groups, to
                another batch size: the order would not be the one that was begun.
        """
        if state.get("length", self.length) != self.length:
            raise ValueError(
                f"the state counts {state['length']} samples but the data set has {self.length}: resume with the data "
                "that the run began with, or start a new run from its weights"
            )
        if state.get("order", 0) != self._order.fingerprint:
            raise ValueError(
                "the state was reached in another order: resume with the same blocks, or sources and their shares, or "
                "start a new run from its weights"
            )
        grouping = "unique_groups" if self._groups is not None else "alike_groups" if self._alike is not None else ""
        if grouping and state.get("batch_size", self.batch_size) != self.batch_size:
            raise ValueError(
                f"with {grouping} the order depends on the global batch_size, which was {state['batch_size']} and "
                f"is {self.batch_size}: resume with the old one"
            )
        self.seed, self.epoch, self.samples_seen = (int(state[key]) for key in ("seed", "epoch", "samples_seen"))
