"""Phrases of a user's caption: where they stand, and a simple guess of them where the user names none."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_FUNCTION_WORDS = """
    about above across after again against all along also although am among and any are around as at away be because
    been before behind being below beneath beside besides between beyond both but by can close could did do does
    doing down during each either every few for from had has have he here him how i if in inside into is it itself
    just like many me more most much near next no nor not of off on onto or other out outside over she should so
    some such than them then there they through throughout to together toward towards under underneath until up upon
    us very was we were what when where whether which while who whom whose will with within without would you your
"""
_VERBS = """
    carrying chasing climbing cooking crossing dancing drinking driving eating facing flying going hanging having
    hold holding holds image jumping kicking laughing laying leaning looking lying making photo picture play playing
    plays pointing posing pulling pushing reading resting ride rides riding run running runs saying see seen sees
    showing shown shows sits sitting skating sleep sleeping sleeps smiling standing stands staring surfing swimming
    swinging taking talking throwing touching using waiting walk walking walks watching wearing working
"""
_BREAKS = frozenset(f"{_FUNCTION_WORDS} {_VERBS}".split())
_ARTICLES = frozenset(
    ["a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "our", "my", "your"]
)
_SIDES = frozenset(["left", "right", "front", "top", "bottom"])  # "left of" is a preposition, "the left eye" is not


def find_phrases(caption: str, phrases: str | Sequence[str]) -> list[list[tuple[int, int]]]:
    """Finds phrases in a caption, as whole words and in any case.

    Args:
        caption: The caption.
        phrases: The phrases, or a lone one.

    Returns:
        For each phrase the [start, end) of every occurrence, in characters of the caption.

    Raises:
        ValueError: A phrase is empty or does not stand in the caption; the message names all of them.

    Example:
        >>> find_phrases("A dog and a black dog.", ["dog", "a black dog"])
        [[(2, 5), (18, 21)], [(10, 21)]]
    """
    phrases = [phrases] if isinstance(phrases, str) else phrases
    patterns = [r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases]
    found = [
        [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", caption, re.IGNORECASE)] if pattern else []
        for pattern in patterns
    ]
    if absent := [phrase for phrase, spans in zip(phrases, found, strict=True) if not spans]:
        raise ValueError(
            f"these phrases do not stand in the caption {caption!r} as whole words: {', '.join(map(repr, absent))}"
        )
    return found


def noun_phrases(caption: str) -> list[tuple[int, int]]:
    """Guesses the noun phrases of an English caption: runs of words between function words and punctuation.

    A simple rule without a parser, for captions whose phrases nobody marked: an article opens a phrase and belongs to
    it; prepositions, pronouns, auxiliaries, conjunctions and some sixty common verbs of captions end it. Other verbs
    stay in, and so do adverbs. Give phrases yourself (`find_phrases`) where it matters.

    Args:
        caption: The caption.

    Returns:
        The [start, end) of each phrase in characters of the caption, in order, none overlapping another.

    Example:
        >>> caption = "A man in a red coat is walking the dog."
        >>> [caption[start:end] for start, end in noun_phrases(caption)]
        ['A man', 'a red coat', 'the dog']
    """
    spans: list[tuple[int, int]] = []
    start: int | None = None  # of the phrase that is open
    end = 0  # of its last word that is no article, or `start`
    last = 0  # of the word before, for what stands between

    def close() -> None:
        nonlocal start
        if start is not None and end > start:
            spans.append((start, end))
        start = None

    matches = list(_WORD.finditer(caption))
    words = [match.group().lower() for match in matches]
    for match, word, follower in zip(matches, words, [*words[1:], ""], strict=False):
        if caption[last : match.start()].strip():  # punctuation between two words
            close()
        last = match.end()
        if word in _ARTICLES:
            close()
            start = end = match.start()
        elif word in _BREAKS or (word in _SIDES and follower == "of"):
            close()
        else:
            start = match.start() if start is None else start
            end = match.end()
    close()
    return spans
