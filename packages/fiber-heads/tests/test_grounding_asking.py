"""Detection, grounding and referring from pictures and words, by a processor that stands for any."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from fiber_backbone import FiberBackbone, fiber_tiny
from fiber_heads import FiberForGrounding, GroundingConfig
from fiber_heads.grounding.asking import category_names
from fiber_heads.grounding.config import DetectionSettings
from torch import Tensor
from torch.nn.functional import pad

INPUTS = ("input_ids", "attention_mask")


class Words:
    """A processor that needs no package: a few words, a token each; pictures are tensors of twice the prepared size."""

    def __init__(self) -> None:
        words = (
            "a",
            "red",
            "blue",
            "dog",
            "cat",
            "horse",
            "bird",
            "car",
            "tree",
            "man",
            "hat",
            "on",
            ".",
            "big",
            "and",
        )
        self.ids = {word: number for number, word in enumerate(words, 10)}

    def __call__(self, images: list[Tensor] | None = None, text: list[str] | None = None) -> dict[str, Tensor]:
        images = [images] if isinstance(images, Tensor) else images
        if images is None:
            return {name: value for name, value in self.phrase_prompts(text or []).items() if name in INPUTS}
        sizes = torch.tensor([image.shape[1:] for image in images])
        return {"pixel_values": torch.stack(images)[:, :, ::2, ::2], "image_sizes": sizes // 2, "original_sizes": sizes}

    def phrase_prompts(self, texts: list[str], spans: list[list[tuple[int, int]]] | None = None) -> dict:
        rows, maps, phrases = [], [], []
        for text, own in zip(texts, spans or [[(0, len(text))] for text in texts], strict=True):
            ends = [match.span() for match in re.finditer(r"\S+", text)]
            rows.append([0, *(self.ids[text[first:stop]] for first, stop in ends), 2])
            maps.append([[False, *(first >= a and stop <= b for first, stop in ends), False] for a, b in own])
            phrases.append([text[a:b] for a, b in own])
        length = max(map(len, rows))
        ids = torch.tensor([row + [1] * (length - len(row)) for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": (ids != 1).long(),
            "phrase_maps": [
                pad(
                    torch.tensor(each, dtype=torch.bool).view(len(each), -1 if each else length),
                    (0, length - len(each[0]) if each else 0),
                )
                for each in maps
            ],
            "phrase_labels": [torch.arange(len(each)) for each in maps],
            "phrase_texts": phrases,
        }

    def category_prompts(self, categories: list[str], chunk_size: int | None = None) -> dict:
        texts, spans, labels = [], [], torch.arange(len(categories)).split(chunk_size or 4)
        for part in labels:
            names = [categories[label] for label in part]
            texts.append(" . ".join(names))
            starts = [len(" . ".join([*names[:place], ""])) for place in range(len(names))]
            spans.append([(start, start + len(name)) for start, name in zip(starts, names, strict=True)])
        return {**self.phrase_prompts(texts, spans), "phrase_labels": list(labels)}


@pytest.fixture
def asked() -> FiberForGrounding:
    """A small model with every parameter random, and something to ask it by."""
    torch.manual_seed(0)
    config = replace(fiber_tiny().config.fine_stage(), window_size=6)
    head = GroundingConfig(channels=16, num_blocks=2, norm_groups=4, strides=(4, 8, 16, 32, 64), anchor_scale=4)
    model = FiberForGrounding(FiberBackbone.from_config(config), head).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)
    model.processor = Words()  # type: ignore[assignment]
    return model


CATEGORIES = ["dog", "red cat", "car", "a big dog", "bird", "tree", "dog", "man on horse", "blue hat"]  # one twice
FIVE_EACH = DetectionSettings(max_detections=5)


def test_detect_reads_many_categories_and_each_picture_once(asked: FiberForGrounding) -> None:
    """More than fit a prompt: chunks share the picture below the cut, and labels are places in the list."""
    pictures, counts = torch.randn(2, 3, 128, 192).unbind(), {"below": 0, "prompts": 0}
    stream = asked.backbone.image_stream
    stream.patch_embed.register_forward_hook(lambda *_: counts.update(below=counts["below"] + 1))
    asked.grounding_head.register_forward_hook(lambda *_: counts.update(prompts=counts["prompts"] + 1))
    ask = partial(asked.detect, threshold=0.0, settings=DetectionSettings(max_detections=1000))
    found = ask(pictures, CATEGORIES)
    assert counts == {"below": 1, "prompts": 3}
    for row, each in enumerate(found):
        assert each["text_labels"] == [CATEGORIES[label] for label in each["labels"]]
        assert set(each["labels"].tolist()) == set(range(9))
        apart = [ask([pictures[row]], CATEGORIES[first : first + 4])[0]["scores"] for first in (0, 4, 8)]
        best = torch.cat(apart).sort(descending=True).values[:1000]
        torch.testing.assert_close(each["scores"], best, rtol=1e-4, atol=1e-5)
        assert each["boxes"][:, 2].max() > 96  # in the pixels of the picture that came, not of the prepared one


def test_ground_answers_with_the_phrases_of_each_sentence(asked: FiberForGrounding) -> None:
    pictures, captions = torch.randn(2, 3, 128, 192).unbind(), ["a man on a red horse", "big dog"]
    spans = [[(0, 5), (9, 20)], [(0, 7)]]
    found = asked.ground(pictures, captions, spans=spans, threshold=0.0, settings=FIVE_EACH)
    assert set(found[0]["text_labels"]) <= {"a man", "a red horse"}
    assert set(found[1]["text_labels"]) == {"big dog"}
    for each, names in zip(found, (["a man", "a red horse"], ["big dog"]), strict=True):
        assert each["text_labels"] == [names[label] for label in each["labels"]]
        assert {name: len(value) for name, value in each.items()} == dict.fromkeys(each, 5)
    (alone,) = asked.ground([pictures[1]], "big dog", spans=spans[1:], threshold=0.0, settings=FIVE_EACH)
    torch.testing.assert_close(alone["boxes"], found[1]["boxes"], rtol=1e-4, atol=1e-3)  # the longer text pads nothing
    with pytest.raises(ValueError, match="2 images and 1 sentences came; give one each"):
        asked.ground(pictures, "big dog")


def test_refer_gives_the_best_box(asked: FiberForGrounding) -> None:
    picture = torch.randn(3, 128, 192)
    (best,) = asked.refer([picture], "a red car")
    (every,) = asked.ground([picture], "a red car", threshold=0.0, settings=DetectionSettings(candidates_per_level=3000))  # fmt: skip
    assert best["text_labels"] == ["a red car"]
    assert best["boxes"].shape == (1, 4)
    assert best["scores"][0] == every["scores"].max()


def test_the_threshold_is_on_the_scale_of_the_scores(asked: FiberForGrounding) -> None:
    image = torch.randn(3, 128, 192)
    (every,) = asked.detect(image, ["dog", "cat"], threshold=0.0)
    least = every.scores[len(every.scores) // 2].item()
    (some,) = asked.detect([image], ["dog", "cat"], threshold=least)
    assert len(every.scores) > len(some.scores) > 0
    assert some.scores.min() > least
    kept = every.scores > least
    torch.testing.assert_close(some.boxes, every.boxes[kept])
    assert every.image is image
    assert some.draw().size == (192, 128)


def test_a_lone_text_is_one_category(asked: FiberForGrounding) -> None:
    image = [torch.randn(3, 128, 192)]
    (alone,), (listed,) = (asked.detect(image, names, threshold=0.0) for names in ("dog", ["dog"]))
    assert set(alone.text_labels) == {"dog"}
    assert torch.equal(alone.boxes, listed.boxes)
    (several,) = asked.detect(image, "dog . red cat .", threshold=0.0)
    (listed,) = asked.detect(image, ["dog", "red cat"], threshold=0.0)
    assert set(several.text_labels) == {"dog", "red cat"}
    assert torch.equal(several.boxes, listed.boxes)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("circle", ["circle"]),
        ("red circle . blue square .", ["red circle", "blue square"]),
        ("red circle .blue square.", ["red circle", "blue square"]),
        ("a cat. a remote control.", ["a cat", "a remote control"]),
        ("red circle; blue square;", ["red circle", "blue square"]),
        ("red circle\nblue square\r\n\n dog", ["red circle", "blue square", "dog"]),
        ("red circle\tblue square", ["red circle", "blue square"]),
        ("person, dog,cat", ["person", "dog", "cat"]),
        ("person, dog.", ["person", "dog"]),
        ("person, dog .", ["person", "dog"]),
        ("自行车，狗", ["自行车", "狗"]),
        ("salt, pepper; dog", ["salt, pepper", "dog"]),
        ("salt, pepper;", ["salt, pepper"]),
        ("St. Bernard; dog", ["St. Bernard", "dog"]),
        ("1,000 coins, No.5", ["1,000 coins", "No.5"]),
        ("dog .. cat", ["dog", "cat"]),
        ("cat.dog.", ["cat", "dog"]),
        ("a dog | a cat", ["a dog", "a cat"]),
        ("a .22 rifle", ["a .22 rifle"]),
    ],
)
def test_several_categories_in_a_lone_text(text: str, names: list[str]) -> None:
    assert category_names(text) == names


@pytest.mark.parametrize("empty", ["", " , ", " . ", ";", ".", [], ["dog", " "]])
def test_no_category_is_told(empty: str | list[str]) -> None:
    with pytest.raises(ValueError, match="categories must be names, at least one and none empty, as in"):
        category_names(empty)


def test_names_of_a_list_stay_as_they_are() -> None:
    assert category_names(["salt, pepper", "St. Bernard", "a . b"]) == ["salt, pepper", "St. Bernard", "a . b"]


def test_a_sentence_without_words_is_told(asked: FiberForGrounding) -> None:
    for ask in (asked.ground, asked.refer):
        for text in ("", " \n"):
            with pytest.raises(ValueError, match=r"sentence 0 is empty \(.*\); write what to look for"):
                ask(torch.randn(3, 128, 192), text)


def test_a_sentence_without_a_phrase_is_told(asked: FiberForGrounding) -> None:
    images = list(torch.randn(2, 3, 128, 192))
    with pytest.raises(ValueError, match="'big' names no phrase to look for; give spans, or use refer"):
        asked.ground(images[:1], "big", spans=[[]])
    with pytest.warns(UserWarning, match="'big' names no phrase to look for"):
        found = asked.ground(images, ["a dog", "big"], spans=[[(0, 5)], []], threshold=0.0)
    assert len(found[0].boxes)
    assert not len(found[1].boxes)
    prompts = asked.processor.phrase_prompts(["a dog and cat"], [[(0, 5), (6, 13)]])
    prompts["phrase_maps"][0][1] = False  # as of a phrase beyond the longest text
    asked.processor.phrase_prompts = lambda texts, spans=None: prompts
    with pytest.warns(UserWarning, match="'and cat' has no token in 'a dog and cat', which is cut at max_length"):
        asked.ground(images[:1], "a dog and cat")
    prompts["phrase_maps"][0][:] = False
    with pytest.raises(ValueError, match="'a dog' has no token in 'a dog and cat', which is cut at max_length"):
        asked.ground(images[:1], "a dog and cat")
