"""Image-text retrieval: fine-tuning by contrast or matching, and search in two steps.

    images, texts = model.begin_images(pictures), model.begin_texts(captions)     # bottom halves, once each
    cosines = model.image_features(images) @ model.text_features(texts).T         # N + M top halves
    scores = model.rerank(images, texts, cosines, top_k=16)                       # top halves of the best pairs only

A matrix of scores has a row for each picture and a column for each text; higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from fiber_backbone import FiberBackbone, ImageState, TextState
from torch import Tensor

from fiber_heads.pretraining import FiberForPretraining, PretrainingConfig

State = TypeVar("State", ImageState, TextState)


class FiberForRetrieval(FiberForPretraining):
    """Finds texts for pictures and pictures for texts: the coarse stage's model without masked words.

    Trained by contrast (`objectives=("itc",)`), by matching (`("itm",)`; negatives are other pairs of the batch) or by
    both, where the contrast finds hard negatives for the matching. Search uses what the model has.

    Args:
        backbone: Any backbone with a joint projection.
        config: Objectives and queue; by default contrast and matching.

    Raises:
        ValueError: If the backbone has no joint projection, or masked words are among the objectives.
    """

    def __init__(self, backbone: FiberBackbone, config: PretrainingConfig | None = None) -> None:
        config = config or PretrainingConfig(objectives=("itc", "itm"))
        if "mlm" in config.objectives:
            raise ValueError(
                f"retrieval is trained by 'itc' and 'itm', objectives are {config.objectives}; leave out 'mlm', or use "
                "FiberForPretraining"
            )
        super().__init__(backbone, config)

    @torch.no_grad()
    def begin_images(self, images: Any, batch_size: int = 16, keep_on: str | torch.device | None = None) -> ImageState:
        """Pictures up to the cut, once for all texts that they will be compared with.

        Args:
            images: N pictures as the processor takes them, or prepared, a float tensor (N, 3, H, W).
            batch_size: Pictures to compute at a time.
            keep_on: Where to keep the states, by default the model's device. At base size and 384 px a picture takes
                1.1 MiB in float32: the thousands of a test set may have to lie on the host, `"cpu"`.

        Returns:
            N rows.

        Raises:
            ValueError: If there is no picture, or they are not prepared and the model has no processor.
        """
        return ImageState.cat(
            _in_batches(images, batch_size, keep_on or self.device, "picture", self._begin_image_batch)
        )

    @torch.no_grad()
    def begin_texts(
        self, texts: str | Sequence[str], batch_size: int = 64, keep_on: str | torch.device | None = None
    ) -> TextState:
        """Texts up to the cut; see `begin_images`. For token ids there is `backbone.begin_text`.

        Raises:
            ValueError: If there is no text, one is empty, or the model has no processor.
        """
        texts = [texts] if isinstance(texts, str) else texts
        return TextState.cat(
            _in_batches(
                texts,
                batch_size,
                keep_on or self.device,
                "text",
                lambda some: self.backbone.begin_text(**self.prepare(text=some)),
            )
        )

    @torch.no_grad()
    def image_features(self, images: ImageState, batch_size: int = 16) -> Tensor:
        """Unit vectors (N, D) of begun pictures, on the model's device."""
        parts = [
            self._encode_image_state(_rows(images, rows, self.device)) for rows in _chunks(len(images), batch_size)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def text_features(self, texts: TextState, batch_size: int = 64) -> Tensor:
        """Unit vectors (M, D) of begun texts, on the model's device."""
        parts = [self._encode_text_state(_rows(texts, rows, self.device)) for rows in _chunks(len(texts), batch_size)]
        return torch.cat(parts)

    @torch.no_grad()
    def score_pairs(
        self, images: ImageState, texts: TextState, pairs: Tensor | None = None, chunk_size: int = 16
    ) -> Tensor:
        """How well pictures and texts match, both streams reading each other.

        Args:
            images: N begun pictures, wherever they lie.
            texts: M begun texts.
            pairs: (P, 2) int64, row of the picture and of the text; all N * M if None.
            chunk_size: Pairs to compute at a time. Bounds the memory; changes no result beyond rounding.

        Returns:
            (P,), or (N, M) without `pairs`: the logit of "match", any real number, on the model's device.

        Raises:
            ValueError: If the model was built without the 'itm' objective, or there is no picture or no text.
        """
        if not len(images) or not len(texts):
            raise ValueError(f"nothing to score: {len(images)} pictures and {len(texts)} texts; begin one of each")
        if pairs is None:
            every = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(texts)))
            return self.score_pairs(images, texts, every, chunk_size).view(len(images), len(texts))
        scores = [
            self.match(_rows(images, part[:, 0], self.device), _rows(texts, part[:, 1], self.device))[:, 1]
            for part in pairs.cpu().split(chunk_size)
        ]
        return torch.cat(scores)

    def rerank(
        self,
        images: ImageState,
        texts: TextState,
        scores: Tensor,
        top_k: int = 16,
        queries: Literal["both", "images", "texts"] = "both",
        chunk_size: int = 16,
    ) -> Tensor:
        """The second step of search: matches the best candidates of a first ranking, and puts them before all others.

        Args:
            images: N begun pictures.
            texts: M begun texts.
            scores: (N, M) of the first step, for instance cosines (of this model or another).
            top_k: How many candidates of each query to look at again; all if there are fewer.
            queries: Who asks: each picture for its best texts, each text for its best pictures, or both, where a pair
                is looked at again if either side asks for it.
            chunk_size: Pairs to compute at a time.

        Returns:
            (N, M) float64: where a pair was looked at again the logit of "match", elsewhere the first score, moved
            down so far that it lies below all of those. With `top_k` of all candidates, `score_pairs`.

        Raises:
            ValueError: If the scores do not fit, `top_k` is not positive or `queries` unknown.
        """
        if scores.shape != (len(images), len(texts)):
            raise ValueError(
                f"scores must have the shape (pictures, texts) = {(len(images), len(texts))}, got {tuple(scores.shape)}"
            )
        again = rerank_candidates(scores, top_k, queries)
        looked = self.score_pairs(images, texts, again.nonzero(), chunk_size)
        return place_reranked(scores, again, looked)

    def search(self, images: ImageState, texts: TextState, top_k: int = 16) -> Tensor:
        """Scores (N, M) by all that the model has: cosines, matches of all pairs, or with both objectives two steps."""
        if self.contrastive_head is None:
            return self.score_pairs(images, texts)
        cosines = self.image_features(images) @ self.text_features(texts).T
        return cosines if self.matching_head is None else self.rerank(images, texts, cosines, top_k)

    def _begin_image_batch(self, images: Any) -> ImageState:
        prepared = isinstance(images, Tensor) and images.is_floating_point()
        return self.backbone.begin_image(images.to(self.device) if prepared else self.prepare(images)["pixel_values"])


