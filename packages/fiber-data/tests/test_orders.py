"""Orders other than a shuffle of all samples: what an epoch draws, from where."""

from itertools import chain

import numpy as np
import pytest
from fiber_data import Blocks, EpochSampler


def flat(batches):
    return list(chain.from_iterable(batches))


LENGTHS = [7, 0, 40, 13, 25, 31, 4, 22, 18, 40]
STARTS = np.cumsum(LENGTHS) - LENGTHS


def blocks_of(batch):
    return set((np.searchsorted(STARTS, batch, side="right") - 1).tolist())


def test_blocks_are_read_in_one_stretch_each():
    order = Blocks(LENGTHS, mixed=3)
    sampler = EpochSampler(200, 10, seed=3, order=order)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(flat(batches)) == list(range(200))
        assert all(len(blocks_of(batch)) <= 6 for batch in batches)
        for block in range(10):
            used = [number for number, batch in enumerate(batches) if block in blocks_of(batch)]
            together = 1 + sum(sorted(LENGTHS)[-3:]) // 10
            assert not used or used[-1] - used[0] <= together
        epochs.append(batches)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({frozenset(blocks_of(flat(each[:3]))) for each in epochs}) > 1, "blocks come in another order"
    assert sorted(epochs[0][0]) != epochs[0][0], "their samples are mixed"


@pytest.mark.parametrize("grouped", [False, True])
def test_blocks_resume_with_another_number_of_ranks(grouped):
    groups = np.arange(200) // 5 if grouped else None
    whole = EpochSampler(200, 8, seed=3, order=Blocks(LENGTHS, mixed=2), unique_groups=groups)
    whole.set_epoch(4)
    batches = list(whole)
    assert sorted(flat(batches)) == list(range(200))
    whole.advance(7)
    ranks = [
        EpochSampler(200, 8, rank=rank, world_size=4, order=Blocks(LENGTHS, mixed=2), unique_groups=groups)
        for rank in range(4)
    ]
    for sampler in ranks:
        sampler.load_state_dict(whole.state_dict())
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == batches[7:]
    for other in (None, Blocks(LENGTHS, mixed=3)):
        with pytest.raises(ValueError, match="reached in another order"):
            EpochSampler(200, 8, order=other).load_state_dict(whole.state_dict())


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the order is of 200 samples, expected 100"):
        EpochSampler(100, 8, order=Blocks(LENGTHS))
    with pytest.raises(ValueError, match="an order or shuffle=False"):
        EpochSampler(200, 8, order=Blocks(LENGTHS), shuffle=False)
    with pytest.raises(ValueError, match="lengths of blocks"):
        Blocks([0, 0])
    with pytest.raises(ValueError, match="mixed must be at least 1"):
        Blocks([3], mixed=0)
