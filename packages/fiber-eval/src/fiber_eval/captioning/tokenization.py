r"""PTB tokenization of captions in Python: the words on which all caption metrics are defined.

Follows what coco-caption gets from the Java `PTBTokenizer` of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`
and its list of removed punctuation, as seen from its output; it is no translation of its code. What differs, of some
hundred thousand odd lines one in twenty thousand:

* A character that breaks lines within a caption ("\r", "\f", "\u2028") is a space here; in Java all but the newline
  shift all later captions.
* In Java the next caption of the file decides on the period after a single letter at a caption's end ("the letter K."),
  and the end of the file on a last word like "you'll" or ":D"; here the index of a caption does not matter.
* A capital sigma before a hyphen ("ΟΔΟΣ-Α") becomes a final sigma; in Java it does so at the end of a word only.
* A soft hyphen is no part of a word; in Java it is one of a file's name and of an address ("a\xadb.jpg").
* Addresses, and words with commas and periods before a hyphen, end after some 64 characters that hold no "@", or "-".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fiber_eval.captioning._ptb_characters import NOTHING, kinds_of
from fiber_eval.captioning._ptb_rules import HELD, KEEPS_PERIOD, rules_at
from fiber_eval.files import shown

# Most captions are letters, hyphens within words, commas and a last period: splitting at spaces is all they need.
_PLAIN = re.compile(r"(?:[a-zA-Z]+(?:-[a-zA-Z]+)*,? +)*([a-zA-Z]+(?:-[a-zA-Z]+)*) *\.? *")
_IN_TWO = frozenset(["cannot", "gimme", "gonna", "gotta", "lemme", "wanna"])
_SPACES = re.compile(r"[ \t\n\f\r][ \t\n\f\r\xa0\u2003]*")
_PLAIN_WORD = re.compile(r" *([A-Za-z]+)(?=[ \n])")
_REMOVED = frozenset([NOTHING, *"?!,:;'`\"-‐—…‛٫", "''", "``", "--", "---", "----", "&quot;", "&apos;"])
_UNSEEN = frozenset(["&nbsp;", "&mdash;", "&ndash;", "&md;"])
_REPLACED = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    "£": "#",
    "¢": "cents",
    "&lt;": "<",
    "&gt;": ">",
} | dict.fromkeys("€¤₠\x80", "$")
_QUOTES = dict.fromkeys("“«\x93", "``") | dict.fromkeys("”»\x94", "''")
_QUOTES |= dict.fromkeys("‘‹‛\x91", "`") | dict.fromkeys("’›\x92", "'")
_CONTRACTION = re.compile("n?(?:['’‘‛`\x91\x92]|&apos;)(?:[smdt]|re|ve|ll)")
_ASCII_QUOTES = str.maketrans({character: quote for character, quote in _QUOTES.items() if len(quote) == 1})
_NO_SPACE = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0"})


def ptb_tokenize(caption: str) -> str:
    """The words of a caption, as coco-caption compares them.

    Lower case, without punctuation, with contractions split; abbreviations keep their period. A word may hold a
    no-break space ("3 1/2"), at which BLEU and CIDEr split and ROUGE-L does not, as in the official code.

    Args:
        caption: One caption, as written.

    Returns:
        Its words with single spaces between them.

    Raises:
        TypeError: The caption is no string.

    Example:
        >>> from fiber_eval.captioning import ptb_tokenize
        >>> ptb_tokenize("A man can't ride (the) dog's bike on Main St.")
        "a man ca n't ride -lrb- the -rrb- dog 's bike on main st."
    """
    if not isinstance(caption, str):
        raise TypeError(f"a caption must be a string, but {shown(caption)} is {type(caption).__name__}")
    if plain := _PLAIN.fullmatch(caption):
        words = caption.lower().rstrip(" .").replace(",", " ").split()
        if _IN_TWO.isdisjoint(words) and ("." not in caption or not KEEPS_PERIOD.fullmatch(plain[1])):
            return " ".join(words)
    return " ".join(_words(caption))


def _words(text: str) -> Iterator[str]:
    kinds = f"{kinds_of(text)}\n\n"
    marks = HELD.intersection(kinds)
    at, end = 0, len(text)
    while at < end:
        if (plain := _PLAIN_WORD.match(kinds, at)) and (word := plain[1].lower()) not in _IN_TWO:
            at = plain.end()
            yield word
            continue
        kind = kinds[at]
        if spaces := _SPACES.match(kinds, at):
            at = spaces.end()
            continue
        token_end, raw = at + 1, False
        longest = token_end
        for rule in rules_at(kind, marks):
            match = rule.match(kinds, at)
            if match and match.end() > longest:
                longest = match.end()
                token_end, raw = match.end(match.lastindex or 0), match.lastgroup == "raw"
        token = text[at:token_end]
        if word := token.lower() if raw else _word(token, kinds[at:token_end]):
            yield word
        at = token_end


def _word(token: str, kinds: str) -> str:
    """The word that stands for a token; empty for one that is removed."""
    if kinds in _REMOVED or kinds.lower() in _UNSEEN or not kinds.strip(". \t\xa0\u2003"):
        return ""
    if not kinds.strip("“”‘’‛„`'"):  # one or two
        word = "".join(_QUOTES.get(character, character) for character in token)
        return "" if word in _REMOVED else word
    word = token.lower().replace("\xad", "")
    if word in _REPLACED:
        return _REPLACED[word]
    if _CONTRACTION.fullmatch(word):
        word = word.replace("&apos;", "'")
        return word.translate(_ASCII_QUOTES)
    if len(word) > 1 and not kinds[0].isalpha():  # smileys, tags, telephones, 3 1/2
        word = word.translate(_NO_SPACE)
    return word.replace("&amp;", "&")
