"""Prompts: spans that are right, names that read well, the distribution of the original, a budget that holds."""

import hashlib
from collections import Counter
from itertools import pairwise

import pytest
import torch
from fiber_data import (
    Prompt,
    PromptConfig,
    PromptSampler,
    Wording,
    chunk_categories,
    clean_name,
    encode_prompts,
    make_prompt,
)
from fiber_data.seeding import seeded

NAMES = {number: f"thing_{'abcdefghijklmnopqrstuvwxy'[number - 1]}" for number in range(1, 26)}


def count(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def words_at(prompt):
    return {number: prompt.text[start:end] for number, (start, end) in prompt.spans.items()}


def test_the_originals_names_are_reproduced(fine_goldens):
    for name, expected in fine_goldens["clean_name"]:
        assert clean_name(name, original=True) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("traffic_light", "traffic light"),
        ("bow_(weapon)", "bow"),
        ("x (a) y (b) z", "x y z"),
        ("a   b", "a b"),
        ("crab_(the (small) animal)_leg", "crab leg"),
        ("(all)", "all"),
    ],
)
def test_names_are_mended(name, expected):
    assert clean_name(name) == expected


BOWS = {1: "bow_(weapon)", 2: "dog", 3: "bow_(decorative_ribbons)", 4: "fish", 5: "fish_(food)"}


def test_names_that_only_parentheses_tell_apart_keep_them(tokenizer):
    (prompt,) = chunk_categories(BOWS, tokenizer)
    assert words_at(prompt) == {1: "bow (weapon)", 2: "dog", 3: "bow (decorative ribbons)", 4: "fish", 5: "fish (food)"}
    assert make_prompt(BOWS, [3]).text == "bow (decorative ribbons)", "in every prompt of these categories"
    assert make_prompt({1: BOWS[1], 2: BOWS[2]}).text == "bow. dog", "alone it needs none"
    assert make_prompt(BOWS, original=True).text == "bow . dog. bow . fish. fish "
    own = {1: BOWS[1], 3: Wording("bow", "a ", " of ribbon")}
    assert make_prompt(own).text == "bow. a bow of ribbon"


ALIKE = {
    1: "Traffic_Light",
    2: "car",
    3: "traffic light",
    4: "traffic-light",
    5: "stop sign",
    6: "T-shirt",
    7: "T+shirt",
}


def test_categories_of_the_same_words_stay_two_and_share_the_words(tokenizer):
    prompt = make_prompt(ALIKE)
    assert prompt.text == "Traffic Light. car. stop sign. T-shirt. T+shirt"
    assert prompt.spans.keys() == ALIKE.keys()
    assert prompt.spans[1] == prompt.spans[3] == prompt.spans[4]
    encoded = encode_prompts([prompt], tokenizer)
    assert encoded["phrase_labels"][0].tolist() == list(ALIKE)
    assert torch.equal(encoded["phrase_maps"][0][0], encoded["phrase_maps"][0][2])
    apart = chunk_categories(ALIKE, tokenizer, max_categories=2)
    assert [number for each in apart for number in each.spans] == list(ALIKE)


@pytest.mark.parametrize("present", [[], [1], [3], [1, 3], [2], [4, 2]])
def test_the_same_words_are_never_right_and_wrong_in_a_prompt(tokenizer, present):
    settings = {"drop_positives": 0.5, "all_negatives": 0.4}
    sampler = PromptSampler(ALIKE, tokenizer, PromptConfig(**settings))
    with seeded(9):
        for _ in range(100):
            prompt = sampler(present)
            assert prompt.text.casefold().replace("-", " ").count("traffic light") <= 1
            assert ({1, 3, 4} & prompt.spans.keys()) in (set(), {1, 3, 4}), "a name is right for all it names"
            assert len({prompt.spans[number] for number in {1, 3, 4} & prompt.spans.keys()}) <= 1


def test_the_originals_prompts_have_the_same_spans(fine_goldens):
    golden = fine_goldens["convert_od_to_grounding_simple"]
    categories = {int(number): name for number, name in golden["ind_to_class"].items()}
    for case in golden["cases"]:
        arguments = case["args"]
        if "add_detection_prompt" in arguments:
            continue
        worded: dict = dict(categories)
        if "caption_prompt" in arguments:
            for number, words in zip(categories, arguments["caption_prompt"], strict=True):
                name = clean_name(words["name"], original=True)
                worded[number] = Wording(name, words["prefix"], words["suffix"])
        order = None
        if not arguments["disable_shuffle"]:
            order = sorted(
                categories, key=lambda number: case["caption"].index(clean_name(categories[number], original=True))
            )
        prompt = make_prompt(worded, order, separator=arguments["separation_tokens"], original=True)
        assert prompt.text == case["caption"]
        assert [[list(prompt.spans[label])] for label in case["labels"]] == case["spans"]


