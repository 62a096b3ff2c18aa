"""Items and batches with boxes: which box has which words, in pixels of the transformed image, in every case."""

import pickle

import numpy as np
import pytest
import torch
from fiber_data import (
    BrokenSample,
    DetectionData,
    DetectionDataset,
    EpochIndex,
    GroundingDataset,
    ImageTextCollator,
    PromptSampler,
    build_detection_evaluation_transform,
    build_detection_training_transform,
    chunk_categories,
    make_prompt,
    pad_images,
    read_detection,
    read_grounding,
    train_tokenizer,
)
from fiber_data.scenes import generate_scenes
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

CATEGORIES = {1: "red_square", 2: "blue square", 5: "zebra"}
SIZE = (40, 60)


def sample(path, boxes, labels, iscrowd=None, size=SIZE):
    return {
        "image": path,
        "id": 17,
        "size": size,
        "boxes": boxes,
        "labels": labels,
        "area": [50.0] * len(boxes),
        "iscrowd": iscrowd or [False] * len(boxes),
    }


@pytest.fixture
def data(tmp_path):
    pixels = np.full((*SIZE, 3), 255, np.uint8)
    pixels[10:20, 5:25] = (255, 0, 0)
    pixels[20:40, 40:60] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    both = sample(tmp_path / "a.png", [(5, 10, 25, 20), (40, 20, 60, 40)], [1, 2])
    crowd = sample(tmp_path / "a.png", [(5, 10, 25, 20), (40, 20, 60, 40)], [1, 2], [True, False])
    return DetectionData([both, crowd, sample(tmp_path / "a.png", [], [])], CATEGORIES)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return generate_scenes(tmp_path_factory.mktemp("scenes"), {"train": 20}, seed=5, image_size=64, progress=False)


@pytest.fixture(scope="module")
def caption_tokenizer(scenes):
    return train_tokenizer([each["caption"] for each in read_grounding(scenes, split="train")], 400)


def tokens_of(tokenizer, input_ids, rows):
    return [tokenizer.decode(input_ids[row]).strip() for row in rows]


def test_boxes_cover_the_same_pixels_after_the_transform(data, tokenizer):
    transform = build_detection_training_transform((60, 80), 200)
    dataset = DetectionDataset(data, transform, make_prompt(CATEGORIES), seed=1)
    flips = set()
    for epoch in range(12):
        item = dataset[EpochIndex(0, epoch)]
        red, _, blue = item["pixel_values"]
        for (x1, y1, x2, y2), label in zip(item["target"]["boxes"].round().int().tolist(), [1, 2], strict=True):
            inside = torch.zeros_like(red, dtype=torch.bool)
            inside[y1:y2, x1:x2] = True
            colored = red - blue if label == 1 else blue - red
            assert (colored[inside] > 2.2).float().mean() > 0.85 and (colored[~inside] > 2.2).float().mean() < 0.01
        assert item["target"]["labels"].tolist() == [1, 2]
        scale = item["pixel_values"].shape[1] / SIZE[0]
        assert torch.allclose(item["target"]["area"], torch.tensor([50.0, 50.0]) * scale**2)
        flips.add(bool(item["target"]["boxes"][0, 0] > 20 * scale))
    assert flips == {True, False}


def test_every_box_has_the_name_of_its_category_and_others_are_left_out(data):
    item = DetectionDataset(data, build_detection_evaluation_transform(40, 60), make_prompt(CATEGORIES))[0]
    assert item["text"] == "red square. blue square. zebra"
    assert item["spans"] == [[(0, 10)], [(12, 23)]]
    assert item["phrases"] == [[(0, 10)], [(12, 23)], [(25, 30)]]
    assert item["phrase_labels"].tolist() == [1, 2, 5]
    assert (item["id"], item["image_id"], item["original_size"]) == (17, 0, SIZE)
    part = make_prompt({2: CATEGORIES[2], 5: CATEGORIES[5]})
    item = DetectionDataset(data, build_detection_evaluation_transform(40, 60), part)[0]
    assert item["target"]["boxes"].tolist() == [[40, 20, 60, 40]] and item["spans"] == [[(0, 11)]]


def test_crowds_are_left_out_unless_asked_for(data):
    prompt, transform = make_prompt(CATEGORIES), build_detection_evaluation_transform(40, 60)
    assert DetectionDataset(data, transform, prompt)[1]["target"]["labels"].tolist() == [2]
    target = DetectionDataset(data, transform, prompt, include_crowds=True)[1]["target"]
    assert target["labels"].tolist() == [1, 2] and target["iscrowd"].tolist() == [True, False]


def test_a_image_without_boxes_is_ordinary(data, tokenizer):
    dataset = DetectionDataset(data, build_detection_training_transform(40, 60), PromptSampler(CATEGORIES, tokenizer))
    batch = ImageTextCollator(tokenizer, 256, mlm_probability=None)([dataset[2], dataset[0]])
    empty = batch["targets"][0]
    assert empty["boxes"].shape == (0, 4) and empty["boxes"].dtype == torch.float32
    assert empty["positive_map"].shape == (0, batch["input_ids"].shape[1])
    assert empty["labels"].shape == empty["area"].shape == empty["iscrowd"].shape == (0,)


