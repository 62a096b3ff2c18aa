"""CIDEr and CIDEr-D, over a corpus and as a reward for training.

Vedantam et al., "CIDEr: consensus-based image description evaluation", CVPR 2015; code: `cider_scorer.py` of
tylin/coco-caption and `ciderD_scorer.py` of vrama91/cider. What tables call CIDEr is CIDEr-D: counts are clipped and a
difference in length costs. Plain CIDEr is another, higher number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fiber_eval.captioning._ngrams import MAX_ORDER, CaptionSet, Floats, Ints, Order
from fiber_eval.files import shown

SIGMA = 6.0
SCALE = 10.0


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """CIDEr-D of tokenized captions: the "CIDEr" of coco-caption, of leaderboards and of papers.

    The weight of an n-gram depends on all images given: a subset has other values, and a single image has 0.

    Args:
        candidates: [N] captions, words between spaces; `ptb_tokenize` makes them.
        references: [N], the references of each image, one or more.

    Returns:
        The mean over images, and [N], the value of each image; 0..10.

    Raises:
        ValueError: The two do not fit, or an image has no reference.

    Example:
        >>> from fiber_eval.captioning import cider_d
        >>> mean, per_image = cider_d(["a dog runs", "a red car"], [["a dog runs", "the dog"], ["a blue car"]])
        >>> round(mean, 4), per_image.round(4).tolist()
        (2.8082, [4.3664, 1.25])
    """
    return cider_of(CaptionSet(candidates, references), clipped=True)


def cider_plain(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
    """CIDEr without clipping and without a penalty of length: not the number that tables call CIDEr.

    Args:
        candidates: [N] captions, as in `cider_d`.
        references: [N], the references of each image.

    Returns:
        The mean over images, and [N], the value of each image; 0..10.

    Raises:
        ValueError: The two do not fit, or an image has no reference.

    Example:
        >>> from fiber_eval.captioning import cider_plain
        >>> mean, per_image = cider_plain(["a dog runs", "a red car"], [["a dog runs", "the dog"], ["a blue car"]])
        >>> round(mean, 4), per_image.round(4).tolist()
        (2.8125, [4.375, 1.25])
    """
    return cider_of(CaptionSet(candidates, references), clipped=False)


def cider_of(captions: CaptionSet, *, clipped: bool) -> tuple[float, Floats]:
    """CIDEr-D if `clipped`, else plain CIDEr, of captions whose n-grams may have been counted already."""
    frequencies = [_document_frequency(captions, order) for order in captions.orders]
    per_image = _scores(captions, frequencies, len(captions), clipped=clipped)
    return float(per_image.mean()), per_image


class DocumentFrequencies:
    """The number of images of a corpus in which each n-gram stands: the weights of a CIDEr-D reward.

    Make them once of the tokenized references of the training split with `count`, save them, load them for training.

    Args:
        counts: An n-gram as a tuple of 1 to 4 words, and in how many images it stands.
        num_images: How many images the corpus has; a weight is log(num_images) - log(count).

    Raises:
        ValueError: An n-gram is no tuple of 1 to 4 words, or `num_images` is not positive.

    Example:
        >>> from fiber_eval.captioning import DocumentFrequencies, cider_d_reward
        >>> frequencies = DocumentFrequencies.count([["a dog runs", "the dog"], ["a blue car"], ["a cat"]])
        >>> cider_d_reward(["a dog", "a blue car"], [["a dog runs", "the dog"], ["a blue car"]], frequencies).round(3)
        array([2.627, 7.5  ])
    """

    def __init__(self, counts: Mapping[tuple[str, ...], float], num_images: float) -> None:
        for gram in counts:
            if not isinstance(gram, tuple) or not 1 <= len(gram) <= MAX_ORDER:
                raise ValueError(f"an n-gram must be a tuple of 1 to {MAX_ORDER} words, but {shown(gram)} came")
        if not num_images > 0:
            raise ValueError(f"num_images must be a positive number, but is {num_images}")
        # Each beginning of an n-gram is an n-gram too: it gets an index, with no image if it has no count.
        grams = {gram[:length] for gram in counts for length in range(1, len(gram) + 1)}
        words = sorted({word for gram in grams for word in gram})
        index: dict[tuple[str, ...], int] = {(word,): number for number, word in enumerate(words)}
        keys = [np.arange(len(words))]
        values = [np.array([counts.get((word,), 0.0) for word in words], dtype=np.float64)]
        for length in range(2, MAX_ORDER + 1):
            longer = [gram for gram in grams if len(gram) == length]
            key = {gram: index[gram[:-1]] * len(words) + index[gram[-1:]] for gram in longer}
            longer.sort(key=key.__getitem__)
            index.update({gram: number for number, gram in enumerate(longer)})
            keys.append(np.array([key[gram] for gram in longer], dtype=np.int64))
            values.append(np.array([counts.get(gram, 0.0) for gram in longer], dtype=np.float64))
        self._set(words, keys, values, num_images)

    def _set(self, words: list[str], keys: list[Ints], values: list[Floats], num_images: float) -> None:
        self.words, self.keys, self.values, self.num_images = words, keys, values, float(num_images)
        self._index = {word: number for number, word in enumerate(words)}

    @classmethod
    def count(cls, references: Sequence[Sequence[str]]) -> DocumentFrequencies:
        """Count a corpus.

        Args:
            references: The tokenized references of each image. Tokens such as an end-of-sentence mark are words like
                others; where the reward's captions have one, these must.

        Returns:
            The frequencies of all n-grams of the references.

        Raises:
            ValueError: There is no image, or one without a reference.
        """
        captions = CaptionSet([""] * len(references), references)
        self = cls.__new__(cls)
        values = [_document_frequency(captions, order) for order in captions.orders]
        self._set(captions.word_indices[0], [order.keys for order in captions.orders], values, len(references))
        return self

    def save(self, path: Path | str) -> None:
        """Write the frequencies to one `.npz` file of numbers and text, without pickle.

        Args:
            path: The file to write; an existing one is replaced.
        """
        arrays: dict[str, Any] = {f"keys_{n}": keys for n, keys in enumerate(self.keys, 1)}
        arrays |= {f"values_{n}": values for n, values in enumerate(self.values, 1)}
        words = np.frombuffer("\n".join(self.words).encode(), dtype=np.uint8)
        with Path(path).open("wb") as file:
            np.savez_compressed(file, words=words, num_images=self.num_images, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> DocumentFrequencies:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The frequencies.

        Raises:
            ValueError: The file is no such file.
        """
        self = cls.__new__(cls)
        try:
            with np.load(path, allow_pickle=False) as file:
                words = bytes(file["words"]).decode().split("\n") if len(file["words"]) else []
                keys, values = ([file[f"{name}_{n}"] for n in range(1, MAX_ORDER + 1)] for name in ("keys", "values"))
                self._set(words, keys, values, float(file["num_images"]))
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path} holds no document frequencies ({error}); write it with DocumentFrequencies.save"
            ) from error
        return self

    def look_up(self, captions: CaptionSet) -> list[Floats]:
        """The frequency of every n-gram of some captions.

        Args:
            captions: The captions.

        Returns:
            For each order, [G] the frequency of each of its n-grams; 0 for one that is not in the corpus.
        """
        words = captions.word_indices[0]
        word = np.array([self._index.get(text, -1) for text in words], dtype=np.int64)
        index = word
        found = [_take(self.values[0], index)]
        for order, keys, values in zip(captions.orders[1:], self.keys[1:], self.values[1:], strict=True):
            parent, last = np.divmod(order.keys, max(len(words), 1))
            wanted = index[parent] * len(self.words) + word[last]
            wanted[(index[parent] < 0) | (word[last] < 0)] = -1
            index = np.searchsorted(keys, wanted)
            index[index == len(keys)] = -1
            index[_take(keys, index, absent=-2) != wanted] = -1
            found.append(_take(values, index))
        return found


