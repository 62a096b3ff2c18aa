"""The order of an epoch: complete, the same for any number of ranks, resumable anywhere."""

import pickle
import tracemalloc
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from fiber_data import EpochIndex, EpochSampler
from fiber_data.sampling import WINDOW_SAMPLES


def flat(batches):
    return list(chain.from_iterable(batches))


def test_an_epoch_holds_every_sample_once_and_epochs_differ():
    sampler = EpochSampler(103, 10, seed=3, drop_last=False)
    first = list(sampler)
    assert sorted(flat(first)) == list(range(103))
    assert [len(batch) for batch in first] == [10] * 10 + [3]
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(flat(second)) == list(range(103))
    assert second != first
    assert list(EpochSampler(103, 10, seed=4, drop_last=False)) != first
    assert list(EpochSampler(103, 10, seed=3, drop_last=False)) == first


def test_drop_last_leaves_out_other_samples_each_epoch():
    sampler = EpochSampler(103, 10)
    left_out = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler) == 10
        left_out.append(frozenset(range(103)) - set(flat(sampler)))
    assert len(set(left_out)) == 3


def test_without_shuffling_the_order_is_that_of_the_data_set():
    assert list(EpochSampler(5, 2, shuffle=False, drop_last=False)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("world_size", [2, 3, 6])
@pytest.mark.parametrize("grouped", [False, True])
def test_ranks_together_are_one_process(world_size, grouped):
    groups = [index // 3 for index in range(50)] if grouped else None
    whole = list(EpochSampler(50, 12, seed=1, unique_groups=groups))
    ranks = [
        list(EpochSampler(50, 12, seed=1, rank=rank, world_size=world_size, unique_groups=groups))
        for rank in range(world_size)
    ]
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize(("length", "world_size"), [(50, 4), (49, 4), (53, 4), (8, 4), (1, 4)])
def test_incomplete_batches_lose_and_repeat_nothing(length, world_size):
    ranks = [
        EpochSampler(length, 8, seed=0, rank=rank, world_size=world_size, drop_last=False) for rank in range(world_size)
    ]
    assert sorted(flat(chain.from_iterable(ranks))) == list(range(length))
    assert [len(sampler) for sampler in ranks] == [len(list(sampler)) for sampler in ranks]


def test_padding_gives_every_rank_full_batches():
    ranks = [EpochSampler(13, 8, seed=0, rank=rank, world_size=4, drop_last=False, pad_last=True) for rank in range(4)]
    assert [[len(batch) for batch in sampler] for sampler in ranks] == [[2, 2]] * 4
    assert [len(sampler) for sampler in ranks] == [2] * 4
    counts = Counter(flat(chain.from_iterable(ranks)))
    assert sorted(counts) == list(range(13)) and sum(counts.values()) == 16


def test_padding_of_a_data_set_smaller_than_a_batch():
    assert [len(batch) for batch in EpochSampler(3, 8, drop_last=False, pad_last=True)] == [8]


@pytest.mark.parametrize("seen", [0, 1, 4, 5])
@pytest.mark.parametrize("grouped", [False, True])
def test_resuming_with_another_number_of_ranks_goes_on_exactly(seen, grouped):
    groups = [index % 20 for index in range(60)] if grouped else None
    options = {"drop_last": False, "unique_groups": groups}
    begun = EpochSampler(60, 12, seed=7, **options)
    begun.set_epoch(2)
    whole = list(begun)
    begun.advance(seen)
    resumed = [EpochSampler(60, 12, seed=0, rank=rank, world_size=3, **options) for rank in range(3)]
    for sampler in resumed:
        sampler.load_state_dict(begun.state_dict())
        sampler.set_epoch(2)
        assert len(sampler) == 5 - seen
    assert [flat(shares) for shares in zip(*resumed, strict=True)] == whole[seen:]
    for sampler in resumed:
        sampler.set_epoch(3)
    begun.set_epoch(3)
    assert [flat(shares) for shares in zip(*resumed, strict=True)] == list(begun)


def test_resuming_with_another_batch_size_keeps_the_order():
    begun = EpochSampler(60, 12)
    begun.advance(2)
    resumed = EpochSampler(60, 6)
    resumed.load_state_dict(begun.state_dict())
    assert flat(resumed) == flat(begun)


def test_iterating_ahead_does_not_move_the_position():
    sampler = EpochSampler(40, 10)
    batches = iter(sampler)
    next(batches)
    next(batches)
    sampler.advance()
    assert sampler.state_dict()["samples_seen"] == 10
    assert len(list(sampler)) == 3


@pytest.mark.parametrize("drop_last", [True, False])
def test_groups_never_meet_in_a_batch(drop_last):
    groups = torch.randint(0, 40, (200,), generator=torch.Generator().manual_seed(0))
    sampler = EpochSampler(200, 16, unique_groups=groups, drop_last=drop_last)
    batches = list(sampler)
    assert all(len(set(groups[batch].tolist())) == len(batch) for batch in batches)
    assert len(set(flat(batches))) == len(flat(batches)) == (192 if drop_last else 200)
    assert [len(batch) for batch in batches] == [16] * 12 + ([] if drop_last else [8])


def test_groups_that_only_just_fit_are_separated():
    """Four images with five captions in batches of four: each batch must hold one caption of each image."""
    groups = [index // 5 for index in range(20)]
    for epoch in range(20):
        sampler = EpochSampler(20, 4, unique_groups=groups)
        sampler.set_epoch(epoch)
        assert all(sorted(groups[index] for index in batch) == [0, 1, 2, 3] for batch in sampler)


def test_uneven_groups_with_an_incomplete_batch_are_separated():
    """Three of the ten samples' groups fill every batch but the last; many orders would get stuck."""
    groups = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    for epoch in range(50):
        sampler = EpochSampler(10, 4, unique_groups=groups, drop_last=False)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len({groups[index] for index in batch}) for batch in batches] == [4, 4, 2]
        assert sorted(flat(batches)) == list(range(10))


def test_separating_groups_still_shuffles():
    groups = [index // 5 for index in range(500)]
    batch = next(iter(EpochSampler(500, 32, unique_groups=groups)))
    assert max(groups[index] for index in batch) > 70 and min(groups[index] for index in batch) < 30
    assert batch != sorted(batch)


def test_groups_that_cannot_be_separated_are_named():
    with pytest.raises(ValueError, match=r"largest group \(7\) has 6: lower batch_size"):
        list(EpochSampler(10, 5, unique_groups=[7] * 6 + [1, 2, 3, 4]))


def test_the_index_carries_its_epoch_to_workers():
    sampler = EpochSampler(4, 2)
    sampler.set_epoch(5)
    index = next(iter(sampler))[0]
    copy = pickle.loads(pickle.dumps(index))
    assert isinstance(copy, EpochIndex) and copy == index and copy.epoch == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 10, "batch_size": 4, "world_size": 3}, r"\(4\) must be a multiple of world_size \(3\)"),
        ({"length": 10, "batch_size": 4, "world_size": 2, "rank": 2}, "rank 2, world_size 2"),
        ({"length": 10, "batch_size": 0}, "batch_size >= 1"),
        ({"length": 3, "batch_size": 4}, "3 samples give no batch of 4: lower batch_size"),
        ({"length": 8, "batch_size": 4, "pad_last": True}, "pad_last needs drop_last=False"),
        ({"length": 8, "batch_size": 4, "unique_groups": [0, 1]}, "each of the 8 samples, not 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(**arguments)


def test_a_state_of_other_data_is_refused():
    state = EpochSampler(10, 2).state_dict()
    with pytest.raises(ValueError, match="counts 10 samples but the data set has 12"):
        EpochSampler(12, 2).load_state_dict(state)


def test_a_state_of_another_batch_size_is_refused_with_groups():
    state = EpochSampler(10, 2).state_dict()
    with pytest.raises(ValueError, match="batch_size, which was 2 and is 5"):
        EpochSampler(10, 5, unique_groups=range(10)).load_state_dict(state)


TALL = [int(index % 3 == 0) for index in range(103)]


@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_hold_one_kind_and_no_sample_is_lost_by_that(drop_last):
    sampler = EpochSampler(103, 8, seed=2, drop_last=drop_last, alike_groups=TALL)
    batches = list(sampler)
    assert len(batches) == len(sampler) == sampler.batches_per_epoch
    assert len(set(flat(batches))) == len(flat(batches)) == (96 if drop_last else 103)
    mixed = [batch for batch in batches if len({TALL[index] for index in batch}) > 1]
    assert len(mixed) <= 1 and batches[-2:].count(mixed[0] if mixed else None) == len(mixed)
    kinds = [TALL[batch[0]] for batch in batches]
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)  # the kinds alternate
    sampler.set_epoch(1)
    assert list(sampler) != batches


@pytest.mark.parametrize("world_size", [2, 4])
def test_grouped_by_kind_ranks_together_are_one_process(world_size):
    whole = list(EpochSampler(103, 8, seed=1, alike_groups=torch.tensor(TALL)))
    ranks = [
        EpochSampler(103, 8, seed=1, rank=rank, world_size=world_size, alike_groups=TALL) for rank in range(world_size)
    ]
    assert [flat(shares) for shares in zip(*ranks, strict=True)] == whole


def test_grouped_by_kind_a_run_resumes_where_it_was():
    sampler = EpochSampler(103, 8, seed=4, alike_groups=TALL)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.advance(5)
    resumed = EpochSampler(103, 8, rank=0, world_size=2, alike_groups=TALL)
    resumed.load_state_dict(sampler.state_dict())
    assert [batch[:4] for batch in whole[5:]] == list(resumed)
    with pytest.raises(ValueError, match="with alike_groups the order depends on the global batch_size, which was 8"):
        EpochSampler(103, 4, alike_groups=TALL).load_state_dict(sampler.state_dict())


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="alike_groups must name a group for each of the 10 samples, not 103"):
        EpochSampler(10, 2, alike_groups=TALL)
    with pytest.raises(ValueError, match="unique_groups or alike_groups, not both"):
        EpochSampler(103, 2, alike_groups=TALL, unique_groups=range(103))


