"""Recall of image-text retrieval as measures, and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import comb
from typing import SupportsFloat

import torch
from fiber_eval import retrieval_recall

from fiber_train.evaluation import Evaluation, Measure

KS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")


def recall_name(direction: str, k: int) -> str:
    """What `fiber_eval` calls a recall."""
    return f"{direction}_recall@{k}"


def recall_measures(numbers: Mapping[str, SupportsFloat], num_captions: Iterable[int]) -> list[Measure]:
    """What `fiber_eval.retrieval_recall` gave, recalls beside those of a random order.

    Args:
        numbers: Recalls in 0..1 and ranks by name.
        num_captions: Of each image that was searched.
    """
    counts = Counter(num_captions)
    chance = {recall_name(direction, k): _chance(direction, k, counts) for direction in DIRECTIONS for k in KS}
    ranks = {f"{direction}_{kind}_rank" for direction in DIRECTIONS for kind in ("median", "mean")}
    return [
        Measure(name, float(value), chance.get(name), "chance" * (name in chance), higher_is_better=name not in ranks)
        for name, value in numbers.items()
    ]


def _chance(direction: str, k: int, counts: Counter[int]) -> float:
    """Recall of a random order: an image has several captions, of which one among the first `k` is enough."""
    num_images = counts.total()
    if direction == "text_to_image":
        return min(1.0, k / num_images)
    num_texts = sum(own * images for own, images in counts.items())
    first = min(k, num_texts)
    missed = sum(images * (comb(num_texts - own, first) / comb(num_texts, first)) for own, images in counts.items())
    return 1 - missed / num_images


def recall_preview() -> list[Measure]:
    """What `recall_measures` gives, of one image and its caption."""
    return recall_measures(retrieval_recall(torch.zeros(1, 1), [0], ks=KS), [1])


def recalls(found: Evaluation, direction: str) -> list[Measure]:
    """The recalls at `KS` of a direction; empty if none was measured."""
    names = [recall_name(direction, k) for k in KS]
    return [found.find(name) for name in names if name in found]


def recall_lines(found: Evaluation) -> list[str]:
    """Lines with both directions' recalls beside chance."""
    lines = [f"{found.counts['num_images']:,} images, {found.counts['num_texts']:,} captions"]
    for direction in DIRECTIONS:
        shown = [
            f"R@{k} {measure.value:.3f} (chance {measure.baseline:.3f})"
            for k, measure in zip(KS, recalls(found, direction), strict=False)
        ]
        if shown:
            lines.append(f"{direction.replace('_', ' '):14} {'   '.join(shown)}")
    return lines
