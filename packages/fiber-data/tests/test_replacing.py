"""A sample that cannot be read is replaced by another: the same one for the same (seed, epoch, index), and counted."""

import shutil

import pytest
import torch
from fiber_data import (
    CaptionDataset,
    EpochIndex,
    EpochSampler,
    ImageTextCollator,
    MappedSamples,
    ReplacingCollator,
    ReplacingDataset,
    build_evaluation_transform,
)
from torch.utils.data import ConcatDataset, DataLoader


@pytest.fixture
def broken(samples, tmp_path_factory):
    """`broken(2, 5)`: a data set of the twelve images of which these are cut to a third."""

    def make(*places, seed=0):
        own, folder = [], tmp_path_factory.mktemp("images")
        for place, sample in enumerate(samples):
            path = folder / sample["image"].name
            shutil.copy(sample["image"], path)
            if place in places:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
            own.append({**sample, "image": path})
        return ReplacingDataset(CaptionDataset(own, build_evaluation_transform(8), captions="random"), seed)

    return make


def test_what_comes_instead_follows_from_seed_epoch_and_index(broken):
    dataset, again, other = broken(2, 5), broken(2, 5), broken(2, 5, seed=1)
    assert len(dataset) == 12 and dataset[0].broken == () and dataset[0].item["index"] == 0
    chosen = [dataset[EpochIndex(2, epoch)] for epoch in range(30)]
    for epoch, (item, reasons) in enumerate(chosen):
        assert item["index"] not in (2, 5) and "002.png: cannot be read" in reasons[0]
        assert len(reasons) == 1 or "005.png: cannot be read" in reasons[1]
        assert item["seed"] == dataset[EpochIndex(item["index"], epoch)].item["seed"], "as if it came by itself"
    picked = [item["index"] for item, _ in chosen]
    assert picked == [again[EpochIndex(2, epoch)].item["index"] for epoch in range(30)]
    assert picked != [other[EpochIndex(2, epoch)].item["index"] for epoch in range(30)]
    assert len(set(picked)) > 5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_stay_full_on_every_process(broken, tokenizer, num_workers):
    """Batches of one sample included, and with several data sets behind one."""
    dataset = broken(0, 3, 4)
    joined = ReplacingDataset(ConcatDataset([dataset.dataset, broken().dataset]), 0)
    for given, size, ranks in ((dataset, 1, 1), (dataset, 4, 2), (joined, 4, 2)):
        counts, indices, reasons = [], [], []
        for rank in range(ranks):
            sampler = EpochSampler(len(given), size, rank=rank, world_size=ranks)
            collate = ReplacingCollator(ImageTextCollator(tokenizer, 20))
            batches = list(DataLoader(given, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers))
            counts.append([(len(batch["ids"]), len(batch["pixel_values"])) for batch in batches])
            for batch in batches:
                indices += batch["indices"].tolist()
                reasons += batch["broken"]
                assert batch["replaced"].dtype == torch.bool and batch["replaced"].sum() <= len(batch["broken"])
        assert counts == [[(size // ranks, size // ranks)] * (len(given) // size)] * ranks
        assert len(reasons) >= 3 and all(".png: cannot be read as an image" in reason for reason in reasons)
        assert given is joined or not {0, 3, 4} & set(indices)


def test_the_last_readable_sample_is_found_and_none_is_no_crash(broken, tokenizer):
    collate = ReplacingCollator(ImageTextCollator(tokenizer, 20))
    one = broken(*range(11))
    found = [one[index] for index in range(12)]
    assert [item["index"] for item, _ in found] == [11] * 12
    assert collate(found)["replaced"].tolist() == [True] * 11 + [False]
    none = broken(*range(12))
    item, reasons = none[3]
    assert item is None and len(set(reasons)) == len(reasons) == 12
    assert collate([none[3], none[4]]) == {"ids": [], "broken": [*reasons, *none[4].broken]}
    filled = collate([none[0], found[0], none[1]])
    assert filled["indices"].tolist() == [11, 11, 11] and filled["replaced"].all()


@pytest.mark.parametrize("image", [None, 7, torch.full((3, 2, 2), 2.0), {"bytes": None, "path": None}])
def test_what_is_no_image_at_all_costs_itself_too(samples, image):
    rows = [*samples[:3], {**samples[3], "image": image}]
    columns = {"captions": [row["captions"] for row in rows]}
    mapped = MappedSamples(rows, dict, columns=columns)
    dataset = ReplacingDataset(CaptionDataset(mapped, build_evaluation_transform(8), captions="random"), 0)
    item, (reason,) = dataset[3]
    assert item["index"] != 3 and reason.startswith("item 3: image in memory: an image ")
