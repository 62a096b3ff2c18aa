"""METEOR 1.5 in Python, by the tables that its program comes with.

Denkowski and Lavie, "Meteor universal: language specific translation evaluation for any target language", WMT 2014;
code: cmu-mtlab/meteor, and `meteor.py` of tylin/coco-caption, whose options this has. Neither the jar with the tables
nor the file of paraphrases is part of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fiber_eval.captioning._ngrams import Floats, Ints, check_texts
from fiber_eval.captioning.meteor._alignment import statistics_of
from fiber_eval.captioning.meteor._data import PARAPHRASES, MeteorData, find_meteor
from fiber_eval.captioning.meteor._java import java_meteor, question
from fiber_eval.captioning.meteor._matches import Captions
from fiber_eval.captioning.meteor._text import words_of

# Of the task "rank" in English: for exact matches, stems, synonyms and paraphrases.
MODULE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
_CHUNKS, _WORDS_MATCHED = 20, slice(21, 23)


def meteor_score(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    jar: Path | str | None = None,
    java: bool = False,
) -> tuple[float, Floats]:
    """METEOR of tokenized captions; needs `meteor-1.5.jar` and its paraphrases, and downloads neither.

    Args:
        candidates: [N] captions, words between spaces; `ptb_tokenize` makes them.
        references: [N], the references of each image, one or more.
        jar: The jar, with its `data` folder beside it; None looks where `find_meteor` does.
        java: Whether to run the official program (Java 8 or later) in place of reading its tables; slower.

    Returns:
        The corpus value from summed statistics (not the mean of the images), and [N], that of each image; 0..1.

    Raises:
        FileNotFoundError: The jar, its data or Java is missing; the text says where they were sought.
        ValueError: Candidates and references do not fit, or an image has no reference.
        RuntimeError: The Java program failed; the text holds its last words.

    Example:
        >>> from fiber_eval.captioning import meteor_score
        >>> value, per_image = meteor_score(["a dog runs", "a car"], [["a dog is running", "the dog"], ["a blue car"]])
        >>> round(value, 4), per_image.round(4).tolist()
        (0.2776, [0.3124, 0.2443])
    """
    check_texts(candidates, references)
    path = find_meteor(jar)
    if java:
        return java_meteor(candidates, references, path)
    statistics = meteor_statistics(candidates, references, path)
    return float(_scores(_summed(statistics))[0]), _scores(statistics)


def meteor_statistics(candidates: Sequence[str], references: Sequence[Sequence[str]], jar: Path) -> Ints:
    """METEOR's statistics of each image with the best of its references.

    Args:
        candidates: [N] tokenized captions.
        references: [N], the references of each image, one or more.
        jar: The jar, with its `data` folder beside it.

    Returns:
        [N, 23], as the program answers to SCORE; the columns are those of `statistics_of`.
    """
    data = MeteorData.load(jar)
    numbers: dict[str, int] = {}  # of a text
    captions: dict[tuple[str, ...], int] = {}  # of its words

    def number(text: str) -> int:
        if text not in numbers:
            numbers[text] = captions.setdefault(tuple(words_of(text, data.prefixes)), len(captions))
        return numbers[text]

    pairs: list[tuple[int, int]] = []
    sizes = []
    for candidate, texts in zip(candidates, references, strict=True):
        *others, own = map(number, question(candidate, texts).split("|||")[1:])
        pairs += [(own, other) for other in others]
        sizes.append(len(others))
    table = Captions(list(captions), data, jar.parent / PARAPHRASES)
    distinct, index = np.unique(np.array(pairs, dtype=np.int64), axis=0, return_inverse=True)
    statistics = statistics_of(table, distinct[:, 0], distinct[:, 1])
    scores = _scores(statistics)[index.ravel()]
    first = np.cumsum([0, *sizes[:-1]])
    image = np.repeat(np.arange(len(sizes)), sizes)
    best = np.flatnonzero(scores == np.maximum.reduceat(scores, first)[image])
    return statistics[index.ravel()[best[np.diff(image[best], prepend=-1) > 0]]]


def _summed(statistics: Ints) -> Ints:
    """[1, 23]; a caption that is matched whole in one chunk adds no chunk."""
    parts = statistics.copy()
    parts[_is_whole(statistics), _CHUNKS] = 0
    return parts.sum(axis=0, keepdims=True)


def _is_whole(statistics: Ints) -> np.ndarray:
    return (statistics[:, :2] == statistics[:, _WORDS_MATCHED]).all(axis=1) & (statistics[:, _CHUNKS] == 1)


def _scores(statistics: Ints) -> Floats:
    """[N], the value of each row of statistics; the sums in the order of the program, to the last bit."""
    matched = statistics[:, 4:20].reshape(-1, 4, 2, 2)  # module, content or function words, candidate or reference
    weighted = np.zeros((len(statistics), 2))
    for kind, share in enumerate((DELTA, 1 - DELTA)):
        for module, weight in enumerate(MODULE_WEIGHTS):
            weighted += matched[:, module, kind] * weight * share
    function = statistics[:, 2:4]
    lengths = DELTA * (statistics[:, :2] - function) + (1 - DELTA) * function
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty caption, or no match: 0 in the end
        precision, recall = (weighted / lengths).T
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragments = statistics[:, _CHUNKS] / (statistics[:, _WORDS_MATCHED].sum(axis=1) / 2)
        fragments[_is_whole(statistics)] = 0
        return np.nan_to_num((mean * (1 - GAMMA * fragments**BETA)).clip(min=0), nan=0.0)
