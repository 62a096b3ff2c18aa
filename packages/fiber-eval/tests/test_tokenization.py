"""Captions have the tokens of Java's PTB tokenizer, in any script and however odd."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fiber_eval.captioning import ptb_tokenize

PUNCTUATION = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
NEXT = "zebra quokka"  # a caption that decides nothing about the one before

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u058a\ufe58\uff0d\u301c\x96\x97"
APOSTROPHES = "'''\u2019\u2019\u2018\u02bc`\u00b4\u2032\uff07\x92\u201b"
QUOTES = "\"\u201c\u201d\u00ab\u00bb\u201e\u201a\u2039\u203a\u2018\u2019\u201f\x93\x94\u300c`'"
SIGNS = "¼½¾⅓⅔⅛²³¹⁴⁻₂$€£¥¢¤₩₹฿°©™®§¶•·…‰¿¡№★☃♫✓→\u3001\u3002\u060c\u061f\u0964\u0965\u30fb\uff01"
SPACES = "\u00a0\u2009\u202f\u3000\u2003\u200b\u200d\u2060\ufeff\t\u180e\u205f\x01\x1f\x7f\x9f"
FRAGMENTS = [
    "a the man cat red bike street cannot gonna gimme don't can't it's he'll I'm O'Brien o'clock ma'am y'all goin'",
    "rock'n'roll t-shirt black-and-white C# F# C++ .NET A+ 3D 4x4 1st MP3 AT&T R&B Q&A c'est l'eau d'accord qu'il N'Sync",
    "'tis 'twas 'em 'cause 'n' shouldn't've y'all'd dogs' James' 90's '90s '05 mo'olelo Hawai'i ta'an TV's j'ai x_y",
    "1 10 3.5 1,000 3:45 12:30pm 5'10\" 6' 1/2 10-12 50% -5 +5 #1 1..2 $5.00 US$5 10x12 2.5-inch 555-1234 +1 1e5 1.2.3",
    "(555)123-4567 10:30:15 2014-11-29 11/29/2014 5-10% .5 1,2345 1) --1 5.- 24/7 3/4th 1990-91 0x1F 5*5 2<3 1 2/3 555 1234567",
    "http://www.coco.org/a?b=c https://x.com/ www.google.com foo.net/bar a.b@c.com <me@x.com> HTTP://X.COM @user_1 #tag",
    "image.jpg a.TXT 1.html foo.edu/x ex.com:8080 C:\\x\\y.txt ~/x x.y.z and/or w/o he/she/they a\\/b //x.com foo.org's",
    "... .. .... ?! !! -- --- ----- __ *** ## @@ && ( ) [ ] { } << >> <b> </b> <br/> `` '' ' \" , ; : == => -> / \\ ^ ~",
    ":) :-) ;) :D :P =) <3 :( ^_^ -_- T_T :'( :/ (^_^) \U0001f600 \u2764\ufe0f \U0001f468\u200d\U0001f469 \U0001f1fa\U0001f1f8",
    "Mr. Dr. St. Ave. U.S. a.m. e.g. etc. Jr. Inc. Ph.D. No. vs. fig. ft. D.C. J.R.R. Corp. Co. Sept. Jan. Wash. La. K. k.",
    "&#39; &amp; &lt; &gt; &quot; &apos; &nbsp; &#8217; &mdash; &eacute; &copy; &AMP; &amp &#x27; &ndash; &hellip;",
    "हिन्दी भाषा বাংলা কুকুর। தமிழ் ภาษาไทย ผู้ชาย العَرَبِيَّة كَلْبٌ Tiếng Việt Tie\u0302\u0301ng cafe\u0301 naïve Москва Ελλάδα",
    'שָׁלוֹם ב"מ 中文 日本語 カタカナ ｶﾀ 한국어 ＡＢＣ １２３ ١٢٣ १.५ ٣٫٥ Հայ አማ ಕನ್ನಡ తెలుగు ଓଡ଼ିଆ မြန်မာ ខ្មែរ İstanbul straße \ufb01sh ﷺ ʻokina',
]
WORDS = [fragment.split(" ") for fragment in FRAGMENTS]


def odd_lines(count: int, seed: int) -> list[str]:
    """Lines of words and signs of many kinds, put together in every way."""
    pick = random.Random(seed)

    def word() -> str:
        return pick.choice(pick.choice(WORDS))

    def sign() -> str:
        return pick.choice(pick.choice((DASHES, APOSTROPHES, QUOTES, SIGNS, SPACES)))

    shapes = (
        "{0}{2}{1}",
        "{0} {2}{1}",
        "{0}{2} {1}",
        "{2}{0}",
        "{0}{2}",
        "{2}{0}{3}",
        "{0}{1}",
        "{0}{2}{3}{1}",
        "{0} {1}",
    )
    kinds = (
        "{0}",
        "{0}",
        "the {0} is",
        "{0}.",
        '"{0}"',
        "({0})",
        "{0}, {1}",
        "{0}'s",
        "{0}-{1}",
        "{0}. A",
        "{0} 5",
        "{0}?",
    )

    def text() -> str:
        return pick.choice(shapes).format(word(), word(), sign(), sign())

    return [
        pick.choice(kinds).format(text(), " ".join(word() for _ in range(pick.randint(1, 4)))) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Path:
    """The folder of the official program."""
    if importlib.util.find_spec("pycocoevalcap") is None or not shutil.which("java"):
        pytest.skip("the official tokenizer needs Java and pycocoevalcap")
    spec = importlib.util.find_spec("pycocoevalcap.tokenizer")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def by_java(lines: Sequence[str], tokenizer: Path, folder: Path) -> list[str]:
    """What coco-caption makes of each line, between lines that decide nothing about it."""
    (folder / "lines").write_bytes("".join(f"{line}\n{NEXT}\n" for line in lines).encode())
    program = [
        "java",
        "-Dfile.encoding=UTF-8",
        "-cp",
        "stanford-corenlp-3.4.1.jar",
        "edu.stanford.nlp.process.PTBTokenizer",
    ]
    command = [*program, "-preserveLines", "-lowerCase", str(folder / "lines")]
    output = subprocess.run(command, cwd=tokenizer, check=True, capture_output=True).stdout.decode()
    parts = output.split(f"{NEXT}\n")
    return [
        " ".join(word for word in part.strip("\n ").split(" ") if word and word not in PUNCTUATION)
        for part in parts[: len(lines)]
    ]


def test_odd_lines_have_the_tokens_of_java(tokenizer: Path, tmp_path: Path):
    lines = odd_lines(5000, seed=0)
    pairs = zip(lines, by_java(lines, tokenizer, tmp_path), strict=True)
    assert [(line, tokens, ptb_tokenize(line)) for line, tokens in pairs if ptb_tokenize(line) != tokens] == []


def test_characters_have_the_kinds_of_java(tokenizer: Path, tmp_path: Path):
    breaks = {0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029}
    codes = [*range(1, 0x2E80), *range(0x2E80, 0xD800, 13), *range(0xE000, 0x10000, 3), *range(0x1F300, 0x1F700, 5)]
    characters = [chr(code) for code in codes if code not in breaks]
    lines = [f"x{each}x {each} 1{each}1 -{each}" for each in characters]
    pairs = zip(lines, by_java(lines, tokenizer, tmp_path), strict=True)
    assert [(ascii(line), tokens) for line, tokens in pairs if ptb_tokenize(line) != tokens] == []


@pytest.mark.parametrize(
    ("line", "java"),
    [
        ("ΟΔΟΣ-Α", "οδοσ-α"),
        ("a\xadb.jpg x", "a\xadb.jpg x"),
        ("(a," + "b," * 40 + "c-d", "-lrb- a," + "b," * 40 + "c-d"),
    ],
)
def test_what_differs_from_java_is_what_the_docs_name(tokenizer: Path, tmp_path: Path, line: str, java: str):
    assert by_java([line], tokenizer, tmp_path) == [java]
    assert ptb_tokenize(line) != java


@pytest.mark.parametrize(
    "line",
    [
        "हिन्दी भाषा",
        "বাংলা কুকুর",
        "தமிழ் நாய்",
        "ภาษาไทย ผู้ชาย",
        "كَلْبٌ العَرَبِيَّة",
        "tiếng việt",
        "tie\u0302\u0301ng vie\u0323\u0302t",
        "cafe\u0301",
        "日本語 犬が走る 한국어",
        "c'est l'eau d'été",
        "a\u2010b a\u2011b",
        "’90s",
    ],
)
def test_words_that_stay_whole(line: str):
    assert ptb_tokenize(line) == line


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("a dog—brown", "a dog brown"),
        ("10–12", "10 12"),
        ("it&#39;s", "it &#39; s"),
        ("C# and C++", "c# and c++"),
        ("3½ cups", "3 1/2 cups"),
        ("10 m²", "10 m ²"),
        ("O’Brien’s dog doesn’t", "o’brien 's dog does n't"),
        ("ﬁve \U0001f600 dogs \u2764\ufe0f", "ﬁve dogs \u2764"),
        ("AT&amp;T A&B a&b", "at&t a&b a & b"),
        ("5€ £3 ¢5", "5 $ # 3 cents 5"),
        ("x@y.org, www.a.com.", "x@y.org, www.a.com"),
        ("Inc. The K. The U.S. The", "inc. the k the u.s. the"),
        ("U.S.-based 1.5-inch he/she/they", "u.s.-based 1.5-inch he/she/they"),
        ("““a”” :-] (^_^)", "```` a '''' :-] -lrb-^_^-rrb-"),
    ],
)
def test_odd_tokens(line: str, tokens: str):
    assert ptb_tokenize(line) == tokens


@pytest.mark.parametrize("part", ["-", ".", "'", "&", "7", "a.", "1,a,", "a@", '<a b="', "a'", "/a", "“", "1a."])
def test_long_lines_take_time_in_proportion(part: str):
    start = time.perf_counter()
    ptb_tokenize(part * (40_000 // len(part)) + " a-b@c")
    assert time.perf_counter() - start < 10  # a quadratic one would take minutes