def cider_d_reward(
    candidates: Sequence[str], references: Sequence[Sequence[str]], frequencies: DocumentFrequencies
) -> Floats:
    """CIDEr-D of a batch with the document frequencies of a corpus: the reward of self-critical training.

    Nothing is kept from call to call, and no candidate's value depends on another's. Rennie et al., "Self-critical
    sequence training for image captioning", CVPR 2017; code: `CiderD` of ruotianluo/cider.

    Args:
        candidates: [B] captions, words between spaces, tokenized as the corpus was.
        references: [B], the references of each candidate's image; repeat them for several samples of one image.
        frequencies: Of the training corpus.

    Returns:
        [B], the value of each candidate; 0..10.

    Raises:
        ValueError: Candidates and references do not fit, or an image has no reference.

    Example:
        >>> from fiber_eval.captioning import DocumentFrequencies, cider_d_reward
        >>> frequencies = DocumentFrequencies.count([["a dog runs"], ["a blue car"], ["a cat"]])
        >>> cider_d_reward(["a blue car", "a car"], [["a blue car"]] * 2, frequencies).round(3)
        array([7.5  , 1.743])
    """
    captions = CaptionSet(candidates, references)
    return _scores(captions, frequencies.look_up(captions), frequencies.num_images, clipped=True)


def _document_frequency(captions: CaptionSet, order: Order) -> Floats:
    """[G], in how many images' references each n-gram stands."""
    num_grams = max(len(order.keys), 1)
    is_reference = order.caption >= len(captions)
    pairs = captions.owner[order.caption[is_reference]] * num_grams + order.gram[is_reference]
    pairs.sort()  # numpy.unique hashes, which takes three times as long
    distinct = pairs[np.diff(pairs, prepend=-1) > 0]
    return np.bincount(distinct % num_grams, minlength=len(order.keys)).astype(np.float64)


def _scores(captions: CaptionSet, frequencies: list[Floats], num_images: float, *, clipped: bool) -> Floats:
    """[N], the value of each candidate."""
    size, owner = len(captions.owner), captions.owner
    total = np.zeros(size)  # an entry for each caption, filled for references: each against its image's candidate
    for order, frequency in zip(captions.orders, frequencies, strict=True):
        weight = np.log(num_images) - np.log(np.maximum(frequency, 1))
        value = order.count * weight[order.gram]
        norm = np.sqrt(np.bincount(order.caption, value**2, minlength=size))
        own, other = value[order.match_candidate], value[order.match_reference]
        product = (np.minimum(own, other) if clipped else own) * other
        similarity = np.bincount(order.caption[order.match_reference], product, minlength=size).astype(np.float64)
        norms = norm[owner] * norm
        total += np.divide(similarity, norms, out=similarity, where=norms != 0)
    if clipped:
        length = np.maximum(captions.lengths - 1, 0)  # the official code counts pairs of words
        total *= np.exp(-((length[owner] - length) ** 2) / (2 * SIGMA**2))
    per_image = np.bincount(owner[len(captions) :], total[len(captions) :], minlength=len(captions))
    return per_image / captions.num_references / MAX_ORDER * SCALE


def _take(values: np.ndarray, indices: Ints, absent: float = 0) -> np.ndarray:
    """`values[indices]`, and `absent` where an index is negative."""
    found = np.full(len(indices), absent, dtype=values.dtype)
    known = indices >= 0
    found[known] = values[indices[known]]
    return found
