"""Searching images by a text: of a folder, of an index, of the demo's page, all ranked here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from fiber_backbone import ImageState
from fiber_data.urls import is_url
from fiber_heads import Match, Results
from fiber_heads.matches import best_images
from fiber_heads.ranking import search_scores
from fiber_heads.search import SearchModel
from torch import Tensor

from fiber_train.inputs import encode_inputs


@torch.inference_mode()
def rank_images(
    model: SearchModel,
    images: Sequence[str | Path],
    features: Tensor | None,
    query: str,
    *,
    top: int = 5,
    rerank: int = 0,
    begin: Callable[[Tensor], ImageState] | None = None,
    batch_size: int = 32,
) -> Results[Match]:
    """The images that fit a text best, by their features and, of the best, by the matcher.

    Args:
        model: With a contrastive head, or, if `features` is None, a matching head, by which all are ranked then.
        images: N paths or addresses.
        features: (N, D) float32 on the host, unit vectors.
        query: What to look for.
        top: How many to return.
        rerank: How many of the best to re-rank by the matcher.
        begin: Gives the begun images of rows (R,); by default they are read again.
        batch_size: Images re-ranked at a time.

    Returns:
        At most `top` matches, best first, with their cosines; re-ranked ones, with their logits, come before the
        others.

    Raises:
        ValueError: The query is empty.
    """
    if not query.strip():
        raise ValueError("the query is empty; say what to look for")
    text = model.begin_texts(query)
    cosines = None if features is None else features @ model.text_features(text).T.float().cpu()
    told = torch.zeros(len(images), dtype=torch.float64) if cosines is None else cosines.squeeze(1).double()

    def read_again(rows: Tensor) -> ImageState:
        return model.begin_images([images[row] for row in rows.tolist()], batch_size=batch_size)

    def match(pairs: Tensor) -> Tensor:
        for rows in pairs[:, 0].split(batch_size):
            told[rows] = model.score_pairs((begin or read_again)(rows), text)[:, 0].double().cpu()
        return told[pairs[:, 0]]

    second = match if rerank or cosines is None else None
    scores = search_scores(cosines, second, shape=(len(images), 1), top_k=rerank, queries="texts")
    return best_images(images, scores.squeeze(1), top, told=told)


def as_files(names: Sequence[str]) -> list[str | Path]:
    """Names of images as paths; addresses as they are."""
    return [name if is_url(name) else Path(name) for name in names]


def retrieve(
    model: SearchModel,
    images: Sequence[str | Path],
    query: str,
    *,
    top: int = 5,
    rerank: int = 0,
    batch_size: int = 32,
) -> Results[Match]:
    """The images that fit a text best, of as many as there are: only their features are kept.

    Args:
        model: Trained with contrast, and with matching if `rerank` is used; with its processor.
        images: Paths or addresses; those that cannot be read are named on standard error and left out.
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
    names, features = encode_inputs(model, list(map(str, images)), batch_size)
    return rank_images(model, as_files(names), features, query, top=top, rerank=rerank, batch_size=batch_size)
