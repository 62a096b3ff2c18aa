"""ROUGE-L as coco-caption computes it.

Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; code: `rouge.py` of tylin/coco-caption: the best
precision and the best recall over the references are taken apart from each other, then combined with beta = 1.2, and
words are what stands between single spaces, so that two spaces make an empty word.
The longest common subsequence is found by bit-parallel addition (Hyyrö, "Bit-parallel LCS-length computation
revisited", 2004), a word of the reference at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fiber_eval.captioning._ngrams import Floats, check_texts

BETA = 1.2


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """ROUGE-L of tokenized captions.

    Args:
        candidates: [N] captions, words between spaces; `ptb_tokenize` makes them.
        references: [N], the references of each image, one or more.

    Returns:
        The mean over images, and [N], the value of each image; 0..1.

    Raises:
        ValueError: The two do not fit, or an image has no reference.

    Example:
        >>> from fiber_eval.captioning import rouge_l
        >>> mean, per_image = rouge_l(["a dog runs"], [["a dog runs fast", "the dog"]])
        >>> round(mean, 4)
        0.8356
    """
    check_texts(candidates, references)
    pairs = zip(candidates, references, strict=True)
    per_image = np.array([_rouge_l(candidate, texts) for candidate, texts in pairs])
    return float(per_image.mean()), per_image


def _rouge_l(candidate: str, references: Sequence[str]) -> float:
    words = candidate.split(" ")
    bits: dict[str, int] = {}  # of each word: those of the indices where it stands
    for index, word in enumerate(words):
        bits[word] = bits.get(word, 0) | 1 << index
    precision = recall = 0.0
    all_bits = (1 << len(words)) - 1
    for reference in references:
        reference_words = reference.split(" ")
        free = all_bits
        for word in reference_words:
            if word in bits:
                taken = free & bits[word]
                free = (free + taken) | (free - taken)
        common = len(words) - (free & all_bits).bit_count()
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(reference_words))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
