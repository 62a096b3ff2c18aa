"""What a search found: images that fit a text, texts that fit an image, best first.

Shapes: N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from torch import Tensor

from fiber_heads.processing import Image, image_name
from fiber_heads.results import Result, Results


@dataclass(frozen=True)
class Match(Result):
    """An image and how well it fits a text.

    Attributes:
        image: As it was given.
        score: Cosine in [-1, 1], or the matcher's logit where it was re-ranked.
        index: Its place among the images.
    """

    image: Image = field(compare=False)
    score: float
    index: int

    def __str__(self) -> str:
        return f"{image_name(self.image) or f'image {self.index}'} ({self.score:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of the image its name, None if it has none."""
        return {"image": image_name(self.image) or None, "score": self.score, "index": self.index}

    def row(self) -> dict[str, Any]:
        """The file's name, or the place of an image that has none, and the score."""
        return {"image": PurePath(image_name(self.image)).name or self.index, "score": self.score}


@dataclass(frozen=True)
class TextMatch(Result):
    """A text and how well it fits an image.

    Attributes:
        text: As it was given.
        score: Cosine in [-1, 1], or the matcher's logit where it was re-ranked.
        index: Its place among the texts.
    """

    text: str
    score: float
    index: int

    def __str__(self) -> str:
        return f"{self.text} ({self.score:.3f})"

    def row(self) -> dict[str, Any]:
        """Text and score."""
        return {"text": self.text, "score": self.score}


def best_images(
    images: Sequence[Image], scores: Tensor, top_k: int, *, told: Tensor | None = None, shown: bool = True
) -> Results[Match]:
    """The images with the highest scores, best first.

    Args:
        images: The candidates.
        scores: (N,), by which they are ranked.
        top_k: How many to give; all if there are fewer.
        told: (N,), what to say of each in place of its score.
        shown: Whether a notebook shows the images.
    """
    rows = _best(scores, top_k)
    values = (scores if told is None else told)[rows].tolist()
    found = [Match(images[row], score, row) for row, score in zip(rows, values, strict=True)]
    return Results(found, images=[(match.image,) for match in found if shown])


def best_texts(texts: Sequence[str], scores: Tensor, top_k: int) -> Results[TextMatch]:
    """The texts with the highest scores (N,), best first, at most `top_k`."""
    rows = _best(scores, top_k)
    return Results(TextMatch(texts[row], score, row) for row, score in zip(rows, scores[rows].tolist(), strict=True))


def _best(scores: Tensor, top_k: int) -> list[int]:
    return scores.topk(min(top_k, len(scores))).indices.tolist()
