"""Searching a folder of images by a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from fiber_data.urls import is_url
from fiber_heads import Match, Results
from fiber_heads.ranking import search_scores
from fiber_heads.search import SearchModel
from torch import Tensor

from fiber_train.inputs import encode_inputs


def ranked(names: Sequence[str], scores: Tensor, top: int, shown: Sequence[float] | None = None) -> Results[Match]:
    """The images with the highest scores (N,), best first; with other scores to show, if these are for ranking only."""
    told = scores.tolist() if shown is None else shown
    rows = scores.topk(min(top, len(names))).indices.tolist()
    found = [Match(names[row] if is_url(names[row]) else Path(names[row]), told[row], row) for row in rows]
    return Results(found, images=[(match.image,) for match in found])


@torch.inference_mode()
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
    text = model.begin_texts(query)
    cosines = features @ model.text_features(text).T.float().cpu()
    shown = cosines.squeeze(1).tolist()

    def match(pairs: Tensor) -> Tensor:
        for part in pairs[:, 0].split(batch_size):  # of all images only these are begun again
            begun = model.begin_images([names[row] for row in part.tolist()], batch_size=batch_size)
            for row, logit in zip(part.tolist(), model.score_pairs(begun, text)[:, 0].tolist(), strict=True):
                shown[row] = logit
        return torch.tensor([shown[row] for row in pairs[:, 0].tolist()], dtype=torch.float64)

    scores = search_scores(cosines, match if rerank else None, top_k=rerank, queries="texts").squeeze(1)
    return ranked(names, scores, top, shown)
