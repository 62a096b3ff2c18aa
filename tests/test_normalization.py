"""Two packages normalize answers, and neither may import the other: they do it alike."""

from __future__ import annotations

import random

from fiber_data import normalize_answer as of_data
from fiber_eval import normalize_answer as of_eval

WORDS = [
    *("a", "an", "the", "one", "two", "ten", "none", "dont", "don't", "isnt", "couldn't've", "somebodyd", "yall"),
    *("o'clock", "1,000", "2,5", "3.5", "10.0.", "mr.", "u.s.a.", "e.g.", "red-and-white", "it's", "its'", '"quoted"'),
    *("(left)", "left/right", "yes/no", "c#", "50%", "$5", "#1", "@home", "a&b", "x=y;", "wait...", "hmm?", "Hello!"),
    *(
        "NEW\tYORK",
        "two\nlines",
        "\u00e9t\u00e9",
        "\u72d7",
        "man's",
        "men's",
        "7-up",
        "t-shirt",
        ",",
        ".",
        "-",
        "'",
        "?",
    ),
]


def test_answers_are_normalized_alike() -> None:
    draw = random.Random(0)
    answers = [" ".join(draw.choices(WORDS, k=draw.randint(0, 6))) for _ in range(5000)] + WORDS
    assert len({of_eval(answer) for answer in answers}) > 3000
    assert [of_data(answer) for answer in answers] == [of_eval(answer) for answer in answers]
