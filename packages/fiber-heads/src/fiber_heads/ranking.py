"""Scores of all pairs in two steps: a cheap one ranks everything, an expensive one re-ranks the best.

A matrix of scores has a row for each image and a column for each text; higher is better.

Shapes: N images, M texts, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

PAIRS = 65_536  # that are listed at a time, 1 MiB

Queries = Literal["both", "images", "texts"]


def search_scores(
    first: Tensor | None,
    score_pairs: Callable[[Tensor], Tensor] | None,
    *,
    shape: tuple[int, int] | None = None,
    top_k: int = 16,
    queries: Queries = "both",
) -> Tensor:
    """Scores of all pairs by a first ranking, a re-ranking of its best, or both.

    Args:
        first: (N, M) scores of the first step, for instance cosines; None: every pair is scored.
        score_pairs: Gives the second step's scores (P,), any real numbers, of pairs (P, 2) int64, row of the image and
            of the text; None: the first step is all.
        shape: (N, M), needed only without `first`.
        top_k: How many candidates of each query to re-rank, all if there are fewer; 0: every pair.
        queries: Who asks: each image for its best texts, each text for its best images, or both, where a pair is
            re-ranked if either side asks for it.

    Returns:
        (N, M). With both steps in float64: where a pair was re-ranked its second score, elsewhere the first one,
        moved down so far that it lies below all of those.

    Raises:
        ValueError: There is no step, `top_k` is negative or `queries` unknown.
    """
    if score_pairs is None:
        if first is None:
            raise ValueError("there is nothing to search by; give scores of a first step, score_pairs, or both")
        return first
    if first is None:
        if shape is None:
            raise ValueError("without scores of a first step give shape, the numbers of images and texts")
        rows, columns = (torch.arange(size) for size in shape)
        blocks = rows.split(max(1, PAIRS // max(1, len(columns))))
        return torch.cat([score_pairs(torch.cartesian_prod(block, columns)) for block in blocks]).view(shape)
    again = rerank_candidates(first, top_k, queries)
    reranked = torch.cat([score_pairs(pairs) for pairs in again.nonzero().split(PAIRS)])
    return place_reranked(first, again, reranked)


def rerank_candidates(scores: Tensor, top_k: int, queries: Queries = "both") -> Tensor:
    """Which pairs to re-rank, (N, M) bool on the host; arguments and errors as of `search_scores`."""
    if top_k < 0 or queries not in ("both", "images", "texts"):
        raise ValueError(
            f"top_k must be at least 0 and queries 'both', 'images' or 'texts'; they are {top_k} and {queries!r}"
        )
    scores = scores.cpu()
    again = torch.full(scores.shape, not top_k)
    if top_k and queries != "texts":
        again.scatter_(1, scores.topk(min(top_k, scores.shape[1]), dim=1).indices, True)
    if top_k and queries != "images":
        again.scatter_(0, scores.topk(min(top_k, scores.shape[0]), dim=0).indices, True)
    return again


def place_reranked(
    scores: Tensor, again: Tensor, reranked: Tensor, *, highest: float | None = None, lowest: float | None = None
) -> Tensor:
    """The second step's scores (P,) of the pairs `again` (N, M), all others moved below them, in float64.

    Of some rows of a larger matrix, `highest` is the first step's highest score of all rows, and `lowest` the second's
    lowest.
    """
    first, reranked = scores.double().cpu(), reranked.double().cpu()
    highest = first.max().item() if highest is None else highest
    lowest = reranked.min().item() if lowest is None else lowest
    moved = first - highest + lowest - 1
    return moved.masked_scatter(again, reranked).to(scores.device)
