"""The order of training: a function of (seed, epoch), sliced for any number of ranks, resumable at any batch."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from fiber_data.seeding import make_generator


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
    sample exactly once. The sampler cannot know how far a prefetching loader was *consumed*, so the training
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
            group then meet in one global batch.
        alike_groups: For each sample a group number, such as whether an image is tall (see
            `fiber_data.DetectionDataset.aspect_groups`). Global batches then hold samples of one group, so that
            little is padded; what is left over of the groups meets in the last ones. No sample is lost by that.

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
        unique_groups: Sequence[int] | Tensor | None = None,
        alike_groups: Sequence[int] | Tensor | None = None,
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
        self._groups = None if unique_groups is None else torch.as_tensor(unique_groups).tolist()
        self._alike = None if alike_groups is None else torch.as_tensor(alike_groups).tolist()
        self._check()

    def _check(self) -> None:
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
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"{self.length} samples give no batch of {self.batch_size}: "
                "lower batch_size, or set drop_last=False where an incomplete batch will do"
            )
        if self._groups is not None and self._alike is not None:
            raise ValueError("give unique_groups or alike_groups, not both: a batch cannot always satisfy the two")
        for name, groups in (("unique_groups", self._groups), ("alike_groups", self._alike)):
            if groups is not None and len(groups) != self.length:
                raise ValueError(f"{name} must name a group for each of the {self.length} samples, not {len(groups)}")

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in a whole epoch."""
        full, rest = divmod(self.length, self.batch_size)
        return full if self.drop_last else full + bool(rest)

    def order(self) -> list[int]:
        """The samples of the whole epoch over all ranks, in order, without padding."""
        if not self.shuffle and self._groups is None:
            order = list(range(self.length))
        else:
            generator = make_generator(self.seed, self.epoch)
            order = torch.randperm(self.length, generator=generator).tolist()
        if self.drop_last:
            order = order[: self.batches_per_epoch * self.batch_size]
        if self._groups is not None:
            order = _separate(order, self._groups, self.batch_size)
        if self._alike is not None:
            order = _gather(order, self._alike, self.batch_size)
        return order

    def __iter__(self) -> Iterator[list[int]]:
        """Yields this rank's share of each global batch that is still to come in this epoch."""
        order, epoch = self.order(), self.epoch
        for start in range(self.samples_seen, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            if self.pad_last:
                batch += [order[i % len(order)] for i in range(self.batch_size - len(batch))]
            share = batch[self._slice(len(batch))]
            if share:
                yield [EpochIndex(index, epoch) for index in share]

    def _slice(self, size: int) -> slice:
        return slice(size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size)

    def __len__(self) -> int:
        """Number of batches that iterating now would yield on this rank."""
        num_samples = self.batches_per_epoch * self.batch_size if self.drop_last else self.length
        full, rest = divmod(max(0, num_samples - self.samples_seen), self.batch_size)
        share = self._slice(rest)
        return full + int(rest > 0 and (self.pad_last or share.start < share.stop))

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch; naming the current one keeps the position, as a resumed run needs."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.samples_seen = 0

    def advance(self, num_batches: int = 1) -> None:
        """Notes that this many global batches were trained on."""
        self.samples_seen = min(self.samples_seen + num_batches * self.batch_size, self.length)

    def state_dict(self) -> dict[str, int]:
        """The position: seed, epoch, samples seen over all ranks; and the length and batch size that it counts in."""
        keys = ("seed", "epoch", "samples_seen", "length", "batch_size")
        return {key: getattr(self, key) for key in keys}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a position, which may come from another number of ranks.

        Raises:
            ValueError: The state belongs to a data set of another length, or, with groups, to another
                batch size: the order would not be the one that was begun.
        """
        if state.get("length", self.length) != self.length:
            raise ValueError(
                f"the state counts {state['length']} samples but the data set has {self.length}: resume with the data "
                "that the run began with, or start a new run from its weights"
            )
        grouping = "unique_groups" if self._groups is not None else "alike_groups" if self._alike is not None else ""
        if grouping and state.get("batch_size", self.batch_size) != self.batch_size:
            raise ValueError(
                f"with {grouping} the order depends on the global batch_size, which was {state['batch_size']} and "
                f"is {self.batch_size}: resume with the old one"
            )
        self.seed, self.epoch, self.samples_seen = (int(state[key]) for key in ("seed", "epoch", "samples_seen"))


def _separate(order: list[int], groups: list[int], batch_size: int) -> list[int]:
    """Reorders so that no batch holds two samples of a group; where an order exists, one is found.

    Batches are filled in the given order, putting off samples whose group is already in the batch. A group
    with as many samples left as there are batches left must be in each of them, and goes first: by the
    Gale-Ryser theorem that rule suffices for batches of equal size. The incomplete last batch is therefore
    filled first.
    """
    members: dict[int, deque[int]] = defaultdict(deque)
    for index in order:
        members[groups[index]].append(index)
    by_samples_left: dict[int, dict[int, None]] = defaultdict(dict)  # dicts as sets that keep their order
    for group, waiting in members.items():
        by_samples_left[len(waiting)][group] = None

    def take(group: int) -> int:
        left = len(members[group])
        del by_samples_left[left][group]
        by_samples_left[left - 1][group] = None
        return members[group].popleft()

    full, rest = divmod(len(order), batch_size)
    sizes = [rest] * bool(rest) + [batch_size] * full
    stream = deque(groups[index] for index in order)
    batches: list[list[int]] = []
    for batches_left, size in zip(range(len(sizes), 0, -1), sizes, strict=True):
        present = dict.fromkeys(by_samples_left[batches_left])
        put_off = []
        while len(present) < size and stream:
            group = stream.popleft()
            if group in present:
                put_off.append(group)
            elif members[group]:  # a forced group is taken ahead of its turn in the stream
                present[group] = None
        stream.extendleft(reversed(put_off))
        if len(present) != size:
            raise ValueError(_cannot_separate(order, groups, batch_size))
        batches.append([take(group) for group in present])
    if rest:
        batches.append(batches.pop(0))
    return [index for batch in batches for index in batch]


def _gather(order: list[int], groups: list[int], batch_size: int) -> list[int]:
    """Reorders so that batches hold samples of one group, in the order in which they become full."""
    waiting: dict[int, list[int]] = defaultdict(list)
    gathered: list[int] = []
    for index in order:
        own = waiting[groups[index]]
        own.append(index)
        if len(own) == batch_size:
            gathered += own
            own.clear()
    return gathered + [index for group in sorted(waiting) for index in waiting[group]]


def _cannot_separate(order: list[int], groups: list[int], batch_size: int) -> str:
    group, count = Counter(groups[index] for index in order).most_common(1)[0]
    return (
        f"cannot keep the samples of a group apart: {len(order)} samples in batches of {batch_size}, the largest group "
        f"({group}) has {count}: lower batch_size, or draw one sample of a group per epoch"
    )