def test_the_originals_sampled_prompts_have_the_same_spans(fine_goldens):
    golden = fine_goldens["convert_object_detection_to_grounding_optimized_for_od"]
    categories = {int(number): name for number, name in golden["ind_to_class"].items()}
    for case in golden["cases"]:
        order = [int(number) for number in case["label_to_positions"]]
        prompt = make_prompt(categories, order, original=True)
        assert prompt.text == case["caption"]
        assert {str(number): list(span) for number, span in prompt.spans.items()} == case["label_to_positions"]


def test_the_originals_chunks_and_token_maps_are_reproduced(fine_goldens, fine_tokenizer):
    golden = fine_goldens["create_queries_and_maps"]
    categories = {int(number): name for number, name in golden["categories"].items()}
    for case in golden["cases"]:
        if case["suppress_query"]:
            continue
        worded: dict = dict(categories)
        if case["caption_prompt"]:
            worded = {
                number: Wording(words["name"], words["prefix"], words["suffix"])
                for number, words in zip(sorted(categories), case["caption_prompt"], strict=True)
            }
        size = None if case["chunked_evaluation"] == -1 else case["chunked_evaluation"]
        prompts = chunk_categories(
            worded, fine_tokenizer, max_categories=size, separator=case["separation_tokens"], original=True
        )
        assert [prompt.text for prompt in prompts] == case["queries"]
        encoded = encode_prompts(prompts, fine_tokenizer)
        for labels, maps, expected in zip(
            encoded["phrase_labels"], encoded["phrase_maps"], case["positive_maps"], strict=True
        ):
            found = {str(label): row.nonzero()[:, 0].tolist() for label, row in zip(labels.tolist(), maps, strict=True)}
            assert found == expected


def test_words_of_ones_own_stay_as_they_are_and_only_the_name_is_its_span():
    prompt = make_prompt({2: "hot_dog", 1: Wording("penguin_x", "a ", " which is black and white")})
    assert prompt.text == "a penguin_x which is black and white. hot dog"
    assert words_at(prompt) == {1: "penguin_x", 2: "hot dog"}
    with pytest.raises(ValueError, match=r"category 4 has no name \('_'\)"):
        make_prompt({4: "_"})


def test_chunks_fill_the_budget_and_lose_no_category(tokenizer):
    prompts = chunk_categories(NAMES, tokenizer, max_tokens=40)
    assert [number for prompt in prompts for number in prompt.spans] == list(NAMES)
    assert all(count(tokenizer, prompt.text) <= 40 for prompt in prompts)
    for prompt, follower in pairwise(prompts):
        longer = f"{prompt.text}. {words_at(follower)[next(iter(follower.spans))]}"
        assert count(tokenizer, longer) > 40  # nothing more would have fitted
    assert [len(prompt.spans) for prompt in chunk_categories(NAMES, tokenizer, max_categories=10)] == [10, 10, 5]


def test_a_name_that_does_not_fit_alone_is_named(tokenizer):
    long = {1: "cat", 2: "q" * 50}
    with pytest.raises(ValueError, match=r"category 2 \('qqq.*alone has 50 tokens, more than the 40"):
        chunk_categories(long, tokenizer, max_tokens=40)
    assert len(chunk_categories(long, tokenizer, max_tokens=50)) == 2
    with pytest.raises(ValueError, match="max_categories >= 1"):
        chunk_categories(long, tokenizer, max_categories=0)


def test_prompts_too_long_for_the_model_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"more than the 20 that the model reads: split .* chunk_categories"):
        encode_prompts([make_prompt(NAMES)], tokenizer, max_length=20)


