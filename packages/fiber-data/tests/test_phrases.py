"""Phrases in captions: found as whole words, and guessed by a simple rule."""

import pytest
from fiber_data import find_phrases, noun_phrases, read_grounding
from fiber_data.scenes import generate_scenes


def test_phrases_are_found_as_whole_words_in_any_case_wherever_they_stand():
    caption = "Cat, a wild  cat and a catfish (C++)"
    assert find_phrases(caption, ["cat", "wild cat", "C++"]) == [[(0, 3), (13, 16)], [(7, 16)], [(32, 35)]]
    assert find_phrases(caption, "cat") == [[(0, 3), (13, 16)]]


def test_phrases_that_do_not_stand_there_are_all_named():
    with pytest.raises(ValueError, match=r"caption 'a catfish' as whole words: 'cat', ' '$"):
        find_phrases("a catfish", ["cat", "catfish", " "])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man in a red coat is walking the dog.", ["A man", "a red coat", "the dog"]),
        (
            "two white dogs. a wine glass . the left-most giraffe!",
            ["two white dogs", "a wine glass", "the left-most giraffe"],
        ),
        ("the cat's left eye, left of the nose", ["the cat's left eye", "the nose"]),
        ("It is on the left of them.", []),
        ("dogs", ["dogs"]),
        ("", []),
    ],
)
def test_noun_phrases_are_runs_between_function_words(caption, expected):
    assert [caption[start:end] for start, end in noun_phrases(caption)] == expected


def test_most_phrases_of_the_scenes_are_guessed(tmp_path):
    scenes = generate_scenes(tmp_path, {"train": 40}, seed=1, image_size=32, progress=False)
    marked = guessed = 0
    for sample in read_grounding(scenes, split="train"):
        marked += len(sample["phrases"])
        guessed += len(set(noun_phrases(sample["caption"])) & {span for spans in sample["phrases"] for span in spans})
    assert guessed / marked > 0.9
