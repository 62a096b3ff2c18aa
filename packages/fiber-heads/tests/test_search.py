"""The two-step search: by itself, and of every model that has a contrast or a matcher."""

from __future__ import annotations

import pytest
import torch
from fiber_heads import FiberForPretraining, FiberForRetrieval, search_scores
from torch import Tensor

from .conftest import make_model


def second(pairs: Tensor) -> Tensor:
    """Scores that tell which pair they are of."""
    return (10 * pairs[:, 0] + pairs[:, 1]).float()


FIRST = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])


def test_without_a_first_step_every_pair_is_looked_at() -> None:
    every = torch.tensor([[0.0, 1, 2], [10, 11, 12]])
    assert torch.equal(search_scores(None, second, shape=(2, 3)), every)
    assert torch.equal(search_scores(FIRST, second, top_k=0), every.double())
    assert torch.equal(search_scores(FIRST, second, top_k=9), every.double())


def test_without_a_second_step_the_first_is_the_result() -> None:
    assert search_scores(FIRST, None) is FIRST


@pytest.mark.parametrize(
    ("queries", "asked"), [("images", [[0, 0], [1, 2]]), ("texts", [[0, 0], [0, 2], [1, 1]]), ("both", None)]
)
def test_each_query_has_its_best_looked_at(queries: str, asked: list[list[int]] | None) -> None:
    seen = []
    scores = search_scores(FIRST, lambda pairs: seen.append(pairs.tolist()) or second(pairs), top_k=1, queries=queries)
    (pairs,) = seen
    assert pairs == (asked or [[0, 0], [0, 2], [1, 1], [1, 2]])
    rows, columns = torch.tensor(pairs).T
    assert torch.equal(scores[rows, columns], second(torch.tensor(pairs)).double())
    others = torch.ones_like(FIRST, dtype=torch.bool)
    others[rows, columns] = False
    assert scores[others].max() < scores[~others].min()
    assert torch.equal(scores[others].argsort(), FIRST[others].argsort())


def test_what_cannot_be_searched_is_told() -> None:
    with pytest.raises(ValueError, match="nothing to search by; give scores of a first step, score_pairs, or both"):
        search_scores(None, None, shape=(2, 3))
    with pytest.raises(ValueError, match="give shape"):
        search_scores(None, second)
    with pytest.raises(ValueError, match=r"top_k must be at least 0 and queries .* they are -1 and 'both'"):
        search_scores(FIRST, second, top_k=-1)
    with pytest.raises(ValueError, match="they are 16 and 'text'"):
        search_scores(FIRST, second, queries="text")


def test_a_model_for_pre_training_searches_as_one_for_retrieval(batch: dict[str, Tensor]) -> None:
    model = make_model()
    retrieval = FiberForRetrieval(model.backbone).eval()
    retrieval.start_from(model)
    found = []
    for each in (model, retrieval):
        images = each.begin_images(batch["pixel_values"], batch_size=3)
        texts = each.backbone.begin_text(batch["input_ids"], batch["attention_mask"])
        found.append(each.search(images, texts, top_k=1, queries="texts"))
        assert torch.equal(each.search(images, texts, top_k=0), each.score_pairs(images, texts).double())
    assert torch.equal(*found)
    words = FiberForPretraining(model.backbone, type(model.config)(objectives=("mlm",)))
    with pytest.raises(ValueError, match="nothing to search by"):
        words.search(images, texts)
