"""The batch contract: keys, shapes and types; padding; what is cut or broken is said."""

import warnings

import pytest
import torch
from fiber_data import (
    BrokenSample,
    CaptionDataset,
    EpochIndex,
    ImageTextCollator,
    build_evaluation_transform,
    pad_images,
)

BROKEN = BrokenSample("a.jpg: no such file")


@pytest.fixture(scope="module")
def items(samples):
    return list(CaptionDataset(samples, build_evaluation_transform(16), captions="random"))


@pytest.fixture(scope="module")
def items_with_all_texts(samples):
    return list(CaptionDataset(samples, build_evaluation_transform(16), captions="all"))


def test_a_batch_of_pairs_has_the_keys_shapes_and_types_of_the_contract(items, tokenizer):
    batch = ImageTextCollator(tokenizer, 40)(items[:5])
    length = max(len(tokenizer(item["text"])["input_ids"]) for item in items[:5])
    found = {key: (tuple(value.shape), value.dtype) for key, value in batch.items() if isinstance(value, torch.Tensor)}
    assert found == {
        "pixel_values": ((5, 3, 16, 16), torch.float32),
        "image_sizes": ((5, 2), torch.int64),
        **dict.fromkeys(("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"), ((5, length), torch.int64)),
        **dict.fromkeys(("image_ids", "indices", "seeds", "text_ids", "text_image_ids"), ((5,), torch.int64)),
    }
    assert batch["ids"] == [item["id"] for item in items[:5]]
    assert batch["texts"] == [item["text"] for item in items[:5]]
    assert batch["broken"] == []
    assert batch["text_ids"].tolist() == [item["text_id"] for item in items[:5]]
    assert set(batch) - set(found) == {"ids", "texts", "broken"}


def test_tokens_are_the_tokenizers_and_padding_stands_on_the_right(items, tokenizer):
    batch = ImageTextCollator(tokenizer, 40)(items)
    for text, ids, mask in zip(batch["texts"], batch["input_ids"], batch["attention_mask"], strict=True):
        expected = tokenizer(text)["input_ids"]
        padding = len(ids) - len(expected)
        assert ids.tolist() == expected + [tokenizer.pad_token_id] * padding
        assert mask.tolist() == [1] * len(expected) + [0] * padding


def test_several_texts_of_a_image_are_rows_of_their_own(items_with_all_texts, tokenizer):
    chosen = items_with_all_texts[1:4]
    batch = ImageTextCollator(tokenizer, 40)(chosen)
    counts = [len(item["texts"]) for item in chosen]
    assert counts == [3, 4, 2]
    assert batch["pixel_values"].shape[0] == len(batch["ids"]) == 3
    assert len(batch["input_ids"]) == len(batch["texts"]) == len(batch["mlm_labels"]) == 9
    assert batch["text_image_ids"].tolist() == [1] * 3 + [2] * 4 + [3] * 2
    assert batch["text_ids"].tolist() == list(range(2, 11))


def test_an_item_is_masked_alike_in_any_batch_and_anew_in_each_epoch(samples, tokenizer):
    dataset = CaptionDataset(samples, build_evaluation_transform(16))
    collate = ImageTextCollator(tokenizer, 40, mlm_probability=0.5)

    def labels(indices, epoch, row):
        batch = collate([dataset[EpochIndex(index, epoch)] for index in indices])
        return batch["mlm_labels"][row][batch["attention_mask"][row] == 1].tolist()

    alone = labels([7], 0, 0)
    assert alone == labels([3, 7, 9], 0, 1) and any(label != -100 for label in alone)
    assert len({tuple(labels([7], epoch, 0)) for epoch in range(5)}) > 1


def test_texts_of_one_image_are_masked_differently(items_with_all_texts, tokenizer):
    same = {**items_with_all_texts[0], "texts": ["a red cat on the mat sees two birds"] * 2, "text_ids": [0, 1]}
    first, second = ImageTextCollator(tokenizer, 40, mlm_probability=0.5)([same])["mlm_labels"]
    assert not torch.equal(first, second)