def test_numbers_of_negatives_are_distributed_as_the_originals(tokenizer, fine_goldens):
    golden = fine_goldens["control_options_distribution_full_negative_10_4000_draws"]
    sampler = PromptSampler(NAMES, tokenizer, PromptConfig(max_negatives=10))
    with seeded(0):
        drawn = Counter(sampler.draw_counts(3, 22) for _ in range(4000))
    assert {positives for positives, _ in drawn} == {3}
    for number, expected in golden.items():  # two samples of a binomial: 4.5 standard deviations
        share = (expected + drawn[3, int(number)]) / 8000
        assert abs(drawn[3, int(number)] - expected) < 4.5 * (8000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("chances", "negatives"),
    [({"one_negative": 1.0}, {1}), ({"no_negatives": 1.0}, {0}), ({"all_negatives": 1.0}, {8}), ({}, set(range(1, 9)))],
)
def test_controls_decide_how_many_negatives_stand_in_a_prompt(tokenizer, chances, negatives):
    settings = {"one_negative": 0.0, "no_negatives": 0.0, "all_negatives": 0.0, **chances}
    sampler = PromptSampler(NAMES, tokenizer, PromptConfig(max_negatives=8, **settings))
    with seeded(1):
        prompts = [sampler([7, 9, 7]) for _ in range(300)]
    assert {len(prompt.spans) - 2 for prompt in prompts} == negatives
    assert all({7, 9} <= prompt.spans.keys() for prompt in prompts)
    assert all(words_at(prompt)[7] == "thing g" for prompt in prompts)
    if negatives != {0}:
        assert len({number for prompt in prompts for number in prompt.spans}) == 25  # every category gets its turn


def test_positives_are_dropped_when_asked_for(tokenizer):
    config = PromptConfig(one_negative=0.0, no_negatives=0.0, all_negatives=0.0, drop_positives=1.0, max_negatives=1)
    sampler = PromptSampler(NAMES, tokenizer, config)
    with seeded(2):
        kept = Counter(len({1, 2, 3} & sampler([1, 2, 3]).spans.keys()) for _ in range(300))
    assert kept.keys() == {1, 2, 3} and min(kept.values()) > 60


def test_the_budget_holds_for_the_caption_itself_and_positives_go_first(tokenizer):
    always = {"all_negatives": 1.0, "one_negative": 0.0, "no_negatives": 0.0}
    sampler = PromptSampler(NAMES, tokenizer, PromptConfig(**always), max_tokens=60)
    unbounded = len(make_prompt(NAMES).spans)
    with seeded(3):
        for _ in range(50):
            prompt = sampler([4, 5, 6])
            assert {4, 5, 6} <= prompt.spans.keys()
            assert count(tokenizer, prompt.text) <= 60 and 4 < len(prompt.spans) < unbounded
        crowded = [sampler(list(NAMES)) for _ in range(50)]
    assert all(count(tokenizer, prompt.text) <= 60 for prompt in crowded)
    assert {number for prompt in crowded for number in prompt.spans} == set(NAMES)  # which ones fit is chance
    with seeded(3):
        few = PromptSampler(NAMES, tokenizer, PromptConfig(**always, max_categories=5))
        assert len(few([1, 2, 3]).spans) == 5 and {1, 2, 3} <= few([1, 2, 3]).spans.keys()


def test_a_prompt_follows_from_the_seed_and_is_in_order_where_asked(tokenizer):
    def draw(seed, **settings):
        with seeded(seed):
            return PromptSampler(NAMES, tokenizer, PromptConfig(**settings))([3])

    assert draw(5) == draw(5)
    assert len({draw(seed).text for seed in range(8)}) == 8
    ordered = draw(5, shuffle=False)
    assert list(ordered.spans) == sorted(ordered.spans)


def test_the_background_is_no_category(tokenizer):
    config = PromptConfig(one_negative=0.0, no_negatives=0.0)
    sampler = PromptSampler({0: "__background__", 1: "cat", 2: "dog"}, tokenizer, config)
    with seeded(6):
        assert all(0 not in sampler([]).spans for _ in range(20))
    with pytest.raises(ValueError, match="at least one category"):
        PromptSampler({0: "__background__"}, tokenizer)


def test_a_image_that_holds_everything_or_nothing_is_ordinary(tokenizer):
    sampler = PromptSampler({1: "cat"}, tokenizer)
    assert sampler([1]) == Prompt("cat", {1: (0, 3)})
    with seeded(7):
        assert {sampler([]).text for _ in range(100)} == {"", "cat"}


def test_chances_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"at most 1 together, not \(0\.05, 0\.05, 0\.95"):
        PromptConfig(all_negatives=0.95)


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({}, "3f944b10ab77d030"),
        ({"max_negatives": 6, "drop_positives": 0.7, "all_negatives": 0.1}, "6ba2ede78b7cd3df"),
        ({"shuffle": False, "separator": " ; "}, "36111cedfa30b7ac"),
        ({"max_categories": 5}, "52cfe6315edbb996"),
    ],
)
def test_a_seeded_run_draws_the_prompts_that_it_always_drew(tokenizer, settings, digest):
    sampler = PromptSampler(NAMES, tokenizer, PromptConfig(**settings), max_tokens=60)
    with seeded(11):
        drawn = "\n".join(sampler([3, 9, 3, 20]).text for _ in range(200))
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == digest