def test_a_prompt_is_drawn_anew_each_epoch_and_alike_each_time(data, tokenizer):
    sampler = PromptSampler(CATEGORIES, tokenizer)
    dataset = DetectionDataset(data, build_detection_training_transform(40, 60), sampler)
    copy = pickle.loads(pickle.dumps(dataset))
    texts = [dataset[EpochIndex(0, epoch)]["text"] for epoch in range(20)]
    assert texts == [copy[EpochIndex(0, epoch)]["text"] for epoch in range(20)]
    assert len(set(texts)) > 4
    crowd = [dataset[EpochIndex(1, epoch)] for epoch in range(40)]
    assert all(2 in item["phrase_labels"] for item in crowd)
    assert 0 < sum(1 in item["phrase_labels"] for item in crowd) < 40  # a crowd alone makes no positive


def test_a_category_that_names_a_side_holds_back_the_flip(data):
    for names, flipped in ((CATEGORIES, {False, True}), ({**CATEGORIES, 5: "left shoe"}, {False})):
        dataset = DetectionDataset(data, build_detection_training_transform(40, 60), make_prompt(names))
        found = {bool(dataset[EpochIndex(0, epoch)]["target"]["boxes"][0, 0] > 20) for epoch in range(20)}
        assert found == flipped
    arrow = DetectionData(data.samples, {**CATEGORIES, 1: "arrow_(left)"})
    prompt = make_prompt(arrow.categories)
    assert prompt.text == "arrow. blue square. zebra"
    dataset = DetectionDataset(arrow, build_detection_training_transform(40, 60), prompt)
    assert all(dataset[EpochIndex(0, epoch)]["target"]["boxes"][0, 0] < 20 for epoch in range(20))


def test_boxes_whose_words_are_cut_off_are_left_out_and_counted(data, tokenizer):
    dataset = DetectionDataset(data, build_detection_evaluation_transform(40, 60), make_prompt(CATEGORIES))
    length = len(tokenizer("red square")["input_ids"])
    with pytest.warns(UserWarning, match=rf"because max_length \({length} tokens\) cuts off all words .*: 2"):
        batch = ImageTextCollator(tokenizer, length, mlm_probability=None)([dataset[0], dataset[0]])
    for target in batch["targets"]:
        assert target["labels"].tolist() == [1]
        assert {len(target[name]) for name in ("boxes", "area", "iscrowd", "positive_map")} == {1}
    assert batch["spans"] == [[[(0, 10)]]] * 2
    assert batch["phrase_maps"][0].any(1).tolist() == [True, False, False], "what was asked keeps its place"


def test_a_image_of_another_size_than_annotated_is_broken(data, tmp_path):
    wrong = DetectionData([sample(tmp_path / "a.png", [], [], size=(80, 120))], CATEGORIES)
    item = DetectionDataset(wrong, build_detection_evaluation_transform(40, 60), make_prompt(CATEGORIES))[0]
    assert isinstance(item, BrokenSample)
    assert "the image is 40 x 60 pixels (height x width), but its annotations are for 80 x 120" in item.reason


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_square", [False, True])
def test_boxes_and_exif_agree(tmp_path, file_format, orientation, is_square):
    """The annotated size tells whether boxes are for the stored or the displayed image; where both fit, `exif` does."""
    stored = np.zeros((40, 40 if is_square else 64, 3), np.uint8)
    stored[4:16, 8:16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{file_format.lower()}"
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(file_format, {})
    Image.fromarray(stored).save(path, file_format, exif=exif, **options)
    turns = {2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1)}
    turns |= {6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90}
    displayed = turns.get(orientation, lambda x: x)(stored)
    is_ambiguous = stored.shape == displayed.shape
    for annotated, setting in [(stored, None), (stored, "stored"), (displayed, "displayed"), (displayed, None)]:
        if annotated is displayed and setting is None and is_ambiguous:
            continue
        rows, columns = np.nonzero(annotated[..., 0])
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        found = DetectionData([sample(path, [tuple(map(float, box))], [1], size=annotated.shape[:2])], CATEGORIES)
        transform = build_detection_evaluation_transform(40, 64)
        settings = [setting] if is_ambiguous else [setting, "stored", "displayed"]  # the size decides alone
        for exif_setting in settings:
            item = DetectionDataset(found, transform, make_prompt(CATEGORIES), exif=exif_setting)[0]
            assert item["original_size"] == annotated.shape[:2]
            x1, y1, x2, y2 = map(int, item["target"]["boxes"][0].tolist())
            bright = item["pixel_values"][0] > 0
            assert bright[y1:y2, x1:x2].all() and bright.sum() <= 1.3 * (y2 - y1) * (x2 - x1)


def test_an_image_of_the_annotated_size_in_neither_way_is_left_out_and_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    found = DetectionData([sample(tmp_path / "a.jpg", [], [], size=(30, 60))], CATEGORIES)
    item = DetectionDataset(found, build_detection_evaluation_transform(40, 60), make_prompt(CATEGORIES))[0]
    assert item.reason.endswith(
        "a.jpg: the image is 40 x 60 pixels (height x width) as stored, 60 x 40 as displayed (EXIF orientation 6), but "
        "its annotations are for 30 x 60"
    )


