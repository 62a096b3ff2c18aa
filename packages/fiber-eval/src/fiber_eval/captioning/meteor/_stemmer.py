"""The English stemmer of Snowball ("Porter2") as it was until 2024, which METEOR 1.5 has; later ones cut other words.

Porter, "Snowball: a language for stemming algorithms", 2001; https://snowballstem.org/algorithms/english/stemmer.html.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache


def _rules(text: str) -> dict[str, str]:
    return dict(rule.split(":") for rule in text.split())


_WHOLE = _rules(
    "skis:ski skies:sky dying:die lying:lie tying:tie idly:idl gently:gentl ugly:ugli early:earli only:onli "
    "singly:singl sky:sky news:news howe:howe atlas:atlas cosmos:cosmos bias:bias andes:andes"
)
_KEPT = frozenset(("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"))
_R1_STARTS = re.compile("gener|commun|arsen")
_REGION = re.compile("[^aeiouy]*[aeiouy]+[^aeiouy]")
_VOWEL = re.compile("[aeiouy]")
_SHORT_END = re.compile("(?:.*[^aeiouy][aeiouy][^aeiouywxY]|[aeiouy][^aeiouy])", re.DOTALL)
_DOUBLE = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_STEP_2 = _rules(
    "tional:tion enci:ence anci:ance abli:able entli:ent izer:ize ization:ize ational:ate ation:ate ator:ate "
    "alism:al aliti:al alli:al fulness:ful ousli:ous ousness:ous iveness:ive iviti:ive biliti:ble bli:ble ogi:og "
    "fulli:ful lessli:less li:"
)
_STEP_3 = _rules("tional:tion ational:ate alize:al icate:ic iciti:ic ical:ic ful: ness: ative:")
_STEP_4 = _rules("al: ance: ence: er: ic: able: ible: ant: ement: ment: ent: ism: ate: iti: ous: ive: ize: ion:")


@cache
def stem(word: str) -> str:
    """The stem of a word in lower case.

    Example:
        >>> [stem(word) for word in ("horses", "riding", "generously", "happily")]
        ['hors', 'ride', 'generous', 'happili']
    """
    if len(word) < 3:
        return word
    if word in _WHOLE:
        return _WHOLE[word]
    word = word.removeprefix("'")
    # y is a consonant at the start and after a vowel, written Y
    word = re.sub("(?<=[aeiouy])y|^y", "Y", word) if "y" in word else word
    start = _R1_STARTS.match(word) or _REGION.match(word)
    first = start.end() if start else len(word)
    start = _REGION.match(word, first)
    second = start.end() if start else len(word)
    word = _plural(word)
    if word in _KEPT:
        return word
    word = _past(word, first)
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in "aeiouy":
        word = f"{word[:-1]}i"
    word = _derived(word, first, second)
    word = _residual(word, second)
    return _final(word, first, second).replace("Y", "y")


def _plural(word: str) -> str:
    for ending in ("'s'", "'s", "'"):
        if word.endswith(ending):
            word = word[: -len(ending)]
            break
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _VOWEL.search(word[:-2]):
        return word[:-1]
    return word


def _past(word: str, first: int) -> str:
    for ending in ("eedly", "ingly", "edly", "eed", "ing", "ed"):
        if word.endswith(ending):
            break
    else:
        return word
    base = word[: -len(ending)]
    if ending.startswith("ee"):
        return f"{base}ee" if len(base) >= first else word
    if not _VOWEL.search(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return f"{base}e"
    if base.endswith(_DOUBLE):
        return base[:-1]
    return f"{base}e" if len(base) == first and _SHORT_END.fullmatch(base) else base


def _longest(word: str, endings: Collection[str], longest: int) -> str:
    """The longest ending of the word that is one of `endings`; else nothing."""
    for size in range(min(longest, len(word)), 1, -1):
        if word[-size:] in endings:
            return word[-size:]
    return ""


def _derived(word: str, first: int, second: int) -> str:
    """Steps 2 and 3."""
    ending = _longest(word, _STEP_2, 7)
    base = word[: len(word) - len(ending)]
    if ending and len(base) >= first:
        allowed = {"li": base[-1:] in tuple("cdeghkmnrt"), "ogi": base.endswith("l")}.get(ending, True)
        word = base + _STEP_2[ending] if allowed else word
    ending = _longest(word, _STEP_3, 7)
    base = word[: len(word) - len(ending)]
    if ending and len(base) >= (second if ending == "ative" else first):
        word = base + _STEP_3[ending]
    return word


def _residual(word: str, second: int) -> str:
    """Step 4."""
    ending = _longest(word, _STEP_4, 5)
    base = word[: len(word) - len(ending)]
    if ending and len(base) >= second and (ending != "ion" or base.endswith(("s", "t"))):
        return base
    return word


def _final(word: str, first: int, second: int) -> str:
    base = word[:-1]
    if word.endswith("e"):
        return base if len(base) >= second or (len(base) >= first and not _SHORT_END.fullmatch(base)) else word
    return base if word.endswith("ll") and len(base) >= second else word
