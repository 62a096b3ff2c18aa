"""Items follow from (seed, epoch, index) wherever they are made, and a broken image costs one sample."""

import pickle
from itertools import chain

import pytest
import torch
from fiber_data import (
    BrokenSample,
    CaptionDataset,
    EpochIndex,
    EpochSampler,
    ImageTextCollator,
    PackedRecords,
    build_evaluation_transform,
    build_training_transform,
)
from torch.utils.data import DataLoader


def equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return first == second


@pytest.fixture
def dataset(samples):
    return CaptionDataset(samples, build_training_transform(16), seed=5)


def test_an_item_follows_from_seed_epoch_and_index(samples, dataset):
    item = dataset[EpochIndex(3, 2)]
    dataset[0], torch.rand(3)
    assert equal(item, dataset[EpochIndex(3, 2)])
    other_seed = CaptionDataset(samples, build_training_transform(16), seed=6)
    for other in (dataset[EpochIndex(3, 1)], other_seed[EpochIndex(3, 2)]):
        assert other["text"] == item["text"] and other["seed"] != item["seed"]
        assert not torch.equal(other["pixel_values"], item["pixel_values"])
    assert equal(dataset[3], dataset[EpochIndex(3, 0)])


def test_an_item_leaves_the_global_generator_alone(dataset):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    dataset[1]
    assert torch.equal(torch.rand(2), expected)


def test_pixels_are_plain_float_tensors(dataset):
    pixels = dataset[0]["pixel_values"]
    assert type(pixels) is torch.Tensor and pixels.shape == (3, 16, 16) and pixels.dtype == torch.float32


def test_each_caption_is_an_item(samples):
    dataset = CaptionDataset(samples, build_evaluation_transform(8), captions="each")
    items = list(dataset)
    captions = [caption for sample in samples for caption in sample["captions"]]
    assert [item["text"] for item in items] == captions and len(dataset) == len(captions)
    assert [item["text_id"] for item in items] == [item["index"] for item in items] == list(range(len(captions)))
    expected = [number for number, sample in enumerate(samples) for _ in sample["captions"]]
    assert [item["image_id"] for item in items] == expected == dataset.image_ids.tolist()
    assert [item["id"] for item in items] == [samples[number]["id"] for number in expected]


def test_a_random_caption_is_drawn_anew_each_epoch(samples):
    dataset = CaptionDataset(samples, build_evaluation_transform(8), captions="random")
    assert len(dataset) == len(samples) == 12 and dataset.image_ids.tolist() == list(range(12))
    all_captions = [caption for sample in samples for caption in sample["captions"]]
    for index in (0, 5):
        items = [dataset[EpochIndex(index, epoch)] for epoch in range(40)]
        assert {item["text"] for item in items} == set(samples[index]["captions"])
        assert all(all_captions[item["text_id"]] == item["text"] for item in items)


def test_all_captions_come_with_their_image(samples):
    dataset = CaptionDataset(samples, build_evaluation_transform(8), captions="all")
    items = list(dataset)
    assert [item["texts"] for item in items] == [sample["captions"] for sample in samples]
    num_captions = sum(len(sample["captions"]) for sample in samples)
    assert list(chain.from_iterable(item["text_ids"] for item in items)) == list(range(num_captions))
    assert "text" not in items[0]


@pytest.mark.parametrize("captions", ["each", "all"])
def test_a_image_is_not_mirrored_against_any_of_its_texts(samples, captions):
    sample = {**samples[0], "captions": ["a cat", "the dog on the left"]}
    transform = build_training_transform(16, crop_scale=(1, 1), flip_probability=1, num_operations=0)
    dataset = CaptionDataset([sample], transform, captions=captions)
    upright = build_training_transform(16, crop_scale=(1, 1), flip_probability=0, num_operations=0)
    straight = CaptionDataset([sample], upright, captions=captions)
    kept = [
        torch.equal(dataset[index]["pixel_values"], straight[index]["pixel_values"]) for index in range(len(dataset))
    ]
    assert kept == ([False, True] if captions == "each" else [True])


def test_a_broken_image_costs_one_sample_and_a_counted_warning(samples, tokenizer, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8 no image")
    broken = {**samples[1], "image": tmp_path / "cut.jpg"}
    dataset = CaptionDataset([samples[0], broken, samples[2]], build_evaluation_transform(8), captions="random")
    assert isinstance(dataset[1], BrokenSample)
    with pytest.warns(UserWarning, match=r"1 of 3 images of a batch left out: .*cut\.jpg: cannot be read"):
        (batch,) = DataLoader(dataset, batch_size=3, collate_fn=ImageTextCollator(tokenizer, 20))
    assert batch["image_ids"].tolist() == [0, 2] and len(batch["pixel_values"]) == len(batch["input_ids"]) == 2
    assert len(batch["broken"]) == 1


def test_workers_give_what_the_process_itself_gives(samples, tokenizer):
    dataset = CaptionDataset(samples, build_training_transform(16), captions="random", seed=1)

    def batches(num_workers):
        sampler = EpochSampler(len(dataset), 4, seed=1)
        sampler.set_epoch(3)
        collate = ImageTextCollator(tokenizer, 24)
        return list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers))

    alone, together = batches(0), batches(2)
    assert len(alone) == 3
    assert all(equal(first, second) for first, second in zip(alone, together, strict=True))


def test_a_data_set_and_its_collator_can_be_sent_to_spawned_workers(dataset, tokenizer):
    collate = ImageTextCollator(tokenizer, 24)
    sent_dataset, sent_collate = pickle.loads(pickle.dumps((dataset, collate)))
    indices = pickle.loads(pickle.dumps([EpochIndex(3, 2), EpochIndex(4, 2)]))
    assert equal(
        sent_collate([sent_dataset[index] for index in indices]),
        collate([dataset[EpochIndex(3, 2)], dataset[EpochIndex(4, 2)]]),
    )


def test_what_is_no_data_set_is_refused(samples):
    transform = build_evaluation_transform(8)
    with pytest.raises(ValueError, match="no samples: check the annotation file and the split"):
        CaptionDataset([], transform)
    with pytest.raises(ValueError, match="sample 'image-0' has no caption: leave it out"):
        CaptionDataset([{**samples[0], "captions": []}], transform)
    with pytest.raises(ValueError, match="'each', 'random' or 'all', not 'first'"):
        CaptionDataset(samples, transform, captions="first")
    with pytest.raises(ValueError, match="exif must be 'stored', 'displayed' or None, not 'raw'"):
        CaptionDataset(samples, transform, exif="raw")
    with pytest.raises(ValueError, match="max_pixels must be at least 1, or None, not 0"):
        CaptionDataset(samples, transform, max_pixels=0)
    dataset = CaptionDataset(samples, transform, captions="all")
    for index in (12, -1):
        with pytest.raises(IndexError, match=f"item {index} of 12"):
            dataset[index]


def test_packed_records_are_a_sequence_that_workers_need_not_copy():
    records = [{"number": number, "text": "x" * number} for number in range(50)]
    packed = PackedRecords(iter(records))
    assert list(packed) == records and packed[-1] == records[-1] and packed[3:40:5] == records[3:40:5]
    assert list(pickle.loads(pickle.dumps(packed))) == records
    with pytest.raises(IndexError, match="record 50 of 50"):
        packed[50]
    packed[0]["number"] = 9
    assert packed[0]["number"] == 0
    assert list(PackedRecords([])) == []
