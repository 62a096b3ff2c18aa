"""What SPICE does after parsing: tuples of captions into scene graphs, and graphs into scores.

Anderson et al., "SPICE: semantic propositional image caption evaluation", ECCV 2016; code: peteanderson80/SPICE (AGPL),
of which this holds nothing: it follows its output. What differs: where a new object is equally close to two objects
of a graph, the older one takes it; in Java the memory address decides (1 of the 1000 images of coco-caption's sample).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fiber_eval.captioning._wordnet import WordNet

# (object,), (object, attribute) or (subject, relation, object), of words in lower case.
SceneTuple = tuple[str, ...]

# Our own lists, which agree with the official ones on all words of coco-caption's sample.
_COLORS = "beige black blue brown cream dark gray green grey light maroon orange pink purple red violet white yellow"
_NUMBERS = "one two three four five six seven eight nine ten"
_SIZES = (
    "ample baby behemoth big broad bulky colossal compact curvy diminutive elephantine enormous epic expansive "
    "extensive extra-large fat full-scale full-size gargantuan giant gigantic grand great heavy hefty huge hulking "
    "humongous immense itsy-bitsy king-size large lean lilliputian little mammoth massive micro microscopic mini "
    "miniature minuscule minute monstrous monumental narrow obese oversized petite puny short skinny slender slim "
    "small squat stout substantial tall teeny thick thin tiny titanic towering vast voluminous whopping wide"
)
COLORS, NUMBERS, SIZES = (frozenset(words.split()) for words in (_COLORS, _NUMBERS, _SIZES))
CATEGORIES: dict[str, Callable[[SceneTuple], bool]] = {
    "All": lambda _: True,
    "Object": lambda words: len(words) == 1,
    "Attribute": lambda words: len(words) == 2,
    "Relation": lambda words: len(words) == 3,
    "Color": lambda words: len(words) == 2 and words[1] in COLORS,
    "Cardinality": lambda words: len(words) == 2 and words[1] in NUMBERS,
    "Size": lambda words: len(words) == 2 and words[1] in SIZES,
}


@dataclass(frozen=True)
class ImageScore:
    """SPICE of one image."""

    scores: dict[str, dict[str, float]]
    """For each of `CATEGORIES` `pr`, `re`, `f` (0..1; NaN where the references have no such tuple) and the counts."""
    test_tuples: list[tuple[SceneTuple, bool]]
    """The tuples of the candidate, and whether the references have them."""
    ref_tuples: list[SceneTuple]
    """The tuples of all references together; words that were merged have slashes between them."""

    @property
    def f(self) -> float:
        """SPICE itself."""
        return self.scores["All"]["f"]


def score_tuples(candidate: Iterable[SceneTuple], references: Iterable[Iterable[SceneTuple]]) -> ImageScore:
    """SPICE of one image from the tuples of its captions.

    Args:
        candidate: The tuples of the candidate, in the order in which they were parsed.
        references: Those of each reference; all go into one graph.

    Returns:
        The image's scores, named as in the official output.

    Raises:
        ValueError: A tuple has another length than 1, 2 or 3.

    Example:
        >>> from fiber_eval.captioning.spice._graph import score_tuples
        >>> references = [[("man",), ("man", "ride", "motorcycle")], [("bike", "red"), ("bike",)]]
        >>> result = score_tuples([("man",), ("man", "young"), ("motorcycle",)], references)
        >>> round(result.f, 4), sorted(result.ref_tuples)
        (0.5714, [('man',), ('man', 'ride', 'motorcycle/bike'), ('motorcycle/bike',), ('motorcycle/bike', 'red')])
    """
    test, reference = _Graph(), _Graph()
    for words in candidate:
        test.add(words)
    for caption in references:
        for words in caption:
            reference.add(words)
    named_test = [(_names(concepts), concepts) for concepts in test.tuples()]
    named_reference = [(_names(concepts), concepts) for concepts in reference.tuples()]
    scores, truths = {}, {}
    for category, belongs in CATEGORIES.items():
        wanted = [concepts for names, concepts in named_reference if belongs(names)]
        truths[category] = [
            any(_alike(concepts, other) for other in wanted) for names, concepts in named_test if belongs(names)
        ]
        scores[category] = _f_score(truths[category], len(wanted))
    test_tuples = [(names, is_true) for (names, _), is_true in zip(named_test, truths["All"], strict=True)]
    return ImageScore(scores, test_tuples, [names for names, _ in named_reference])


class _Concept:
    """Words taken for one thing: those of a node, an attribute or a relation."""

    def __init__(self, word: str, wordnet: WordNet) -> None:
        synsets, of_stem = wordnet.lookup(word)
        self.words = {word: None}  # a set that keeps the order
        self.synsets = synsets | of_stem

    def equals(self, other: _Concept) -> bool:
        return self.words.keys() == other.words.keys() and self.synsets == other.synsets

    def closeness(self, other: _Concept) -> float:
        """1 with a word in common, else the common part of the synonym sets; 0..1."""
        if not self.words.keys().isdisjoint(other.words):
            return 1.0
        common = len(self.synsets & other.synsets)
        return common / len(self.synsets | other.synsets) if common else 0.0

    def resembles(self, other: _Concept) -> bool:
        return not self.words.keys().isdisjoint(other.words) or not self.synsets.isdisjoint(other.synsets)

    def absorb(self, other: _Concept) -> None:
        self.words |= other.words
        self.synsets |= other.synsets


class _Graph:
    """Objects, and attributes and relations between them, without synonyms."""

    def __init__(self) -> None:
        self.wordnet = WordNet.load()
        self.objects: list[_Concept] = []
        self.attributes: dict[_Concept, list[_Concept]] = {}
        self.relations: dict[tuple[_Concept, _Concept], list[_Concept]] = {}

    def add(self, words: SceneTuple) -> None:
        if not 1 <= len(words) <= 3:
            raise ValueError(f"a tuple must have 1, 2 or 3 parts, but {words!r} has {len(words)}")
        subject = self._object(words[0])
        if len(words) == 2:
            self._join(self.attributes.setdefault(subject, []), words[1])
        elif len(words) == 3:
            pair = subject, self._object(words[2])
            self._join(self.relations.setdefault(pair, []), words[1].removeprefix("be "))

    def tuples(self) -> list[tuple[_Concept, ...]]:
        """All objects, then all attributes, then all relations."""
        result: list[tuple[_Concept, ...]] = [(concept,) for concept in self.objects]
        result += [(owner, concept) for owner, concepts in self.attributes.items() for concept in concepts]
        result += [(first, concept, last) for (first, last), all_ in self.relations.items() for concept in all_]
        return result

    def _object(self, word: str) -> _Concept:
        new = _Concept(word, self.wordnet)
        for known in self.objects:
            if known.equals(new):
                return known
        closest = max(self.objects, key=new.closeness, default=None)
        if closest is not None and closest.closeness(new) > 0:
            closest.absorb(new)
            return closest
        self.objects.append(new)
        return new

    def _join(self, concepts: list[_Concept], word: str) -> None:
        new = _Concept(word, self.wordnet)
        if any(known.equals(new) for known in concepts):
            return
        for known in concepts:
            if known.resembles(new):
                known.absorb(new)
                return
        concepts.append(new)


def _alike(first: Sequence[_Concept], second: Sequence[_Concept]) -> bool:
    return len(first) == len(second) and all(one.resembles(other) for one, other in zip(first, second, strict=True))


def _names(concepts: Iterable[_Concept]) -> SceneTuple:
    return tuple("/".join(concept.words) for concept in concepts)


def _f_score(truths: Sequence[bool], num_wanted: int) -> dict[str, float]:
    true, found = sum(truths), len(truths)
    counts = {"tp": float(true), "fp": float(found - true), "fn": float(num_wanted - true)}
    if not num_wanted:
        return {"pr": math.nan, "re": math.nan, "f": math.nan, **counts}
    precision = true / found if found else 0.0
    recall = true / num_wanted
    f = 2 * precision * recall / (precision + recall) if true else 0.0
    return {"pr": precision, "re": recall, "f": f, **counts}
