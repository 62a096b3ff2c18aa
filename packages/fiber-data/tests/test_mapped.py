"""Samples mapped from the rows of somebody's table: made when asked for, never copied, and the same as a list of them."""

import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from fiber_data import (
    AnswerVocabulary,
    BrokenSample,
    CaptionDataset,
    DetectionData,
    DetectionDataset,
    EpochIndex,
    GroundingDataset,
    ImageTextCollator,
    MappedSamples,
    PackedRecords,
    QuestionDataset,
    ReasoningDataset,
    build_detection_evaluation_transform,
    build_evaluation_transform,
    build_training_transform,
    inspect_samples,
    make_prompt,
)
from PIL import Image
from torch.utils.data import DataLoader


class Table:
    """What `datasets.Dataset` offers: a length, and rows by number, whose images are decoded when a row is asked for."""

    def __init__(self, rows, num_rows=None):
        self.rows = rows
        self.num_rows = len(rows) if num_rows is None else num_rows
        self.decoded = []

    def __len__(self):
        return self.num_rows

    def __getitem__(self, index):
        if not isinstance(index, int):
            raise TypeError(f"asked for {index!r}")
        self.decoded.append(index)
        row = dict(self.rows[index % len(self.rows)])
        if isinstance(row.get("image"), bytes):
            raise OSError("image file is truncated")
        return row


def captions_of(row):
    return {"image": row["image"], "captions": row["texts"], "id": row["key"]}


def itself(row):
    return row


@pytest.fixture
def rows(samples):
    return [
        {"image": Image.open(sample["image"]).copy(), "texts": sample["captions"], "key": sample["id"]}
        for sample in samples
    ]


def equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return first == second


@pytest.mark.parametrize("captions", ["each", "random", "all"])
def test_mapped_rows_give_what_the_packed_samples_give(samples, rows, captions):
    transform = build_training_transform(16)
    table = Table(rows)
    mapped = MappedSamples(table, captions_of, columns={"captions": [row["texts"] for row in rows]})
    dataset = CaptionDataset(mapped, transform, captions=captions, seed=3)
    assert dataset.samples is mapped and table.decoded == []
    packed = CaptionDataset(samples, transform, captions=captions, seed=3)
    assert isinstance(packed.samples, PackedRecords)
    for index in (EpochIndex(5, 0), EpochIndex(1, 2), EpochIndex(5, 0)):
        assert equal(dataset[index], packed[index])
    asked = [int(packed[index]["image_id"]) for index in (5, 1, 5)]
    assert table.decoded == asked  # a row an item, and nothing is kept


def test_without_columns_every_row_is_made_once_to_count_its_captions(rows):
    table = Table(rows)
    CaptionDataset(MappedSamples(table, captions_of), build_evaluation_transform(8))
    assert table.decoded == list(range(12))


def test_a_table_whose_rows_are_samples_needs_no_map(rows):
    table = Table([captions_of(row) for row in rows])
    dataset = CaptionDataset(table, build_evaluation_transform(8), captions="random")
    assert dataset.samples is table and len(dataset) == 12 and dataset[7]["id"] == "image-7"


def test_a_long_table_costs_nothing_before_it_is_used(rows):
    table = Table(rows, num_rows=10**12)
    samples = MappedSamples(table, captions_of)
    assert len(samples) == 10**12 and samples[-1]["id"] == samples[10**12 - 1]["id"]
    assert [sample["id"] for sample in samples[5:8]] == ["image-5", "image-6", "image-7"]
    with pytest.raises(IndexError, match="sample 1000000000000 of 1000000000000"):
        samples[10**12]


def test_a_spawned_worker_gets_the_table_as_it_is(samples, rows, tokenizer):
    mapped = MappedSamples(Table(rows), captions_of, columns={"captions": [row["texts"] for row in rows]})
    collate = ImageTextCollator(tokenizer, 24)
    transform = build_training_transform(16)

    def batches(given, **settings):
        dataset = CaptionDataset(given, transform, captions="random", seed=1)
        return list(DataLoader(dataset, batch_size=5, collate_fn=collate, **settings))

    sent = batches(mapped, num_workers=1, multiprocessing_context="spawn")
    assert len(sent) == 3 and mapped.rows.decoded == []
    assert all(equal(first, second) for first, second in zip(sent, batches(samples), strict=True))


def test_a_row_that_cannot_be_decoded_costs_one_sample(rows):
    table = Table([rows[0], {**rows[1], "image": b"cut"}, rows[2]])
    columns = {"captions": [row["texts"] for row in table.rows]}
    mapped = MappedSamples(table, captions_of, columns=columns)
    first, broken, last = CaptionDataset(mapped, build_evaluation_transform(8), captions="random")
    assert first["id"] == "image-0" and last["id"] == "image-2"
    assert broken == BrokenSample("row 1: cannot be read (OSError: image file is truncated)")


