"""WordNet's synonym sets of a word and of its stem, as SPICE and METEOR look them up.

Miller, "WordNet: a lexical database for English", CACM 1995. The table `_wordnet.txt.gz` beside this module holds
the words of WordNet 3.0 with their synonym sets, and its lists of irregular forms; WordNet's license is in its head.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("_wordnet.txt.gz")
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
# Endings and what replaces them, in the order of WordNet's nouns, verbs and adjectives.
_RULES = "s: ses:s xes:x zes:z ches:ch shes:sh men:man ies:y s: ies:y es:e es: ed:e ed: ing:e ing: er: est: er:e est:e"
_ENDINGS = tuple(rule.split(":") for rule in _RULES.split())


@dataclass(frozen=True)
class WordNet:
    """The two tables of the lookup; `WordNet.load` reads those that come with the package."""

    synsets: Mapping[str, str]
    """The synonym sets of each word, as numbers between spaces; words joined by underscores."""
    irregular: Mapping[str, str]
    """The base forms of irregular words, between spaces."""

    @staticmethod
    @cache
    def load() -> WordNet:
        """The tables of WordNet 3.0, read once a process."""
        lines = gzip.decompress(TABLE.read_bytes()).decode().split("\n")
        tables: tuple[dict[str, str], dict[str, str]] = {}, {}
        for line in lines:
            if line.startswith("#"):
                continue
            word, is_irregular, values = line.partition("\t")
            if is_irregular:
                tables[1][word] = values
            else:
                word, _, values = line.partition(" ")
                tables[0][word] = values
        return WordNet(*tables)

    def lookup(self, word: str) -> tuple[frozenset[int], frozenset[int]]:
        """The synonym sets of a word, and those of its stem.

        Args:
            word: In lower case; spaces count as underscores.

        Returns:
            Numbers of synonym sets: offsets of WordNet 3.0, which parts of speech share. Empty if there are none.

        Example:
            >>> from fiber_eval.captioning._wordnet import WordNet
            >>> wordnet = WordNet.load()
            >>> sorted(wordnet.lookup("bikes")[1] & wordnet.lookup("motorcycle")[0])
            [3790512]
        """
        word = word.replace(" ", "_")
        stems = set().union(*(self._synsets(stem) for stem in self._stems(word)))
        return self._synsets(word), frozenset(stems)

    def _synsets(self, word: str) -> frozenset[int]:
        return frozenset(map(int, self.synsets.get(word, "").split()))

    def _stems(self, word: str) -> list[str]:
        """The base forms of an irregular word; else one at most, the first that WordNet has."""
        if word in self.irregular:
            return self.irregular[word].split()
        if len(word) <= 2 or word.endswith("ss"):
            return [word]
        start, tail = (word[:-3], "ful") if word.endswith("ful") else (word, "")
        bases = (start.removesuffix(ending) + base for ending, base in _ENDINGS if start.endswith(ending))
        return [base + tail for base in bases if base in self.synsets][:1]


def write_table(folder: Path, license: Path, table: Path = TABLE) -> None:
    """Make the table from the files of WordNet 3.0; for maintainers.

    Args:
        folder: With `index.*` and `*.exc` of nouns, verbs, adjectives and adverbs.
        license: The text of WordNet's license.
        table: The file to write.
    """
    synsets: dict[str, set[int]] = {}
    irregular: dict[str, list[str]] = {}
    for part in PARTS_OF_SPEECH:
        for line in (folder / f"index.{part}").read_text().splitlines():
            if not line.startswith(" "):  # the license
                fields = line.split()
                synsets.setdefault(fields[0], set()).update(map(int, fields[-int(fields[2]) :]))
        for line in (folder / f"{part}.exc").read_text().splitlines():
            word, *bases = line.split()
            irregular.setdefault(word, []).extend(bases)
    lines = [f"# {line.rstrip()}" for line in license.read_text().splitlines()]
    lines += [f"{word} {' '.join(map(str, sorted(numbers)))}" for word, numbers in sorted(synsets.items())]
    lines += [f"{word}\t{' '.join(dict.fromkeys(bases))}" for word, bases in sorted(irregular.items())]
    table.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