def test_masking_can_be_left_out(items, tokenizer):
    batch = ImageTextCollator(tokenizer, 40, mlm_probability=None)(items[:2])
    assert not [key for key in batch if key.startswith("mlm")]


def test_long_texts_are_cut_and_a_warning_says_so(items, tokenizer):
    collate = ImageTextCollator(tokenizer, 6)
    with pytest.warns(UserWarning, match=r"texts longer than max_length \(6 tokens\) are cut"):
        batch = collate([{**items[0], "text": "a red cat on the mat sees two birds"}, {**items[1], "text": "a cat"}])
    assert batch["input_ids"].shape == (2, 6)
    assert batch["input_ids"][0, -1] == tokenizer.sep_token_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collate([{**items[0], "text": "a cat"}])


def test_compiled_models_get_one_length(items, tokenizer):
    batch = ImageTextCollator(tokenizer, 50, pad_to_max_length=True)(items[:2])
    assert batch["input_ids"].shape == batch["mlm_labels"].shape == (2, 50)


def test_broken_samples_are_left_out(items, tokenizer):
    given = [BROKEN, items[4], BROKEN, items[6], BROKEN]
    with pytest.warns(UserWarning, match=r"3 of 5 images of a batch left out: a\.jpg: no such file; a\.jpg"):
        left_out = ImageTextCollator(tokenizer, 40)(given)
    assert left_out["image_ids"].tolist() == [4, 6] and left_out["broken"] == [BROKEN.reason] * 3


def test_a_batch_without_any_readable_image_is_an_error(tokenizer):
    with pytest.raises(RuntimeError, match=r"none of the 2 images of a batch can be read; the first: a\.jpg"):
        ImageTextCollator(tokenizer, 40)([BROKEN, BROKEN])


def test_images_of_unequal_size_are_padded_with_zeros_right_and_below():
    small, wide = torch.ones(3, 2, 3), torch.full((3, 1, 5), 2.0)
    stack, sizes = pad_images([small, wide])
    assert stack.shape == (2, 3, 2, 5) and sizes.tolist() == [[2, 3], [1, 5]] and sizes.dtype == torch.int64
    assert torch.equal(stack[0, :, :2, :3], small) and torch.equal(stack[1, :, :1, :], wide)
    assert stack.sum() == small.sum() + wide.sum()


def test_sizes_of_a_batch_are_those_before_padding(items, tokenizer):
    narrow = {**items[0], "pixel_values": torch.ones(3, 16, 8)}
    batch = ImageTextCollator(tokenizer, 40)([narrow, items[1]])
    assert batch["image_sizes"].tolist() == [[16, 8], [16, 16]]
    assert (batch["pixel_values"][0, :, :, 8:] == 0).all()


def test_keys_of_an_own_data_set_reach_the_batch(items, tokenizer):
    """Tensors of one shape and type are stacked, all else is a list."""
    own = [
        {**item, "weight": torch.tensor([0.5, number]), "ragged": torch.ones(number), "source": f"page {number}"}
        for number, item in enumerate(items[:3])
    ]
    plain, batch = (ImageTextCollator(tokenizer, 40)(given) for given in (items[:3], own))
    assert list(batch) == [*plain, "weight", "ragged", "source"], "ours keep their order"
    assert batch["weight"].tolist() == [[0.5, 0], [0.5, 1], [0.5, 2]]
    assert [len(each) for each in batch["ragged"]] == [0, 1, 2] and batch["source"] == ["page 0", "page 1", "page 2"]
    mixed = [{**items[0], "x": torch.ones(2)}, {**items[1], "x": torch.ones(2, dtype=torch.int64)}]
    assert isinstance(ImageTextCollator(tokenizer, 40)(mixed)["x"], list), "of two types"


def test_keys_that_do_not_fit_a_batch_are_refused(items, tokenizer):
    with pytest.raises(ValueError, match="2 of 3 items of a batch lack 'weight'"):
        ImageTextCollator(tokenizer, 40)([{**items[0], "weight": 1.0}, *items[1:3]])
    with pytest.raises(ValueError, match="a key 'input_ids', which the batch makes itself; call it otherwise"):
        ImageTextCollator(tokenizer, 40)([{**item, "input_ids": 1} for item in items[:2]])