def test_prompts_of_other_categories_are_refused(data):
    with pytest.raises(ValueError, match=r"its ids begin \[7\], those of the data \[1, 2, 5\]"):
        DetectionDataset(data, build_detection_evaluation_transform(), make_prompt({7: "cat"}))


def test_batches_mix_detection_and_grounding_and_every_map_spells_its_words(scenes, caption_tokenizer):
    data = read_detection(scenes, split="train")
    transform = build_detection_training_transform((48, 64), 100)
    prompts = PromptSampler(data.categories, caption_tokenizer)
    captions = read_grounding(scenes, split="train")
    joined = ConcatDataset([DetectionDataset(data, transform, prompts), GroundingDataset(captions, transform)])
    collate = ImageTextCollator(caption_tokenizer, 256, mlm_probability=None, size_divisor=32)
    checked = 0
    for batch in DataLoader(joined, batch_size=10, collate_fn=collate):
        assert batch["pixel_values"].shape[2] % 32 == batch["pixel_values"].shape[3] % 32 == 0
        length = batch["input_ids"].shape[1]
        assert length == batch["attention_mask"].sum(1).max()
        assert batch["original_sizes"].tolist() == [[64, 64]] * 10
        for ids, text, target, spans, phrases, maps, labels in zip(
            *(
                batch[key]
                for key in ("input_ids", "texts", "targets", "spans", "phrases", "phrase_maps", "phrase_labels")
            ),
            strict=True,
        ):
            assert target["positive_map"].shape == (len(target["boxes"]), length)
            assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
            assert maps.shape == (len(phrases), length) and len(labels) == len(phrases)
            for rows, places in ((target["positive_map"], spans), (maps, phrases)):
                words = [" ".join(text[start:end] for start, end in of_box) for of_box in places]
                assert tokens_of(caption_tokenizer, ids, rows) == words
                checked += len(words)
    assert checked > 300


def test_grounding_items_evaluate_the_phrases_of_the_file(scenes):
    samples = read_grounding(scenes, split="train")
    samples[0]["phrases"] = [[(0, 3)]]
    item = GroundingDataset(samples, build_detection_evaluation_transform(64, 64))[0]
    assert item["text"] == samples[0]["caption"] and item["phrases"] == [[(0, 3)]]
    assert item["phrase_labels"].tolist() == [1] and set(item["target"]["labels"].tolist()) == {1}


def test_chunks_together_ask_for_every_box_once(scenes, caption_tokenizer):
    data = read_detection(scenes, split="train")
    prompts = chunk_categories(data.categories, caption_tokenizer, max_categories=3)
    transform = build_detection_evaluation_transform(64, 64)
    parts = [DetectionDataset(data, transform, prompt) for prompt in prompts]
    assert len(parts) == 2
    for index, whole in enumerate(data.samples):
        labels = [label for part in parts for label in part[index]["target"]["labels"].tolist()]
        assert sorted(labels) == sorted(whole["labels"])


def test_tall_and_wide_images_are_told_apart(data, tmp_path):
    data.samples.append(sample(tmp_path / "a.png", [], [], size=(60, 40)))
    data.samples.append(sample(tmp_path / "a.png", [], [], size=(40, 40)))
    dataset = DetectionDataset(data, build_detection_evaluation_transform(), make_prompt(CATEGORIES))
    assert dataset.aspect_groups.tolist() == [0, 0, 0, 1, 0]
    assert dataset.image_sizes[3].tolist() == [60, 40]


def test_stacks_are_padded_to_multiples_as_the_original_does(fine_goldens):
    golden = fine_goldens["collate"]
    images = [torch.ones(3, *size) for size in golden["image_sizes"]]
    stack, sizes = pad_images(images, size_divisor=32)
    assert list(stack.shape) == golden["padded"] and sizes.tolist() == golden["image_sizes"]
    for image, (height, width) in zip(stack, golden["image_sizes"], strict=True):
        assert image[:, :height, :width].all() and image.sum() == 3 * height * width
    alike, _ = pad_images([torch.ones(3, 40, 40)] * 2, size_divisor=32)
    assert alike.shape[-2:] == (64, 64)


def test_one_caption_of_each_image_another_in_another_epoch(scenes):
    samples = read_grounding(scenes, split="train")
    each, one = (
        GroundingDataset(samples, build_detection_evaluation_transform(64, 64), captions=captions)
        for captions in ("each", "random")
    )
    assert (len(each), len(one)) == (100, 20)
    assert len(one.aspect_groups) == 20
    drawn = set()
    for epoch in range(12):
        item = one[EpochIndex(3, epoch)]
        own = samples[item["text_id"]]
        assert own["image"] == samples[15]["image"], "the fourth image"
        assert (item["text"], item["phrases"]) == (own["caption"], own["phrases"])
        assert item["text"] == one[EpochIndex(3, epoch)]["text"], "the same for the same seed, epoch and index"
        drawn.add(item["text_id"])
    assert len(drawn) >= 3
