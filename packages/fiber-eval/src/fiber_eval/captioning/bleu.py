"""BLEU-1 to BLEU-4 as coco-caption computes it.

Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002; code: `bleu_scorer.py` of
tylin/coco-caption, with `closest` reference lengths, of which the shorter one at a tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fiber_eval.captioning._ngrams import MAX_ORDER, CaptionSet, Floats, Ints

# coco-caption's, so that nothing divides by zero; they show in the tenth digit.
TINY, SMALL = 1e-15, 1e-9


def bleu_score(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
    """BLEU-1 to BLEU-4 of tokenized captions.

    Args:
        candidates: [N] captions, words between spaces; `ptb_tokenize` makes them.
        references: [N], the references of each image, one or more.

    Returns:
        [4], the corpus values from summed counts (not the mean of the images), and [4, N], those of each image; 0..1.

    Raises:
        ValueError: The two do not fit, or an image has no reference.

    Example:
        >>> from fiber_eval.captioning import bleu_score
        >>> corpus, per_image = bleu_score(["a dog runs"], [["a dog runs fast", "the dog"]])
        >>> corpus.round(3).tolist()
        [1.0, 1.0, 1.0, 0.032]
    """
    return bleu_of(CaptionSet(candidates, references))


def bleu_of(captions: CaptionSet) -> tuple[Floats, Floats]:
    """As `bleu_score`, of captions whose n-grams may have been counted already."""
    num_images = len(captions)
    correct = np.zeros((MAX_ORDER, num_images), dtype=np.int64)
    for row, order in enumerate(captions.orders):
        best = np.zeros(len(order.count), dtype=np.int64)  # the largest count in any one reference
        np.maximum.at(best, order.match_candidate, order.count[order.match_reference])
        clipped = np.minimum(best, order.count)
        correct[row] = np.bincount(order.caption, clipped, minlength=len(captions.owner))[:num_images]
    length = captions.lengths[:num_images]
    guessed = np.maximum(length - np.arange(MAX_ORDER)[:, None], 0)
    closest = _closest_lengths(captions)
    corpus = _score(correct.sum(1, keepdims=True), guessed.sum(1, keepdims=True), length.sum(), closest.sum())
    return corpus[:, 0], _score(correct, guessed, length, closest)


def _closest_lengths(captions: CaptionSet) -> Ints:
    """[N], the length of each image's reference that is closest to the candidate's; of two, the shorter."""
    num_images = len(captions)
    owner, lengths = captions.owner[num_images:], captions.lengths[num_images:]
    distance = np.abs(lengths - captions.lengths[owner])
    order = np.lexsort((lengths, distance, owner))
    first = np.concatenate([[0], captions.num_references.cumsum()[:-1]])
    return lengths[order][first]


def _score(correct: Ints, guessed: Ints, length: Ints, closest: Ints) -> Floats:
    """[4, images] from counts of the same shape and [images] lengths."""
    product = np.cumprod((correct + TINY) / (guessed + SMALL), axis=0)
    value = product ** (1 / np.arange(1, MAX_ORDER + 1)[:, None])
    ratio = (length + TINY) / (closest + SMALL)
    return value * np.exp(np.minimum(0, 1 - 1 / ratio))
