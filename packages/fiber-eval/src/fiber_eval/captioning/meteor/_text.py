"""The words that METEOR 1.5 sees in a text: its normalization of English punctuation (`-norm`), then lower case."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LETTERS = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_PLAIN = re.compile("[A-Za-z0-9 ]*")
_SPACES = " \t\n\r\f"
_TRIMMED = "".join(map(chr, range(33)))
_HIDDEN = "DOTMULTI"  # hides the dots of "..." from the rules for one dot


def _rule(pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
    return re.compile(pattern), replacement


_DOTS = _rule(r"\.(\.+)", rf" {_HIDDEN}\1")
_LAST_DOT = _rule(rf"{_HIDDEN}\.([^.])", rf"DOT{_HIDDEN} \1")
# In this order, each over the whole text; neighbors that share a character are left to no second pass.
_SEPARATE = _rule(rf"([^0-9{_LETTERS}\t-\r .'`,\-‘’])", r" \1 ")
_RULES = (
    _rule("([^0-9]),([^0-9])", r"\1 , \2"),
    _rule("([0-9]),([^0-9])", r"\1 , \2"),
    _rule("([^0-9]),([0-9])", r"\1 , \2"),
    _rule("[`‘’]", "'"),
    _rule("[“”]|''", ' " '),
    _rule("–", "-"),
    _rule("--", "-"),
    _rule(rf"([0-9{_LETTERS}.])-([0-9{_LETTERS}])", r"\1 \2"),
    _rule(rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
    _rule(rf"([^{_LETTERS}0-9])'([{_LETTERS}])", r"\1 ' \2"),
    _rule(rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
    _rule(rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
    _rule("([0-9])'(s)", r"\1 '\2"),
)
_LETTER = re.compile(f"[{_LETTERS}]")
_WIDE_SPACES = re.compile("[ \u2000-\u200a\u202f\u205f\u3000\u00a0]+")


def words_of(text: str, prefixes: Mapping[str, bool]) -> list[str]:
    """The words of a text.

    Args:
        text: As it was written; tokens between spaces are what METEOR expects.
        prefixes: Abbreviations whose dot belongs to them; true for those of which that holds before digits alone.

    Returns:
        Words in lower case, punctuation marks included.

    Example:
        >>> words_of("A man's t-shirt (no. 5), etc...", {"no": True})
        ['a', 'man', "'s", 't', 'shirt', '(', 'no.', '5', ')', ',', 'etc', '...']
    """
    if _PLAIN.fullmatch(text):  # no rule concerns it
        return text.lower().split()
    text = _apply(_DOTS, _apply(_SEPARATE, f" {text.strip(_TRIMMED)} "))
    while f"{_HIDDEN}." in text:
        text = _apply(_LAST_DOT, text).replace(f"{_HIDDEN}.", f"DOT{_HIDDEN}")
    for rule in _RULES:
        text = _apply(rule, text)
    text = _full_stops(_split(text), prefixes)
    while f"DOT{_HIDDEN}" in text:
        text = text.replace(f"DOT{_HIDDEN}", f"{_HIDDEN}.")
    text = _WIDE_SPACES.sub(" ", text.replace(_HIDDEN, ".")).strip(_TRIMMED)
    return _split(text.lower())


def _apply(rule: tuple[re.Pattern[str], str], text: str) -> str:
    return rule[0].sub(rule[1], text)


def _split(text: str) -> list[str]:
    return [word for word in re.split(f"[{_SPACES}]", text) if word]


def _full_stops(words: list[str], prefixes: Mapping[str, bool]) -> str:
    """Cut a dot off the end of each word, but of abbreviations and inside sentences."""
    result = []
    for at, word in enumerate(words):
        base, after = word[:-1], "".join(words[at + 1 : at + 2])
        if len(word) < 2 or not word.endswith("."):
            result.append(word)
        elif "." in base and _LETTER.search(base):  # an acronym
            result.append(word.replace(".", ""))
        elif prefixes.get(base) is False or re.match("[a-z0-9]" if base in prefixes else "[a-z]", after):
            result.append(word)
        else:
            result.append(f"{base} .")
    return " ".join([*result, ""])