def test_joined_data_sets_are_asked_for_the_right_epoch():
    asked = []

    class Part(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            asked.append((int(index), index.epoch))

    joined = torch.utils.data.ConcatDataset([Part(), Part()])
    joined[EpochIndex(2, 7)], joined[EpochIndex(8, 7)]
    assert asked == [(2, 7), (3, 7)]


class Column:
    """Groups that are asked for by arrays of positions, such as those of a table on disk."""

    def __init__(self, length, group_of):
        self.length, self.group_of = length, group_of

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert isinstance(index, np.ndarray)
        return self.group_of(index)


LONG = 3 * WINDOW_SAMPLES + 5  # more windows than one


def test_an_epoch_of_many_windows_holds_every_sample_once():
    sampler = EpochSampler(100_003, 64, seed=1, drop_last=False)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [64] * 1562 + [35]
    assert sorted(flat(batches)) == list(range(100_003))
    begun = EpochSampler(100_003, 64, seed=1)
    begun.advance(1000)
    assert next(iter(begun)) == batches[1000]


def test_groups_of_any_kind_are_kept_apart_in_every_window():
    groups = np.arange(LONG) // 5
    kinds = [groups, torch.tensor(groups), groups.tolist(), Column(LONG, lambda index: torch.tensor(groups)[index])]
    samplers = [EpochSampler(LONG, 128, seed=2, unique_groups=kind, drop_last=False) for kind in kinds]
    batches = list(samplers[0])
    assert all(len(set(groups[batch].tolist())) == len(batch) for batch in batches)
    assert sorted(flat(batches)) == list(range(LONG))
    middle = len(batches) // 2
    for sampler in samplers:
        sampler.advance(middle)
        assert next(iter(sampler)) == batches[middle], "a window is computed alone"


def test_kept_apart_the_samples_are_mixed_as_before():
    first = list(EpochSampler(LONG, 128, seed=2, unique_groups=np.arange(LONG) // 5))
    plain = list(EpochSampler(LONG, 128, seed=2))
    assert sum(one == two for one, two in zip(first, plain, strict=True)) < len(plain)
    firsts = plain[:128]  # one window or two
    assert len(set(flat(first[:128])) & set(flat(firsts))) > 0.9 * len(flat(firsts))


@pytest.mark.parametrize("largest", [200, 380, 384])
def test_groups_too_large_for_a_window_get_wider_ones(largest):
    """One group is in almost, or in all, of the 384 batches; a window of the usual width could not hold them apart."""
    groups = np.arange(LONG)
    groups[:largest] = -1
    batches = list(EpochSampler(LONG, 128, unique_groups=groups))
    assert len(batches) == 384 and len(set(flat(batches))) == 384 * 128
    assert max(sum(groups[index] == -1 for index in batch) for batch in batches) == 1


def test_neighbors_of_one_group_are_kept_apart_in_the_order_of_the_data_set():
    groups = np.arange(LONG) // 300
    batches = list(EpochSampler(LONG, 64, unique_groups=groups, shuffle=False))
    assert all(len(set(groups[batch].tolist())) == len(batch) for batch in batches)


def test_what_no_epoch_can_separate_is_said_of_long_data_too():
    with pytest.raises(ValueError, match=r"largest group \(0\) has .*: lower batch_size"):
        list(EpochSampler(LONG, 1024, unique_groups=np.zeros(LONG, dtype=int)))


def test_alike_groups_lose_nothing_in_many_windows():
    length = 9 * WINDOW_SAMPLES
    tall = np.random.default_rng(0).integers(0, 2, length)
    sampler = EpochSampler(length, 64, alike_groups=Column(length, lambda index: tall[index]))
    batches = list(sampler)
    assert sorted(flat(batches)) == list(range(length))
    assert sum(len(set(tall[batch].tolist())) > 1 for batch in batches) <= 2


def test_epochs_of_forty_million_begin_at_once_and_without_lists():
    length = 40_000_000
    fives = Column(length, lambda index: index // 5)
    sampler = EpochSampler(length, 4096)
    unique = EpochSampler(length, 4096, unique_groups=fives)
    alike = EpochSampler(length, 4096, alike_groups=fives)  # as many groups as there can be
    tracemalloc.start()
    for each in (sampler, unique, alike):
        each.set_epoch(1)
        assert len(next(iter(each))) == 4096
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6, f"{peak / 1e6:.0f} MB, a list of the samples would take 1,500"