def rerank_candidates(scores: Tensor, top_k: int, queries: Literal["both", "images", "texts"] = "both") -> Tensor:
    """Which pairs to look at again: for each query its `top_k` best candidates.

    Args:
        scores: (N, M) of the first step.
        top_k: How many; all if there are fewer.
        queries: See `FiberForRetrieval.rerank`.

    Returns:
        (N, M) bool, on the host.

    Raises:
        ValueError: If `top_k` is not positive or `queries` unknown.
    """
    if top_k < 1 or queries not in ("both", "images", "texts"):
        raise ValueError(
            f"top_k must be at least 1 and queries 'both', 'images' or 'texts'; they are {top_k} and {queries!r}"
        )
    scores = scores.cpu()
    again = torch.zeros(scores.shape, dtype=torch.bool)
    if queries != "texts":
        again.scatter_(1, scores.topk(min(top_k, scores.shape[1]), dim=1).indices, True)
    if queries != "images":
        again.scatter_(0, scores.topk(min(top_k, scores.shape[0]), dim=0).indices, True)
    return again


def place_reranked(scores: Tensor, again: Tensor, looked: Tensor) -> Tensor:
    """The second step's scores (P,) of the pairs `again` (N, M), all others moved below them, in float64."""
    first, looked = scores.double().cpu(), looked.double().cpu()
    moved = first - first.max() + looked.min() - 1
    return moved.masked_scatter(again, looked).to(scores.device)


def _in_batches(
    items: Any, size: int, keep_on: str | torch.device, kind: str, begin: Callable[[Any], State]
) -> list[State]:
    """States of all items, computed in batches, kept on a device."""
    several = isinstance(items, Sequence) and not isinstance(items, str | bytes)
    if not several and getattr(items, "ndim", 3) != 4:  # neither a list nor an array or tensor of pictures
        items = [items]
    if not len(items):
        raise ValueError(f"there is no {kind}; give at least one")
    return [
        begin(items[start : start + size]).map(lambda tensor: tensor.to(keep_on))
        for start in range(0, len(items), size)
    ]


def _chunks(count: int, size: int) -> tuple[Tensor, ...]:
    return torch.arange(count).split(size)


def _rows(state: State, rows: Tensor, device: torch.device) -> State:
    """Rows of a state, on a device; each row crosses once, however often it is asked for."""
    unique, place = rows.unique(return_inverse=True)
    return state.map(lambda tensor: tensor[unique.to(tensor.device)].to(device)[place.to(device)])
