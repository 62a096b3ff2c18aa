"""The tokens of Java's PTB tokenizer, as patterns over the kinds of characters; the longest match is the next token.

A pattern with a group matches the token and what must follow it: both count for the length, as in the original.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fiber_eval.captioning._ptb_characters import DIGIT, LETTER, MARK, RAISED

LONG = 64
"""Characters read ahead without being sure of a token; with no limit, a long line costs the square of its length."""

# Abbreviations that keep their period: before anything, or unless a word or number is joined to it.
_TITLES = (
    "adj|adm|adv|alex|asst|atty|attys|ave|brig|capt|cf|cie|cmdr|col|comdr|cpl|dept|det|dr|drs|elec|ens|ft|gen|govs?|"
    "hon|insp|invt|jos|lieut|lt|maj|messrs|mlle|mme|mr|mrs|ms|msgr|mt|natl|pfc|ph|pres|profs?|pvt|reps?|rev|sens?|sfc|"
    "sgt|spc|ste?|supts?|treas|vs|wm"
)
_LAST_WORDS = (
    "al|ala|apr|ariz|assn|assoc|aug|bancorp|bhd|bldg|blvd|bros|calif|co|colo|conn|corp|cos|ct|dak|dec|esq|est|etc|ext|"
    "feb|fla|fri|ga|inc|ind|intl|jan|jr|jul|jun|kans?|ky|ltd|mar|md|mich|minn|mo|mont?|neb|nev|nov|oct|okla|penn|plc|"
    "rd|rt|sept?|seq|sq|sr|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vt|wed|wis|wisc|wyo"
)
_WITH_CAPITAL = "ark|az|del|ill|la|mass|miss|ore|pa|tex|wash"
_BEFORE_NUMBER = "art|ca|figs?|nos?|op|pp|prop"
_FIRST_WORDS = (
    "a|about|according|additionally|after|an|as|at|but|earlier|he|her|here|however|if|in|it|last|many|more|now|once|"
    "one|other|our|she|since|so|some|such|that|the|their|then|there|these|they|this|we|what|when|while|yet|you"
)
_FILES = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|"
    "wav|x|xml|zip"
)

_L = f"[A-Za-z{LETTER}]"
_LM = f"[A-Za-z{LETTER}\xad{MARK}]"
_N = f"[0-9{DIGIT}]"
_LN = f"[A-Za-z0-9{LETTER}{DIGIT}]"
_LNM = f"[A-Za-z0-9{LETTER}{DIGIT}\xad{MARK}]"
_APOSTROPHE = "(?:['’]|&apos;)"
_QUOTE = "(?:['’‘‛`]|&apos;)"
_VOWEL = "&(?i:[aeiou](?:acute|grave|uml));"
_WORD = f"(?:{_LM}|{_VOWEL})(?:{_LNM}|{_VOWEL})*"
_WORDS_JOINED = f"{_WORD}(?:[.!?]{_WORD})*"
_THING = f"(?:[dDoOlL]{_QUOTE}{_LN})?{_LN}+(?:[-_‐](?:[dDoOlL]{_QUOTE}{_LN})?{_LN}+)*"
_VERB = "(?:[smdSMD]|re|ve|ll|RE|VE|LL)"
_NOT = f"[nN](?:{_APOSTROPHE}|[`‘‛])[tT]"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])*\."

_SPACE = r" \t\n\f\r"
_MAIL = (
    rf"(?P<raw>(?:<|&lt;)?[A-Za-z0-9][^{_SPACE}\xa0\"<>(){{}}|]{{0,{LONG}}}"
    rf"@(?:[^{_SPACE}\xa0\"<>(){{}}|.]+\.)*[^{_SPACE}\xa0\"<>(){{}}|.]+(?:>|&gt;)?)"
)
_ADDRESS = (
    rf"(?P<raw>(?:(?i:www)\.(?:[^{_SPACE}\"<>|.!?(){{}},]{{1,{LONG}}}\.)+[A-Za-z]{{2,4}}|"
    rf"(?:[^{_SPACE}\"'`|(){{}}!$,-_]{{1,{LONG}}}\.)+(?i:com|net|org|edu))"
    rf"(?:/[^{_SPACE}\"<>()|]+[^{_SPACE}\"<>|.!?(){{}},-])?)"
)
_NAME = "[A-Za-z][A-Za-z0-9:._-]*"
_VALUE = rf"\"[^\"]{{0,{LONG}}}\"|'[^']{{0,{LONG}}}'"
_TAG = rf"<(?:/{_NAME}|{_NAME}(?: +{_NAME}(?:=(?:{_VALUE}))?)* */?|[!?][A-Za-z-][^>]{{0,{LONG}}})>"

# What a token begins with, a mark that it holds if any ("": none), and its pattern. Of equally long matches the first
# is taken.
_LETTERS, _LETTER_OR_DIGIT, _OF_WORD = "[A-Za-z]", "[A-Za-z0-9]", f"{_LNM[:-1]}&]"
_QUOTES, _DIGITS = "'’‘‛`&", f"{_N[:-1]}.,:\xad٫+-]"
_RULES = (
    (f"[<&]|{_LETTER_OR_DIGIT}", "@", _MAIL),
    (".", ".", _ADDRESS),
    (_LETTERS, "", "(?i:(can)not|(gim|lem)me|(gon|wan)na|(got)ta)"),
    (_OF_WORD, _QUOTES, rf"({_WORDS_JOINED}){_APOSTROPHE}{_VERB}"),
    (_OF_WORD, "", _WORDS_JOINED),
    (_LN, "", _THING),
    (_LETTERS, _QUOTES, rf"[A-HJ-XZdlno]{_QUOTE}{_L}{{2,}}"),  # o'brien
    (_L, _QUOTES, rf"{_L}+[aeiouyAEIOUY]{_QUOTE}[aeiouA-Z]{_L}*"),  # mo'olelo
    (
        _LETTERS,
        _QUOTES,
        rf"(?i:c{_APOSTROPHE}est|c'mon|dunkin'|e'er|li'l|nat'l|ol{_APOSTROPHE}|s'mores|o{_QUOTE}clock)",
    ),
    ("[A-Za-z\xad]", _QUOTES, rf"([A-Za-z\xad]*[A-MO-Za-mo-z\xad]){_NOT}"),
    ("[nN]", _QUOTES, _NOT),
    ("[jJdDlLyY]", _QUOTES, rf"[jJdDlL]{_APOSTROPHE}|([yY]{_APOSTROPHE}){_L}"),
    (_LETTERS, ".", _INITIALS),
    (_LETTERS, ".", rf"([A-Za-z])\.\s+(?:(?=[A-Z])(?i:{_FIRST_WORDS})\s|{_TAG})"),  # a letter that ends a sentence
    (_LETTERS, ".", r"(?s:((?i:ed|ph)\.[Dd]\.)..)"),
    (_LETTERS, ".", rf"(?s:((?i:{_LAST_WORDS})\.|(?=[A-Z])(?i:{_WITH_CAPITAL})\.|[Pp]p?t(?:e|y|es|ys)\.)..)"),
    (_LETTERS, ".", rf"(?i:{_TITLES})\.|[Mm][ft]g\."),
    (_LETTERS, ".", rf"((?i:{_BEFORE_NUMBER})\.)\s?{_N}"),
    (_OF_WORD, ".", rf"((?:{_WORDS_JOINED}|{_THING})\.)[,;:\u3001]"),  # a slip of the original: the period stays
    ("[A-Z]", "+&", r"[A-Z]+(?:(?:[+&]|&(?i:amp);)[A-Z]+)+"),
    ("[CcFf]", "+#", r"[Cc]\+\+|[CcFf]#"),
    ("[A-Z]", "$", r"[A-Z]+\$"),
    (_LETTER_OR_DIGIT, "/", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),  # he/she
    (
        _LETTER_OR_DIGIT,
        "-",
        rf"[A-Za-z0-9][A-Za-z0-9.,\xad]{{0,{LONG}}}(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\xad]+))+",  # u.s.-based
    ),
    (_LN, ".", rf"(?P<raw>(?:{_LN}+\.){{1,{LONG}}}(?i:{_FILES}))[\s.!,?]"),
    ("[hH]", "/", rf"(?P<raw>(?i:https?)://[^{_SPACE}\"<>(){{}}|]+[^{_SPACE}\"<>(){{}}|.,!?-])"),
    (_DIGITS, "", rf"[-+]?{_N}*(?:[.,:\xad٫]{_N}+)+|[-+]{_N}+"),
    (_N, "/⁄", rf"(?:{_N}{{1,4}}[- \xa0])?{_N}{{1,4}}(?:\\?/|⁄){_N}{{1,4}}"),
    ("[0-9]", "/-", r"[0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4}"),
    # telephones
    (
        r"[(+]",
        "",
        r"(?:\([0-9]{2,3}\)[ \xa0]?|\+{1,2}(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0]?[0-9]{3,5}",
    ),
    ("[0-9]", "", r"(?:[0-9]{2,4}[- \xa0]){1,2}[0-9]{3,4}[- \xa0]?[0-9]{3,5}"),
    (r"[0-9+]", ".", r"(?:\+{0,2}[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"),
    # marks
    ("<", "", _TAG),
    ("&", "", "&(?:#[0-9]+|(?i:amp|lt|gt|quot|apos|nbsp|mdash|ndash|md|ht|tl|ur|lr|qc|ql|qr|odq|cdq));"),
    ("['’&]", "", rf"'{_VERB}(?![A-Za-z])|(?:’|&apos;){_VERB}|('[tT])(?i:is|was)"),
    ("['’&]", "", rf"{_APOSTROPHE}(?:[nN]{_APOSTROPHE}|(?i:em|till?|cause)|[2-9]0s)"),
    ("['’&]", "", rf"(?:’|&apos;)[nN]|('[nN]|{_APOSTROPHE}[0-9]{{2}})\s"),
    ("[<>:;=]", "", r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]"),  # :-)
    ("[-^x=~<>'(]", "", r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)"),  # ^_^
    (f"[⁺₊{RAISED}₂]", "", rf"[⁺₊]?(?:{RAISED}+|₂+)"),
    ("-", "", "-[LRlr][CRScrs][Bb]-"),
    ("[\xa0\u2003]", "", "[ \t\xa0\u2003]+"),
    ("[@#]", "", rf"(?P<raw>@[A-Za-z_][A-Za-z0-9_]*|#(?:{_LM}|{_VOWEL})+)"),
    (r"[!?\\*#_@.<>“”‘’‛„`'-]", "", r"[!?]+|\\\*|\*+|#+|_+|@+|-+|\.{3,}|\.[ \xa0]\.[ \xa0]\.|<<|>>|[“”‘’‛„`]{1,2}|''"),
)
_COMPILED = [(re.compile(first), frozenset(held), re.compile(pattern)) for first, held, pattern in _RULES]
HELD = frozenset("".join(held for _, held, _ in _RULES))
"""The marks on which it depends whether a rule need be tried."""
KEEPS_PERIOD = re.compile(rf"[a-z]|{_TITLES}|m[ft]g|{_LAST_WORDS}|{_WITH_CAPITAL}|p?t(?:e|y|es|ys)", re.IGNORECASE)


@lru_cache(maxsize=4096)
def rules_at(kind: str, marks: frozenset[str]) -> tuple[re.Pattern[str], ...]:
    """The patterns that can match where a character of a kind stands, in a text that holds those marks of `HELD`."""
    return tuple(
        pattern for first, held, pattern in _COMPILED if first.match(kind) and (not held or not held.isdisjoint(marks))
    )
