"""Searching a folder of images by a text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fiber_data import BrokenImageError, FiberProcessor
from fiber_heads.search import SearchModel, search_scores
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Match:
    """An image and how well it fits.

    Attributes:
        path: The image's file.
        score: Cosine in [-1, 1], or the matcher's logit after re-ranking.
    """

    path: Path
    score: float


@torch.inference_mode()
def retrieve(
    model: SearchModel,
    processor: FiberProcessor,
    images: Sequence[Path],
    query: str,
    top: int = 5,
    rerank: int = 0,
    batch_size: int = 32,
) -> list[Match]:
    """The images that fit a text best.

    Args:
        model: Trained with contrast, and with matching if `rerank` is used.
        processor: The model's own.
        images: Files to search; those that cannot be read are left out with a warning.
        query: What to look for.
        top: How many to return.
        rerank: How many of the best to re-rank by matching with the text, which is slower and sharper; these are read
            again.
        batch_size: Images encoded at a time.

    Returns:
        At most `top` matches, best first; re-ranked ones come before the others.

    Raises:
        ValueError: The query is empty, or no image could be read.
    """
    if not query.strip():
        raise ValueError("the query is empty; say what to look for")
    text = model.backbone.begin_text(**{name: value.to(model.device) for name, value in processor(text=query).items()})
    paths: list[Path] = []
    features = []
    for start in tqdm(range(0, len(images), batch_size), desc="encoding", unit="batch", disable=None):
        good, pixels = _read(processor, images[start : start + batch_size])
        if good:
            begun = model.begin_images(pixels, batch_size=batch_size)
            features.append(model.image_features(begun, batch_size=batch_size))
            paths += good
    if not paths:
        raise ValueError(f"none of the {len(images)} images could be read; the first is {images[0]}")
    cosines = torch.cat(features) @ model.text_features(text).T
    shown = cosines.squeeze(1).tolist()

    def rerank_pairs(pairs: Tensor) -> Tensor:
        for part in pairs[:, 0].split(batch_size):  # of all images only these are read and begun again
            best = torch.cat([processor(images=paths[row])["pixel_values"] for row in part.tolist()])
            begun = model.begin_images(best, batch_size=batch_size)
            logits = model.score_pairs(begun, text, torch.stack([torch.arange(len(part)), torch.zeros_like(part)], 1))
            for row, logit in zip(part.tolist(), logits.tolist(), strict=True):
                shown[row] = logit
        return torch.tensor([shown[row] for row in pairs[:, 0].tolist()], dtype=torch.float64)

    scores = search_scores(cosines, rerank_pairs if rerank else None, top_k=rerank, queries="texts").squeeze(1)
    return [Match(paths[row], shown[row]) for row in scores.argsort(descending=True)[:top].tolist()]


def _read(processor: FiberProcessor, paths: Sequence[Path]) -> tuple[list[Path], Tensor]:
    good, pixels = [], []
    for path in paths:
        try:
            pixels.append(processor(images=path)["pixel_values"])
            good.append(path)
        except BrokenImageError as error:
            warnings.warn(f"{error}; left out", stacklevel=3)
    return good, torch.cat(pixels) if pixels else torch.empty(0)
