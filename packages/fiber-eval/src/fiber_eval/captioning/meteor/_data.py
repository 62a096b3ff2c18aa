"""The tables of METEOR 1.5, read from its jar and from the paraphrase table beside it.

Nothing of them is part of this package: the jar is LGPL, its synonyms are WordNet's.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import compress
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from fiber_eval.captioning._wordnet import WordNet

JAR_VARIABLE = "FIBER_METEOR_JAR"
JAR_NAME = "meteor-1.5.jar"
PARAPHRASES = Path("data", "paraphrase-en.gz")
LONGEST_PHRASE = 7
_CHUNK = 1 << 16


@dataclass(frozen=True)
class MeteorData:
    """What METEOR knows of English; `MeteorData.load` reads it."""

    function_words: frozenset[str]
    prefixes: Mapping[str, bool]
    """Abbreviations that end in a dot; true for those that do before digits alone."""
    wordnet: WordNet

    @staticmethod
    @cache
    def load(jar: Path) -> MeteorData:
        """The tables of a jar, read once a process."""
        names = ["function/english.words", "nonbreaking/english.prefixes"]
        names += ["synonym/english.synsets", "synonym/english.exceptions"]
        try:
            with ZipFile(jar) as archive:
                tables = [archive.read(name).decode().splitlines() for name in names]
        except (BadZipFile, KeyError) as error:
            raise ValueError(f"{jar}: no jar of METEOR 1.5 ({error}); take that of pycocoevalcap") from error
        words, prefixes, synsets, exceptions = tables
        irregular: dict[str, str] = {}
        for base, forms in zip(exceptions[::2], exceptions[1::2], strict=True):
            for form in forms.split():
                irregular[form] = f"{irregular[form]} {base}" if form in irregular else base
        fields = [line.split() for line in prefixes if line and not line.startswith("#")]
        return MeteorData(
            frozenset(words),
            {word: bool(rest) for word, *rest in fields},
            WordNet(dict(zip(synsets[::2], synsets[1::2], strict=True)), irregular),
        )

    def synonym_sets(self, word: str) -> frozenset[int]:
        """The synonym sets of a word and of its stem."""
        own, of_stem = self.wordnet.lookup(word)
        # The program cuts nothing off words in -ful.
        return own if word.endswith("ful") and word not in self.wordnet.irregular else own | of_stem


def read_paraphrases(path: Path, phrases: Collection[bytes]) -> list[tuple[bytes, bytes]]:
    """The entries of the paraphrase table both of whose sides are wanted.

    Args:
        path: The table: for each entry a line with a probability, one with a phrase, one with a paraphrase.
        phrases: What is wanted, words between spaces.

    Returns:
        Phrase and paraphrase, in the order of the table.

    Raises:
        ValueError: The file is cut off or no table at all.
    """
    found: list[tuple[bytes, bytes]] = []
    unzip = zlib.decompressobj(wbits=31)
    rest = b""
    with path.open("rb") as file:
        while packed := file.read(_CHUNK):
            lines = (rest + unzip.decompress(packed)).split(b"\n")
            end = (len(lines) - 1) // 3 * 3
            firsts = lines[1:end:3]
            pairs = compress(zip(firsts, lines[2:end:3], strict=True), map(phrases.__contains__, firsts))
            found += [pair for pair in pairs if pair[1] in phrases]
            rest = b"\n".join(lines[end:])
    if not unzip.eof:
        raise ValueError(f"{path}: the file ends too early; install pycocoevalcap again")
    return found


def find_meteor(jar: Path | str | None = None) -> Path:
    """The jar of METEOR: `jar`, else the environment variable FIBER_METEOR_JAR, else an installed `pycocoevalcap`.

    Args:
        jar: The jar or its folder.

    Returns:
        The jar's absolute path.

    Raises:
        FileNotFoundError: It is nowhere, or its paraphrase table is not beside it.
    """
    asked = jar or os.environ.get(JAR_VARIABLE)
    if asked:
        found = Path(asked) / JAR_NAME if Path(asked).is_dir() else Path(asked)
        sought = "the argument jar" if jar else f"the environment variable {JAR_VARIABLE}"
    else:
        package = importlib.util.find_spec("pycocoevalcap")
        folders = list(package.submodule_search_locations or []) if package else []
        found = Path(folders[0] if folders else "pycocoevalcap", "meteor", JAR_NAME)
        sought = f"the environment variable {JAR_VARIABLE} (not set), then the installed package pycocoevalcap"
    for path in (found, found.parent / PARAPHRASES):
        if not path.is_file():
            raise FileNotFoundError(
                f"METEOR needs {path.name}, but {path} is no file; looked in {sought}. It comes with "
                f"`pip install pycocoevalcap`; or set {JAR_VARIABLE} to {JAR_NAME}, with its folder data beside it"
            )
    return found.resolve()
