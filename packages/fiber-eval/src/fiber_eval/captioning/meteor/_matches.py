"""METEOR's matches between two captions: equal words, equal stems, synonyms and paraphrases.

The matches of many pairs of captions are found side by side, in flat arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fiber_eval.captioning._ngrams import Ints
from fiber_eval.captioning.meteor._data import LONGEST_PHRASE, MeteorData, read_paraphrases
from fiber_eval.captioning.meteor._stemmer import stem

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
_HASH = np.uint64(0x9E3779B97F4A7C15)
_HASH_BITS = 22


@dataclass(frozen=True)
class Matches:
    """Matches, each of some neighboring words of the reference with some of the candidate.

    They are sorted by pair, then start, then the order in which METEOR finds them.

    Args:
        pair: [M], the pair of captions.
        module: [M], one of EXACT, STEM, SYNONYM, PARAPHRASE.
        start: [M], the first word in the reference.
        length: [M], how many words of the reference.
        other_start: [M], the first word in the candidate.
        other_length: [M], how many words of the candidate.
    """

    pair: Ints
    module: Ints
    start: Ints
    length: Ints
    other_start: Ints
    other_length: Ints


@dataclass(frozen=True)
class Items:
    """What captions hold, words or phrases: those of caption c are `offsets[c]` to `offsets[c + 1]`.

    Args:
        offsets: [C + 1].
        item: [I], the number of the word or phrase.
        start: [I], its first word in the caption.
        length: [I], how many words it has.
    """

    offsets: Ints
    item: Ints
    start: Ints
    length: Ints

    def grid(self, candidates: Ints, references: Ints) -> tuple[Ints, Ints, Ints]:
        """Every item of the reference with every one of the candidate: their pair, and both indices in `item`."""
        ours, theirs = (self.offsets[each + 1] - self.offsets[each] for each in (candidates, references))
        pair, theirs = _spread(self.offsets[references], theirs)
        row, ours = _spread(self.offsets[candidates][pair], ours[pair])
        return pair[row], ours, theirs[row]


class Relation:
    """A set of pairs of numbers below `size`, each with a rank."""

    def __init__(self, pairs: Sequence[tuple[int, int]], size: int) -> None:
        table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        keys = table[:, 0] * size + table[:, 1]
        self.size = size
        self.ranks = np.argsort(keys, kind="stable")
        self.keys = keys[self.ranks]
        self.hashes = np.zeros(1 << _HASH_BITS, dtype=bool)
        self.hashes[self._hash(keys)] = True

    def find(self, first: Ints, second: Ints) -> tuple[Ints, Ints]:
        """Where (first, second) is in the set, and its rank there: its index in the list that the set was made of."""
        keys = first * self.size + second
        at = np.flatnonzero(self.hashes[self._hash(keys)])  # nearly none are: this spares the search
        index = np.searchsorted(self.keys, keys[at])
        found = self.keys[np.minimum(index, len(self.keys) - 1)] == keys[at] if len(self.keys) else at < 0
        return at[found], self.ranks[index[found]]

    @staticmethod
    def _hash(keys: Ints) -> NDArray[np.uint64]:
        return (keys.astype(np.uint64) * _HASH) >> np.uint64(64 - _HASH_BITS)


class Captions:
    """Distinct captions, prepared for matching.

    Args:
        texts: The words of each caption.
        data: METEOR's tables.
        paraphrases: The file of its paraphrases.
    """

    def __init__(self, texts: Sequence[Sequence[str]], data: MeteorData, paraphrases: Path) -> None:
        vocabulary: dict[str, int] = {}
        item = [vocabulary.setdefault(word, len(vocabulary)) for text in texts for word in text]
        sizes = np.array([len(text) for text in texts], dtype=np.int64)
        start = _spread(np.zeros_like(sizes), sizes)[1]
        self.words = Items(np.cumsum([0, *sizes]), np.array(item, dtype=np.int64), start, np.ones_like(start))
        is_function = np.array([word in data.function_words for word in vocabulary], dtype=bool)
        self.function_before = np.concatenate([[0], is_function[self.words.item].cumsum()])
        self.keys = np.array([_key(word) for word in vocabulary], dtype=np.int64)
        self.stems = np.array([_key(stem(word)) for word in vocabulary], dtype=np.int64)
        whole: dict[bytes, int] = {}
        keys = np.split(self.keys[self.words.item], self.words.offsets[1:-1])
        self.wholes = np.array([whole.setdefault(each.tobytes(), len(whole)) for each in keys], dtype=np.int64)
        self.synonyms = Relation(list(_synonyms(vocabulary, data)), len(vocabulary))
        entries = read_paraphrases(paraphrases, _phrases(texts))
        self.phrases, self.paraphrases = _occurrences(self.words, vocabulary, entries)

    def matches(self, candidates: Ints, references: Ints) -> Matches:
        """All matches of pairs of captions.

        Args:
            candidates: [P] numbers of captions.
            references: [P] numbers of captions.

        Returns:
            Of equal captions only the matches of equal words, as METEOR does.
        """
        parts = [*self._of_words(candidates, references), *self._of_phrases(candidates, references)]
        order, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        pair, _, start, *_ = columns
        sorting = np.lexsort((order, start + pair * (1 + start.max(initial=0))))
        return Matches(*(column[sorting] for column in columns))

    def _of_words(self, candidates: Ints, references: Ints) -> Iterator[tuple[Ints, ...]]:
        pair, ours, theirs = self.words.grid(candidates, references)
        word, other = self.words.item[theirs], self.words.item[ours]
        differ = self.keys[word] != self.keys[other]
        free = differ & (self.wholes[candidates] != self.wholes[references])[pair]
        synonyms, _ = self.synonyms.find(word, other)
        for module, at in (
            (EXACT, np.flatnonzero(~differ)),
            (STEM, np.flatnonzero((self.stems[word] == self.stems[other]) & free)),
            (SYNONYM, synonyms[free[synonyms]]),
        ):
            yield self._columns(self.words, module, pair[at], theirs[at], ours[at], self.words.start[ours[at]])

    def _of_phrases(self, candidates: Ints, references: Ints) -> Iterator[tuple[Ints, ...]]:
        pair, ours, theirs = self.phrases.grid(candidates, references)
        free = (self.wholes[candidates] != self.wholes[references])[pair]
        phrase, other = self.phrases.item[theirs], self.phrases.item[ours]
        # First METEOR goes through the phrases of the reference, from short to long, and looks for the paraphrases of
        # each in the order of the table; then through those of the candidate.
        at, rank = self.paraphrases.find(phrase, other)
        at, rank = at[free[at]], rank[free[at]]
        order = (self.phrases.length[theirs[at]] << 44) + (rank << 20) + self.phrases.start[ours[at]]
        yield self._columns(self.phrases, PARAPHRASE, pair[at], theirs[at], ours[at], order)
        at, rank = self.paraphrases.find(other, phrase)
        at, rank = at[free[at]], rank[free[at]]
        order = (1 << 48) + (self.phrases.start[ours[at]] << 28) + (self.phrases.length[ours[at]] << 24) + rank
        yield self._columns(self.phrases, PARAPHRASE, pair[at], theirs[at], ours[at], order)

    @staticmethod
    def _columns(items: Items, module: int, pair: Ints, theirs: Ints, ours: Ints, order: Ints) -> tuple[Ints, ...]:
        """The order among matches of one start, then the columns of `Matches`."""
        modules = np.full(len(pair), module)
        spans = (items.start[theirs], items.length[theirs], items.start[ours], items.length[ours])
        return (order + (module << 50), pair, modules, *spans)


def _spread(first: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """For rows of `counts` numbers from `first` on: the row of each number, and the number."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) + np.repeat(first - counts.cumsum() + counts, counts)


