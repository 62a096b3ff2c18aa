"""Orders other than a shuffle of all samples: what an epoch draws, from where."""

from itertools import chain

import numpy as np
import pytest
import torch
from fiber_data import (
    Blocks,
    BrokenSample,
    EpochIndex,
    EpochSampler,
    Mixture,
    MixtureDataset,
    ReplacingDataset,
    share_out,
)


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


def drawn(sampler, epochs=1):
    """The indices of some epochs, each with its own epoch."""
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += [[(int(index), index.epoch) for index in batch] for batch in sampler]
    return found


@pytest.mark.parametrize("lengths", [(100, 40, 7), (70_000, 200, 3)])
def test_a_mixture_draws_its_counts_and_every_sample_equally_often(lengths):
    counts = [lengths[0] // 2, 2 * lengths[1], lengths[2] + 1]
    sampler = EpochSampler(sum(lengths), 10, seed=1, drop_last=False, order=Mixture(lengths, counts))
    starts = np.cumsum([0, *lengths])
    over_time = np.zeros(sum(lengths), dtype=int)
    for epoch in range(6):
        sampler.set_epoch(epoch)
        indices = np.array(flat(sampler))
        assert np.histogram(indices, bins=starts)[0].tolist() == counts
        over_time += np.bincount(indices, minlength=sum(lengths))
    for source, length in enumerate(lengths):
        own = over_time[starts[source] : starts[source + 1]]
        assert own.max() - own.min() <= (0 if 6 * counts[source] % length == 0 else 1)


def test_samples_of_a_second_pass_are_of_another_epoch():
    twice = drawn(EpochSampler(10, 5, order=Mixture([10], [20])), epochs=2)
    assert sorted(flat(twice)) == [(index, epoch) for index in range(10) for epoch in range(4)]
    half = drawn(EpochSampler(10, 5, order=Mixture([10], [5])), epochs=4)
    assert sorted(flat(half)) == [(index, epoch) for index in range(10) for epoch in range(2)]


def test_the_sources_of_a_mixture_are_mixed():
    batches = [np.array(batch) for batch in EpochSampler(20_000, 100, order=Mixture([10_000] * 2, [10_000] * 2))]
    assert all(20 < (batch >= 10_000).sum() < 80 for batch in batches)
    first = np.concatenate(batches[:20])
    assert first.min() < 500 and first.max() > 19_500, "from all of each source"


@pytest.mark.parametrize("grouped", [False, True])
def test_a_mixture_resumes_with_another_number_of_ranks(grouped):
    order, groups = Mixture([60, 30], [30, 60]), np.arange(90) // 3 if grouped else None
    whole = EpochSampler(90, 6, seed=5, order=order, unique_groups=groups)
    whole.set_epoch(3)
    batches = list(whole)
    assert not grouped or all(len(set(groups[batch].tolist())) == 6 for batch in batches)
    whole.advance(4)
    ranks = [EpochSampler(90, 6, rank=rank, world_size=3, order=order, unique_groups=groups) for rank in range(3)]
    for sampler in ranks:
        sampler.load_state_dict(whole.state_dict())
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == batches[4:]
    with pytest.raises(ValueError, match="reached in another order"):
        EpochSampler(90, 6, order=Mixture([60, 30], [31, 59])).load_state_dict(whole.state_dict())


def test_a_source_in_blocks_is_read_in_one_stretch_each():
    lengths = np.full(20, 1000)
    order = Mixture([Blocks(lengths, mixed=2), 30_000], [20_000, 30_000])
    indices = np.array(flat(EpochSampler(50_000, 100, order=order)))
    assert sorted(indices.tolist()) == list(range(50_000))
    for block in range(20):
        used = np.flatnonzero(indices // 1000 == block)
        assert len(used) == 1000 and used[-1] - used[0] < 5000 + 2 * 4096, "two blocks take 5,000 places"
    assert Mixture([Blocks(lengths), 5], [1, 1]).fingerprint != Mixture([20_000, 5], [1, 1]).fingerprint


@pytest.mark.parametrize("counts", [(1, 100_000, 1, 3), (7, 9_999, 9_999), (5000,)])
def test_the_counts_of_any_sources_are_exact(counts):
    order = Mixture(counts, counts)
    indices = order.draw(0, 0)(np.arange(order.num_places))[:, 0]
    assert sorted(indices.tolist()) == list(range(sum(counts)))


def test_weights_become_whole_numbers_that_add_up():
    assert share_out(100, [1, 1, 1]) == [34, 33, 33]
    assert share_out(10, [0.5, 2.5]) == [2, 8]
    with pytest.raises(ValueError, match=r"the weight 1 of 1001 is less than one of 10 samples"):
        share_out(10, [1000, 1])


class Numbers(torch.utils.data.Dataset):
    def __init__(self, length, broken=()):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            return BrokenSample("broken")
        return {"image_id": int(index), "text_id": 2, "own": (int(index), index.epoch), "index": int(index)}


def test_items_of_a_mixture_know_their_source():
    joined = MixtureDataset([Numbers(5), Numbers(4, broken=[3])])
    assert len(joined) == 9
    item = joined[EpochIndex(7, 3)]
    assert (item["own"], item["index"], int(item["source"])) == ((2, 3), 7, 1)
    assert item["image_id"] != joined[2]["image_id"] and item["text_id"] != joined[2]["text_id"]
    assert isinstance(joined[8], BrokenSample)
    replaced = [ReplacingDataset(joined, seed=0)[EpochIndex(8, epoch)].item for epoch in range(20)]
    assert {item["index"] for item in replaced} == {5, 6, 7}, "another of the same source"