@pytest.mark.parametrize(
    "error", [EOFError("a"), SyntaxError("a"), struct.error("a"), zlib.error("a"), Image.DecompressionBombError("a")]
)
def test_what_pillow_raises_where_rows_decode_costs_one_sample(rows, error):
    class Decoding(Table):
        def __getitem__(self, index):
            if index == 1:
                raise error
            return super().__getitem__(index)

    mapped = MappedSamples(Decoding(rows[:3]), captions_of, columns={"captions": [row["texts"] for row in rows[:3]]})
    first, broken, _ = CaptionDataset(mapped, build_evaluation_transform(8), captions="random")
    assert first["id"] == "image-0"
    assert broken == BrokenSample(f"row 1: cannot be read ({type(error).__name__}: a)")


def test_columns_have_a_value_for_each_row(rows):
    with pytest.raises(ValueError, match=r"the column 'captions' has 2 values, expected 12, one for each row"):
        MappedSamples(rows, captions_of, columns={"captions": [["a"], ["b"]]})


@pytest.mark.parametrize("kind", ["path", "text", "pil", "array", "tensor", "bytes"])
def test_an_image_may_be_whatever_load_image_takes(samples, kind):
    path = samples[0]["image"]
    image = {
        "path": path,
        "text": str(path),
        "pil": Image.open(path).copy(),
        "array": np.array(Image.open(path)),
        "tensor": torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1),
        "bytes": path.read_bytes(),
    }[kind]
    transform = build_evaluation_transform(8)
    sample = {**samples[0], "image": image}
    expected = CaptionDataset(samples[:1], transform)[0]["pixel_values"]
    dataset = pickle.loads(pickle.dumps(CaptionDataset([sample], transform)))
    assert torch.equal(dataset[0]["pixel_values"], expected)
    assert inspect_samples([sample], decode=True).broken == [] and inspect_samples([sample]).missing == []


# The other tasks


def test_questions_about_images_in_memory_are_numbered_by_image_id(samples):
    image = Image.open(samples[0]["image"]).copy()
    asked = [
        {"image": image, "question": "what?", "id": number, "image_id": of, "answers": ["two"] * 10}
        for number, of in enumerate((8, 5, 8))
    ]
    table = Table(asked)
    columns = {key: [row[key] for row in asked] for key in ("image_id", "answers")}
    transform, vocabulary = build_evaluation_transform(8), AnswerVocabulary(("2",))
    dataset = QuestionDataset(MappedSamples(table, itself, columns=columns), transform, vocabulary)
    assert table.decoded == [] and dataset.image_ids.tolist() == [0, 1, 0]
    assert dataset[1]["answer_targets"].tolist() == [1.0] and table.decoded == [1]
    assert dataset.coverage() == 1
    for given in (asked, MappedSamples(Table(asked), itself)):
        assert QuestionDataset(given, transform).image_ids.tolist() == [0, 1, 0]


def test_sentences_about_two_images_in_memory(samples):
    pair = tuple(Image.open(sample["image"]).copy() for sample in samples[:2])
    table = Table([{"images": pair, "statement": "a cat.", "label": True, "id": "a"}])
    dataset = ReasoningDataset(MappedSamples(table, itself, columns={"label": [True]}), build_evaluation_transform(8))
    assert table.decoded == [] and dataset[0]["pixel_values"].shape == (2, 3, 8, 8) and table.decoded == [0]


def test_boxes_on_images_in_memory(samples):
    image = Image.new("RGB", (60, 40))
    boxes = {"image": image, "id": 1, "size": (40, 60), "boxes": [(1, 2, 11, 12)], "area": [100.0], "iscrowd": [False]}
    transform = build_detection_evaluation_transform(40, 60)
    table = Table([{**boxes, "labels": [7]}])
    data = DetectionData(MappedSamples(table, itself, columns={"size": [(40, 60)]}), {7: "cat"})
    dataset = DetectionDataset(data, transform, make_prompt(data.categories))
    assert table.decoded == [] and dataset.aspect_groups.tolist() == [0]
    assert dataset[0]["target"]["boxes"].tolist() == [[1, 2, 11, 12]] and table.decoded == [0]
    wrong = DetectionData([{**boxes, "labels": [7], "size": (4, 6)}], {7: "cat"})
    broken = DetectionDataset(wrong, transform, make_prompt(wrong.categories))[0]
    assert broken.reason.startswith("sample 1: image in memory: the image is 40 x 60 pixels")

    caption = {"caption": "a cat", "spans": [[(2, 5)]], "phrases": [[(2, 5)]], "dataset_name": ""}
    told = [{**boxes, **caption, "original_id": of} for of in (3, 4, 3)]
    table = Table(told)
    columns = {"size": [(40, 60)] * 3, "original_id": [3, 4, 3]}
    mapped = MappedSamples(table, itself, columns=columns)
    assert len(GroundingDataset(mapped, transform, captions="random")) == 2 and table.decoded == []
    assert len(GroundingDataset(told, transform, captions="random")) == 2
    assert GroundingDataset(mapped, transform)[2]["target"]["image_id"] == 2 and table.decoded == [2]
