"""Images, categories and sentences as people hold them, prepared for grounding."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fiber_data import FiberProcessor, GroundingProcessor, load_processor, train_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def processor() -> GroundingProcessor:
    tokenizer = train_tokenizer(["a dog and a red car on the road", "traffic light"], 400)
    return GroundingProcessor(tokenizer, shorter=64, longest=100, max_length=24)


def test_images_keep_their_shape(processor: GroundingProcessor) -> None:
    images = [np.zeros((100, 200, 3), np.uint8), np.full((128, 64, 3), 255, np.uint8)]
    batch = processor(images=images)
    assert batch["original_sizes"].tolist() == [[100, 200], [128, 64]]
    assert batch["image_sizes"].tolist() == [[50, 100], [100, 50]]  # the longer side binds
    assert batch["pixel_values"].shape == (2, 3, 128, 128)
    assert not batch["pixel_values"][0, :, 50:].any()
    assert batch["pixel_values"][1, :, :100, :50].min() > 2  # white, normalized


def test_categories_that_do_not_fit_one_prompt_get_several(processor: GroundingProcessor) -> None:
    names = ["dog", "red car", "traffic_light", "road", "dog and car"]
    whole, apart = processor.category_prompts(names[:2]), processor.category_prompts(names, chunk_size=2)
    assert len(whole["input_ids"]) == 1
    assert [labels.tolist() for labels in apart["phrase_labels"]] == [[0, 1], [2, 3], [4]]
    for ids, maps, labels in zip(apart["input_ids"], apart["phrase_maps"], apart["phrase_labels"], strict=True):
        for row, label in zip(maps, labels.tolist(), strict=True):
            words = processor.tokenizer.decode(ids[row]).strip()
            assert words == names[label].replace("_", " ")


def test_phrases_are_given_or_found(processor: GroundingProcessor) -> None:
    text = "a dog and a red car"
    given = processor.phrase_prompts([text], [[(2, 5), (10, 19)]])
    found = processor.phrase_prompts([text])
    assert given["phrase_texts"] == [["dog", "a red car"]]
    assert found["phrase_texts"] == [["a dog", "a red car"]]
    row = given["phrase_maps"][0][1]
    assert processor.tokenizer.decode(given["input_ids"][0][row]).strip() == "a red car"


def test_of_a_phrase_longer_than_its_prompt_the_rest_is_asked(processor: GroundingProcessor) -> None:
    text = "a dog " * 40
    given = processor.phrase_prompts([text], [[(0, len(text)), (2, 5), (200, 205)]])
    whole, first, beyond = given["phrase_maps"][0]
    assert int(whole.sum()) == processor.max_length - 2  # all but the special tokens
    assert processor.tokenizer.decode(given["input_ids"][0][first]).strip() == "dog"
    assert not beyond.any()


def test_a_lone_text_is_one_name_or_one_sentence(processor: GroundingProcessor) -> None:
    assert processor.category_prompts("dog")["phrase_labels"][0].tolist() == [0]
    assert processor.phrase_prompts("a dog and a car")["phrase_texts"] == [["a dog", "a car"]]


def test_a_category_without_a_token_is_told() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "dog": 1}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.StripAccents(), pre_tokenizers.Whitespace()
    tokens = dict.fromkeys(("cls_token", "sep_token", "pad_token", "mask_token"), "[UNK]")
    processor = GroundingProcessor(PreTrainedTokenizerFast(tokenizer_object=words, **tokens), max_length=9)
    with pytest.raises(ValueError, match=r"no token for category 1 \('\u0301'\); name it otherwise"):
        processor.category_prompts(["dog", "\u0301"])


def test_saved_and_loaded(processor: GroundingProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = GroundingProcessor.from_pretrained(tmp_path)
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8)
    for name, value in processor(images=image, text="a dog").items():
        assert torch.equal(again(images=image, text="a dog")[name], value)


def test_a_folder_says_which_processor_it_holds(processor: GroundingProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path / "grounding")
    FiberProcessor(processor.tokenizer, 32, 24).save_pretrained(tmp_path / "whole")
    assert load_processor(tmp_path / "grounding").shorter == 64
    assert load_processor(tmp_path / "whole").image_size == 32
    settings = tmp_path / "whole" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("FiberProcessor", "ViltProcessor"))
    with pytest.raises(
        ValueError, match=r"config\.json: fiber\.processors has no 'ViltProcessor', only .*FiberProcessor, Gro"
    ):
        load_processor(tmp_path / "whole")


@pytest.mark.parametrize("setting", ["shorter", "longest", "max_length", "size_divisor"])
@pytest.mark.parametrize("wrong", [0, -1, 8.5, "32", None, [32], 10**30])
def test_sizes_are_whole_numbers(processor: GroundingProcessor, tmp_path: Path, setting: str, wrong: Any) -> None:
    processor.save_pretrained(tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), setting: wrong}))
    with pytest.raises(ValueError, match=rf"config\.json: expected {setting} as a whole number of at least \d, found"):
        load_processor(tmp_path)


def test_messages(processor: GroundingProcessor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the span \(3, 99\) is none of the 5 characters of 'a dog'"):
        processor.phrase_prompts(["a dog"], [[(3, 99)]])
    with pytest.raises(ValueError, match=r"the span 0 is none of .*a list of pairs \(start, end\)"):
        processor.phrase_prompts(["a dog"], [(0, 5)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 sentences came with spans of 1"):
        processor.phrase_prompts(["a dog", "a car"], [[]])
    with pytest.raises(ValueError, match="images is empty"):
        processor(images=[])
    with pytest.raises(FileNotFoundError, match=r"written by GroundingProcessor.save_pretrained"):
        GroundingProcessor.from_pretrained(tmp_path)
