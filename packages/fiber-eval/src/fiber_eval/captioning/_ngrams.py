"""The n-grams (n = 1..4) of captions and of their references, counted once for BLEU and CIDEr.

An n-gram is a number: `parent * number of words + last word`, where the parent is the index of its first n - 1 words
among the n-grams one shorter. So all counting is sorting and searching in integer arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_ORDER = 4


@dataclass(frozen=True)
class Order:
    """The n-grams of one length.

    Captions are numbered with the candidates first, then all references, image by image. One entry stands for one
    distinct n-gram of one caption; entries are sorted by caption, then n-gram.

    Args:
        keys: [G], the distinct n-grams, sorted; an n-gram is known by its index here.
        caption: [E], the caption of each entry.
        gram: [E], the n-gram of each entry.
        count: [E], how often it stands in the caption.
        match_candidate: [H], entries of candidates that a reference of the same image has too; one for each pair.
        match_reference: [H], the reference's entry of each pair.
    """

    keys: Ints
    caption: Ints
    gram: Ints
    count: Ints
    match_candidate: Ints
    match_reference: Ints


class CaptionSet:
    """Tokenized candidates with the references of their images; what the metrics of captions start from.

    Args:
        candidates: [N] tokenized captions, one for each image.
        references: [N], the tokenized references of each image, one or more.

    Raises:
        ValueError: No image, another number of reference lists than of candidates, or an image without a reference.
    """

    def __init__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        check_texts(candidates, references)
        self.candidates = list(candidates)
        self.references = [list(texts) for texts in references]
        self.num_references = np.array([len(texts) for texts in self.references])

    def __len__(self) -> int:
        return len(self.candidates)

    @cached_property
    def owner(self) -> Ints:
        """[N + references], the image of each caption."""
        images = np.arange(len(self))
        return np.concatenate([images, np.repeat(images, self.num_references)])

    @cached_property
    def word_indices(self) -> tuple[list[str], Ints, Ints]:
        """The distinct words, the word at each index of all captions in a row, and [captions] their lengths."""
        vocabulary: defaultdict[str, int] = defaultdict()
        vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
        indices: list[int] = []
        lengths = []
        for caption in [*self.candidates, *(text for texts in self.references for text in texts)]:
            words = caption.split()
            lengths.append(len(words))
            indices += [vocabulary[word] for word in words]
        return list(vocabulary), np.array(indices, dtype=np.int64), np.array(lengths)

    @property
    def lengths(self) -> Ints:
        """[N + references], the number of words of each caption."""
        return self.word_indices[2]

    @cached_property
    def orders(self) -> list[Order]:
        """The n-grams of one word, of two, of three and of four."""
        words, word, lengths = self.word_indices
        caption = np.repeat(np.arange(len(lengths)), lengths)
        left = np.repeat(lengths.cumsum(), lengths) - np.arange(len(word))  # words from each index to its caption's end
        index, gram, keys = np.arange(len(word)), word, np.arange(len(words))
        orders = []
        for order in range(1, MAX_ORDER + 1):
            if order > 1:
                fits = left[index] >= order
                index, parent = index[fits], gram[fits]
                keys, gram = np.unique(parent * len(words) + word[index + order - 1], return_inverse=True)
            orders.append(self._count(keys, caption[index], gram))
        return orders

    def _count(self, keys: Ints, caption: Ints, gram: Ints) -> Order:
        num_grams = max(len(keys), 1)
        pairs, count = np.unique(caption * num_grams + gram, return_counts=True)
        caption, gram = pairs // num_grams, pairs % num_grams
        num_candidate_entries = int(np.searchsorted(caption, len(self)))
        wanted = pairs[:num_candidate_entries]  # candidate i belongs to image i, so this is image and n-gram
        of_references = self.owner[caption[num_candidate_entries:]] * num_grams + gram[num_candidate_entries:]
        found = np.searchsorted(wanted, of_references)
        hit = np.zeros(len(found), dtype=bool)
        inside = found < len(wanted)
        hit[inside] = wanted[found[inside]] == of_references[inside]
        return Order(keys, caption, gram, count, found[hit], np.flatnonzero(hit) + num_candidate_entries)


def check_texts(candidates: Sequence[Any], references: Sequence[Sequence[Any]]) -> None:
    """Refuse what cannot be scored.

    Args:
        candidates: [N] captions.
        references: [N], the references of each image.

    Raises:
        ValueError: No image, another number of reference lists than of candidates, or an image without a reference.
    """
    if isinstance(candidates, str) or any(isinstance(texts, str) for texts in references):
        raise ValueError(
            "candidates must be a list of captions and references a list of lists of captions, but a string came in "
            "place of a list; put it into brackets"
        )
    if len(candidates) != len(references) or not len(candidates):
        raise ValueError(
            f"captions need one candidate and one list of references for each image, but {len(candidates)} candidates "
            f"and {len(references)} lists of references came"
        )
    for image, texts in enumerate(references):
        if not len(texts):
            raise ValueError(f"image {image} has no reference; give each image at least one, or leave the image out")
