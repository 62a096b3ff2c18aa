"""PTB tokenization of captions in Python: the words on which all caption metrics are defined.

Follows what coco-caption gets from the Java `PTBTokenizer` of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`
and its list of removed punctuation, as seen from its output; it is no translation of its code. Measured on the
594 thousand distinct captions of COCO train2014 and val2014, all but 22 are equal. What differs:

* A character that breaks lines within a caption is a space here; in Java all but the newline shift all later captions.
* In Java the next caption of the file decides on the period after a single letter at a caption's end ("the letter K."),
  and the end of the file on a last word like "you'll"; here the index of a caption does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Abbreviations that keep their period, whatever their case, and those that need their capital.
_ABBREVIATIONS = (
    "adm|al|ala|alex|apr|ariz|assn|asst|atty|attys|aug|ave|bancorp|bhd|bldg|blvd|brig|bros|calif|capt|cf|cmdr|co|"
    "col|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|drs|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|gov|govs|"
    "hon|inc|ind|insp|intl|jan|jos|jr|jul|jun|kan|kans|ky|lieut|lt|ltd|maj|mar|md|messrs|mfg|mich|minn|mlle|mme|mo|"
    "mon|mont|mr|mrs|ms|mt|natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|pres|prof|profs|pte|pty|pvt|rd|rep|reps|rev|"
    "rt|sen|sens|sep|sept|seq|sgt|spc|sq|sr|st|ste|supt|supts|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vs|vt|wed|"
    "wis|wisc|wm|wyo"
)
_CAPITALIZED = "ark|az|del|ill|la|mass|miss|ore|pa|tex|wash"
_BEFORE_NUMBER = "art|figs?|nos?|pp|prop"
_WITH_APOSTROPHE = "c'mon|dunkin'|e'er|li'l|ma'am|nat'l|o'clock|ol'|s'mores|[jy]'(?=[^\\W\\d_])"

_LETTER = r"[^\W\d_]"
_ALNUM = r"[^\W_]"
_SHORT = rf"(?:(?i:{_ABBREVIATIONS})|(?=[A-Z])(?i:{_CAPITALIZED})|(?i:ed|ph)\.[Dd]|{_LETTER}(?:\.{_LETTER})*)"
_TOKEN = re.compile(
    "|".join(
        (
            r"</?[A-Za-z][^<>]*>",
            r"&(?i:amp|lt|gt|quot|apos);",
            r"https?://[^\s\"<>()]*[^\s\"<>().,;!?']",
            r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*",
            r"(?:[A-Za-z][A-Za-z0-9-]*\.)+(?:com|net|org|edu)(?:/[^\s\"<>().,;!?']*)?(?![A-Za-z0-9])",
            rf"{_SHORT}\.(?:-{_ALNUM}+)+",  # u.s.-based
            rf"{_LETTER}(?:\.{_LETTER})+(?:-{_ALNUM}+)+",  # u.s-based
            rf"{_SHORT}\.(?!{_LETTER})",
            rf"(?i:{_BEFORE_NUMBER})\.(?=\s*\d)",
            rf"(?i:{_WITH_APOSTROPHE})",
            rf"[A-HJ-XZdlno]'{_LETTER}{{2,}}",  # o'brien
            rf"{_LETTER}+(?i:[aeiouy]'[aeiou]){_LETTER}*",  # mo'olelo
            rf"{_LETTER}{_ALNUM}*\.(?=[,;])",  # the period stays, a slip of the original
            rf"(?:{_LETTER}+?(?=(?i:n['`]t)(?!{_LETTER}))|(?i:n['`]t)(?!{_LETTER}))",  # do, n't
            rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+",  # end.start
            r"[A-Za-z0-9]+\.(?:jpe?g|png|gif|bmp|html?|txt|pdf|mp[34]|exe)(?![A-Za-z0-9])",
            r"\(\d{2,3}\)\s?\d{3,4}[- ]?\d{3,5}",  # a telephone number
            r"\d{1,4} \d{1,4}/\d{1,4}",  # 3 1/2 is one token
            rf"\d*(?:[.,:]\d+)+(?:-{_ALNUM}+)+",  # 1.5-inch
            r"[-+]?\d*(?:[.,:]\d+)+",
            r"[A-Z]+&[A-Z]|[Cc]\+\+",
            rf"{_ALNUM}+(?:(?:[-_]|\\?/)(?:[dDlLoO]')?{_ALNUM}+)*",
            r"[-+]\d+",
            rf"'(?:[sSmMdD]|(?i:re|ve|ll))(?!{_ALNUM})",
            r"''|'[nN](?:'|(?![^\s']))|'(?i:em|till?|cause)|'[2-9]0s|'\d\d(?![\w'])|'[tT](?=(?i:is|was))",
            rf"[#@][A-Za-z]{_ALNUM}*",
            r"[<>]?[:;=][-o*']?[()DPdp](?![A-Za-z])",  # :-)
            r"\^_\^",
            r">>|\\\*|[!?]+|\*+|#+|_+|-{5,}",
            r"\S",
        )
    )
)
# ``, -- and ... come as single characters.
_REMOVED = frozenset([".", "?", "!", ",", ":", ";", "'", "''", '"', "`", "-", "&quot;", "&apos;"])
_REPLACED = {
    "cannot": "can not",
    "gimme": "gim me",
    "gonna": "gon na",
    "gotta": "got ta",
    "lemme": "lem me",
    "wanna": "wan na",
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
    "€": "$",
    "¢": "cents",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
}
_TYPOGRAPHY = str.maketrans(
    {"‘": "`", "’": "'", "“": '"', "”": '"', "«": '"', "»": '"', "–": "-", "—": "-", "…": ".", "\xad": ""}
)
_UNKNOWN = re.compile("[\U00010000-\U0010ffff\ufe00-\ufe0f\ufeff\ufffd\u200b-\u200f\x00-\x1f\x7f-\xa0\u2028\u2029]")
# Most captions are letters, hyphens within words, commas and a last period: splitting at spaces is all they need.
_PLAIN = re.compile(r"(?:[a-zA-Z]+(?:-[a-zA-Z]+)*,? +)*([a-zA-Z]+(?:-[a-zA-Z]+)*) *\.? *")
_NO_PLAIN_END = frozenset([*f"{_ABBREVIATIONS}|{_CAPITALIZED}".split("|"), *"abcdefghijklmnopqrstuvwxyz"])


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
        raise TypeError(f"a caption must be a string, but {caption!r} is {type(caption).__name__}")
    if plain := _PLAIN.fullmatch(caption):
        words = caption.lower().rstrip(" .").replace(",", " ").split()
        last = plain[1].lower()
        if _REPLACED.keys().isdisjoint(words) and ("." not in caption or last not in _NO_PLAIN_END):
            return " ".join(words)
    return " ".join(_words(_UNKNOWN.sub(" ", caption.translate(_TYPOGRAPHY))))


def _words(text: str) -> Iterable[str]:
    for token in _TOKEN.findall(text):
        word = token.lower()
        if word in _REMOVED:
            continue
        if word in _REPLACED:
            yield _REPLACED[word]
        elif len(word) > 1 and (word[0] in "(<:;=>" or word[0].isdigit()):  # smileys, tags, telephone, 3 1/2
            yield word.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\xa0")
        else:
            yield word
