"""Searches over the real model and over tables of probabilities small enough to try every text."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from fiber_backbone import fiber_tiny
from fiber_heads.captioning import CachedDecoder, FiberForCaptioning
from fiber_heads.config import GenerationConfig
from fiber_heads.generation import Caption, beam_search, generate, original_beam_search, sample
from torch import Tensor
from torch.nn.functional import log_softmax

BEGIN, PAD, END = 0, 1, 2
SEARCH = GenerationConfig(num_beams=3, max_length=10, num_return_sequences=3, forbidden_token_ids=(3,))


class TableDecoder:
    """The next token depends on the newest one and on the image: `logits` (B, V, V)."""

    device = torch.device("cpu")

    def __init__(self, logits: Tensor) -> None:
        self.num_images, self.logits = len(logits), logits

    def step(self, tokens: Tensor) -> Tensor:
        images = torch.arange(len(self.logits)).repeat_interleave(len(tokens) // len(self.logits))
        return self.logits[images, tokens]

    def select(self, rows: Tensor, images: Tensor | None = None) -> None:
        self.logits = self.logits if images is None else self.logits[images]


class UncachedDecoder:
    """The model without a cache: every step runs every text whole, each with its own image."""

    def __init__(self, model: FiberForCaptioning, pixel_values: Tensor) -> None:
        self.model, self.features = model, model.encode_images(pixel_values)
        self.num_images, self.device = len(pixel_values), pixel_values.device
        self.ids = torch.empty(len(pixel_values), 0, dtype=torch.long)

    def step(self, tokens: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        return self.model.word_head(self.model.backbone.decode_text(self.ids, self.features).text_features)[:, -1]

    def select(self, rows: Tensor, images: Tensor | None = None) -> None:
        each = len(self.ids) // len(self.features)
        self.ids, self.features = self.ids[rows], self.features[rows // each]


@pytest.fixture
def model() -> FiberForCaptioning:
    """A small model whose texts depend on the picture and end at different steps."""
    torch.manual_seed(1)
    backbone = fiber_tiny(decoder_projections=True, vocab_size=40, initializer_range=0.1, initial_gate=5.0)
    model = FiberForCaptioning(backbone)
    torch.nn.init.normal_(model.word_head.decoder.weight, std=0.15)
    with torch.no_grad():
        model.word_head.decoder.bias[END] += 1.0
    return model.double().eval()


@pytest.fixture
def pixel_values() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    colours = 2 * torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    return (torch.randn(4, 3, 64, 64, generator=generator) + colours).double()


def table(images: int = 1, vocabulary: int = 6, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, vocabulary, vocabulary, generator=generator).double() * spread


def assert_same(ours: list[list[Caption]], theirs: list[list[Caption]]) -> None:
    assert [[one.token_ids for one in row] for row in ours] == [[one.token_ids for one in row] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [caption.score for caption in one] == pytest.approx([caption.score for caption in other], rel=1e-6)


def score(logits: Tensor, tokens: tuple[int, ...], config: GenerationConfig) -> float:
    """Mean log-probability of a text with its end token, if it has one, under a table."""
    barred = logits.clone()
    barred[:, [BEGIN, PAD, *config.forbidden_token_ids]] = -torch.inf
    total = 0.0
    for length, (last, token) in enumerate(zip((BEGIN, *tokens), tokens, strict=False), start=1):
        row = barred[last].clone()
        if length <= config.min_length:
            row[END] = -torch.inf
        total += log_softmax(row, dim=0)[token].item()
    return total / len(tokens) ** config.length_penalty


@pytest.mark.parametrize("config", [SEARCH, replace(SEARCH, min_length=4), replace(SEARCH, num_beams=6)])
def test_keeping_keys_and_values_changes_nothing(model: FiberForCaptioning, pixel_values: Tensor, config) -> None:
    with torch.no_grad():
        whole = generate(UncachedDecoder(model, pixel_values), config)
    captions = model.generate(pixel_values, config)
    assert_same(captions, whole)
    lengths = [len(row[0].token_ids) for row in captions]
    assert len(set(lengths)) > 1  # images leave the batch at different steps
    assert all(len(row) == 3 for row in captions)
    assert all(row == sorted(row, key=lambda caption: -caption.score) for row in captions)
    assert all(len({tuple(one.token_ids) for one in row}) == 3 for row in captions)


@pytest.mark.parametrize(
    "config", [SEARCH, replace(SEARCH, num_beams=1, num_return_sequences=1), replace(SEARCH, original=True)]
)
def test_a_batch_is_its_images_one_by_one(model: FiberForCaptioning, pixel_values: Tensor, config) -> None:
    together = model.generate(pixel_values, config)
    alone = [model.generate(picture[None], config)[0] for picture in pixel_values]
    if config.original:  # its slots go on moving until the last image ends; the best stays here
        together, alone = [row[:1] for row in together], [row[:1] for row in alone]
    assert_same(together, alone)


def test_one_beam_is_greedy(model: FiberForCaptioning, pixel_values: Tensor) -> None:
    config = replace(SEARCH, num_beams=1, num_return_sequences=1)
    with torch.no_grad():
        decoder = CachedDecoder(model.backbone, model.word_head, model.encode_images(pixel_values))
        beam = beam_search(decoder, config)
    greedy = model.generate(pixel_values, config)
    assert_same(beam, greedy)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_the_best_of_all_texts(seed: int, penalty: float) -> None:
    config = GenerationConfig(
        num_beams=300, max_length=5, min_length=1, num_return_sequences=20, length_penalty=penalty,
        forbidden_token_ids=(), exhaustive=True,
    )  # fmt: skip
    logits = table(2, seed=seed)
    found = generate(TableDecoder(logits), config)
    for image in range(2):
        texts = [(*text, END) for length in range(1, 5) for text in product((3, 4, 5), repeat=length)]
        texts += list(product((3, 4, 5), repeat=5))
        scores = sorted((score(logits[image], text, config) for text in texts), reverse=True)
        assert [caption.score for caption in found[image]] == pytest.approx(scores[:20], rel=1e-9)


def test_an_exhaustive_search_goes_on_where_the_default_stops() -> None:
    logits = torch.full((1, 4, 4), -20.0).double()
    logits[0, BEGIN, 3], logits[0, BEGIN, END] = 1.0, 1.2  # ending at once is best as it stands
    logits[0, 3, 3] = 9.0  # but the longer a text goes on, the better its mean becomes
    config = GenerationConfig(num_beams=1, max_length=12, min_length=0, forbidden_token_ids=())
    assert beam_search(TableDecoder(logits), config)[0][0].token_ids == []
    wide = replace(config, num_beams=2)
    assert beam_search(TableDecoder(logits), replace(wide, exhaustive=True))[0][0].token_ids == [3] * 12


def test_a_length_belongs_to_its_hypothesis() -> None:
    """Where the original moves a short ended text into the slot of a longer one, it divides by the wrong length."""
    config = GenerationConfig(num_beams=3, max_length=8, min_length=0, num_return_sequences=3, forbidden_token_ids=())
    wrong = different = 0
    for seed in range(20):
        logits = table(seed=seed)
        logits[..., BEGIN] = logits[..., PAD] = -1e4
        (mended,) = beam_search(TableDecoder(logits), config)
        (original,) = original_beam_search(TableDecoder(logits), replace(config, original=True))
        for caption in mended:
            ended = (*caption.token_ids, END)[: config.max_length]
            assert caption.score == pytest.approx(score(logits[0], ended, config), rel=1e-9)
        first = (*original[0].token_ids, END)[: config.max_length]
        wrong += original[0].score != pytest.approx(score(logits[0], first, config), rel=1e-6)
        different += original[0].token_ids != mended[0].token_ids
        assert mended[0].score >= score(logits[0], first, config) - 1e-9
    assert wrong
    assert different


def test_ended_hypotheses_do_not_multiply() -> None:
    logits = torch.zeros(1, 6, 6).double()
    logits[..., BEGIN] = logits[..., PAD] = -1e4
    logits[0, BEGIN, 3], logits[0, 3, END] = 6.0, 6.0
    config = GenerationConfig(num_beams=3, max_length=5, num_return_sequences=3, forbidden_token_ids=())
    (original,) = original_beam_search(TableDecoder(logits), replace(config, original=True))
    assert [caption.token_ids for caption in original] == [[3], [3], [3]]
    (mended,) = beam_search(TableDecoder(logits), config)
    assert mended[0].token_ids == [3]
    assert len({tuple(caption.token_ids) for caption in mended}) == 3


@pytest.mark.parametrize("sampled", [False, True])
def test_limits_and_forbidden_tokens(model: FiberForCaptioning, pixel_values: Tensor, sampled: bool) -> None:
    torch.manual_seed(3)
    free = replace(SEARCH, max_length=6, do_sample=sampled, num_beams=3, forbidden_token_ids=())
    used = {token for row in model.generate(pixel_values, free) for caption in row for token in caption.token_ids}
    forbidden = tuple(sorted(used))[:10]
    config = replace(free, min_length=3, forbidden_token_ids=(*forbidden, 50264))
    lengths = []
    for row in model.generate(pixel_values, config):
        for caption in row:
            assert not {*forbidden, BEGIN, PAD, END} & set(caption.token_ids)
            lengths.append(len(caption.token_ids))
    assert min(lengths) >= 3
    assert max(lengths) <= 6


def test_samples_follow_the_probabilities() -> None:
    logits = table(2, seed=4, spread=1.0)
    config = GenerationConfig(do_sample=True, num_return_sequences=4000, max_length=2, min_length=0)
    config = replace(config, forbidden_token_ids=(5,))
    torch.manual_seed(0)
    ids, log_probs = sample(TableDecoder(logits), config)
    expected = logits[:, BEGIN].clone()
    expected[:, [BEGIN, PAD, 5]] = -torch.inf
    for image in range(2):
        counts = torch.bincount(ids[image * 4000 :][:4000, 1], minlength=6) / 4000
        torch.testing.assert_close(counts.double(), expected[image].softmax(dim=0), atol=0.03, rtol=0)
        rows = slice(image * 4000, (image + 1) * 4000)
        first = log_softmax(expected[image], dim=0)[ids[rows, 1]]
        torch.testing.assert_close(log_probs[rows, 0], first)
    over = ids[:, 1] == END
    assert (ids[over, 2] == PAD).all()
    assert not log_probs[over, 1].any()


def test_sharpened_samples_are_greedy(model: FiberForCaptioning, pixel_values: Tensor) -> None:
    greedy = model.generate(pixel_values, replace(SEARCH, num_beams=1, num_return_sequences=1))
    for change in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        config = replace(SEARCH, do_sample=True, num_return_sequences=2, **change)
        assert_same([row[1:] for row in model.generate(pixel_values, config)], greedy)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1, is 0"),
        ({"max_length": 4, "min_length": 4}, r"less than max_length \(4\), is 4"),
        ({"num_return_sequences": 6}, r"num_return_sequences \(6\) must be at most num_beams \(5\); search with more"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
    ],
)
def test_impossible_settings_are_named(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GenerationConfig(**options)
