"""Real COCO photographs with their captions, through the same doors as a user's own."""

import warnings

import numpy as np
import pytest
import torch
from fiber_data import (
    CaptionDataset,
    DetectionDataset,
    EpochSampler,
    FiberProcessor,
    ImageTextCollator,
    PromptSampler,
    build_detection_training_transform,
    build_training_transform,
    chunk_categories,
    find_shared,
    inspect_samples,
    load_image,
    load_tokenizer,
    read_captions,
    read_detection,
)
from PIL import Image
from torch.utils.data import DataLoader


@pytest.fixture(scope="module")
def splits(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {split: read_captions(real_data("coco_mini"), split) for split in ("train", "val")}


@pytest.fixture(scope="module")
def roberta(real_data):
    return load_tokenizer(real_data("roberta_tokenizer"))


def test_every_photo_is_found_and_decodes_and_no_split_leaks(splits):
    assert [len(splits[split]) for split in ("train", "val")] == [80, 79]
    findings = [inspect_samples(samples, decode=True) for samples in splits.values()]
    assert [(each.num_captions, each.missing, each.broken) for each in findings] == [(400, [], []), (395, [], [])]
    assert find_shared(splits) == {}
    assert findings[0].words[1] in range(9, 13)  # COCO's captions have about ten words


def test_an_epoch_of_training_sees_every_photo_once_with_one_of_its_captions(splits, roberta):
    samples = splits["train"]
    dataset = CaptionDataset(samples, build_training_transform(64), captions="random")
    loader = DataLoader(
        dataset,
        batch_sampler=EpochSampler(len(dataset), 16),
        collate_fn=ImageTextCollator(roberta, 50),
        num_workers=2,
    )
    seen = []
    for batch in loader:
        assert batch["pixel_values"].shape == (16, 3, 64, 64) and batch["pixel_values"].isfinite().all()
        assert 0.2 < batch["pixel_values"].std() < 2.5  # normalized photographs, neither raw nor blank
        for image_id, text in zip(batch["image_ids"].tolist(), batch["texts"], strict=True):
            assert text in samples[image_id]["captions"]
        assert roberta.batch_decode(batch["input_ids"], skip_special_tokens=True) == batch["texts"]
        seen += batch["ids"]
    assert sorted(seen) == sorted(sample["id"] for sample in samples)


def test_pixels_of_a_photo_are_those_of_pillow(splits):
    for sample in splits["val"][:10]:
        with Image.open(sample["image"]) as image:
            expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(load_image(sample["image"]), expected)


def test_the_processor_takes_photos_and_captions(splits, roberta):
    sample = splits["val"][0]
    batch = FiberProcessor(roberta, 96, 40)(sample["image"], sample["captions"])
    assert batch["pixel_values"].shape == (1, 3, 96, 96)
    assert batch["input_ids"][0, 0] == 0 and len(batch["input_ids"]) == len(sample["captions"])


@pytest.mark.filterwarnings("error")
def test_an_epoch_of_detection_sees_every_box_of_the_photos(real_data, roberta):
    data = read_detection(real_data("coco_mini"), split="val")
    assert sum(len(sample["boxes"]) for sample in data.samples) == 624 and len(data.categories) == 80
    transform = build_detection_training_transform((64, 96), 160)
    dataset = DetectionDataset(data, transform, PromptSampler(data.categories, roberta), include_crowds=True)
    sampler = EpochSampler(len(dataset), 8, drop_last=False, alike_groups=dataset.aspect_groups)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=ImageTextCollator(roberta, 256, mlm_probability=None, size_divisor=32),
        num_workers=1,
    )
    num_boxes = 0
    for batch in loader:
        assert batch["broken"] == []
        for (height, width), target in zip(batch["image_sizes"].tolist(), batch["targets"], strict=True):
            num_boxes += len(target["boxes"])
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all() and (target["boxes"] >= -1e-3).all()
            assert (target["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
            assert target["positive_map"].any(1).all()
    assert num_boxes == 624


@pytest.mark.filterwarnings("error")
def test_lvis_has_its_lists_and_its_prompts_fit(real_data, roberta):
    data = read_detection(
        real_data("lvis"), "val", annotation_file=real_data("lvis") / "lvis_val_100.json", check_images=False
    )
    assert (len(data.samples), len(data.categories)) == (100, 1230)
    assert sum(len(sample["boxes"]) for sample in data.samples) == 977
    assert set(data.frequencies.values()) == {"r", "c", "f"}
    assert all("not_exhaustive_category_ids" in sample for sample in data.samples)
    prompts = chunk_categories(data.categories, roberta)
    assert [number for prompt in prompts for number in prompt.spans] == list(data.categories)
    assert max(len(roberta(prompt.text)["input_ids"]) for prompt in prompts) <= 256