def _synonyms(vocabulary: dict[str, int], data: MeteorData) -> set[tuple[int, int]]:
    """Both ways, the words that share a synonym set."""
    members: dict[int, list[int]] = defaultdict(list)
    for word, number in vocabulary.items():
        for synset in data.synonym_sets(word):
            members[synset].append(number)
    return {(one, other) for group in members.values() if len(group) > 1 for one in group for other in group}


def _key(word: str) -> int:
    """Java's hash of a string, by which the program compares words: `an.` and `all` are one word to it."""
    value = 0
    for unit in memoryview(word.encode("utf-16-le", "surrogatepass")).cast("H"):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value


def _phrases(texts: Sequence[Sequence[str]]) -> set[bytes]:
    """All neighboring words of the texts, as long as paraphrases can be."""
    phrases: set[bytes] = set()
    for text in texts:
        line = " ".join(text).encode(errors="surrogatepass")
        ends = [*(at for at, byte in enumerate(line) if byte == 32), len(line)]
        starts = [0, *(end + 1 for end in ends[:-1])]
        phrases.update([line[start:end] for at, start in enumerate(starts) for end in ends[at : at + LONGEST_PHRASE]])
    return phrases


def _occurrences(
    words: Items, vocabulary: dict[str, int], entries: Sequence[tuple[bytes, bytes]]
) -> tuple[Items, Relation]:
    """Where the phrases of these entries are in the captions, and which is a paraphrase of which."""
    # a phrase or the beginning of one is a number, that of its beginning one word shorter and its last word lead to it
    states: dict[tuple[int, int], int] = {}
    related = []
    for entry in entries:
        sides = []
        for side in entry:
            reached = 0
            for word in side.decode().split(" "):
                reached = states.setdefault((reached, vocabulary[word]), len(states) + 1)
            sides.append(reached)
        related.append((sides[0], sides[1]))
    if not related:
        nothing = np.zeros(0, dtype=np.int64)
        return Items(np.zeros_like(words.offsets), nothing, nothing, nothing), Relation([], 1)
    size = len(states) + 1
    steps = Relation(list(states), max(size, len(vocabulary)))
    is_phrase = np.zeros(size, dtype=bool)
    is_phrase[np.array(related, dtype=np.int64)] = True
    caption, _ = _spread(words.offsets[:-1], np.diff(words.offsets))
    end = words.offsets[1:][caption]
    at, state = np.arange(len(caption)), np.zeros(len(caption), dtype=np.int64)
    found = []
    for length in range(LONGEST_PHRASE):
        inside = at + length < end[at]
        at, state = at[inside], state[inside]
        goes_on, rank = steps.find(state, words.item[at + length])
        at, state = at[goes_on], rank + 1
        whole = is_phrase[state]
        found.append(np.stack([at[whole], np.full(whole.sum(), length + 1), state[whole]]))
    index, length, item = np.concatenate(found, axis=1)
    order = np.argsort(index, kind="stable")
    offsets = np.searchsorted(index[order], words.offsets)
    return Items(offsets, item[order], words.start[index[order]], length[order]), Relation(related, size)
