"""Search in two steps: rank everything by a cheap score, re-rank the best by an expensive one.

    images, texts = model.begin_images(files), model.begin_texts(captions)   # bottom halves, once each
    scores = model.search(images, texts, top_k=16)   # N + M top halves, then the best pairs

`model.search(files, captions)` does all of it; begin yourself what is searched more than once.

A matrix of scores has a row for each image and a column for each text; higher is better.

Shapes: N images, M texts, P pairs of them, D channels of the contrast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from fiber_backbone import ImageState, TextState
from torch import Tensor

from fiber_heads.classification import image_rows
from fiber_heads.contrastive import ContrastiveHead
from fiber_heads.exported import ExportPart, fused_part, tower_parts
from fiber_heads.matches import Match, TextMatch, best_images, best_texts
from fiber_heads.matching import MatchingHead
from fiber_heads.processing import Images, Texts, as_list, image_list, image_name, is_prepared
from fiber_heads.ranking import Queries, search_scores
from fiber_heads.results import Results
from fiber_heads.task import TaskModel

State = TypeVar("State", ImageState, TextState)


class SearchModel(TaskModel):
    """What can be searched with: a backbone with a contrastive head, a matching head, or both.

    Attributes:
        contrastive_head: Gives the first step's unit vectors; None: every pair is matched.
        matching_head: Gives the second step's logits; None: search is by cosines alone.
    """

    example = 'model.retrieve(["a.jpg", "b.jpg"], "two dogs on a beach")'
    contrastive_head: ContrastiveHead | None
    matching_head: MatchingHead | None

    @torch.no_grad()
    def begin_images(
        self, images: Images, *, batch_size: int = 16, keep_on: str | torch.device | None = None
    ) -> ImageState:
        """Images up to the cut, once for all texts that they will be compared with.

        Args:
            images: N images as the processor takes them, or prepared, a float tensor (N, 3, H, W).
            batch_size: Images to compute at a time.
            keep_on: Where to keep the states, by default the model's device. At base size and 384 px an image takes
                1.1 MiB in float32: the thousands of a test set may have to lie on the host, `"cpu"`.

        Returns:
            N rows.

        Raises:
            ValueError: If there is no image, or they are not prepared and the model has no processor.
        """
        states = map(self._begin_image_batch, _batches(images, batch_size, "image"))
        return ImageState.cat([_moved(state, keep_on or self.device) for state in states])

    @torch.no_grad()
    def begin_texts(
        self, texts: Texts, *, batch_size: int = 64, keep_on: str | torch.device | None = None
    ) -> TextState:
        """Texts up to the cut; see `begin_images`. For token ids there is `backbone.begin_text`.

        Raises:
            ValueError: If there is no text, one is empty, or the model has no processor.
        """
        states = map(self._begin_text_batch, _batches(as_list(texts), batch_size, "text"))
        return TextState.cat([_moved(state, keep_on or self.device) for state in states])

    @torch.no_grad()
    def image_features(self, images: ImageState, *, batch_size: int = 16) -> Tensor:
        """Unit vectors (N, D) of begun images, on the model's device."""
        chunks = torch.arange(len(images)).split(batch_size)
        return torch.cat([self._encode_image_state(_rows(images, rows, self.device)) for rows in chunks])

    @torch.no_grad()
    def text_features(self, texts: TextState, *, batch_size: int = 64) -> Tensor:
        """Unit vectors (M, D) of begun texts, on the model's device."""
        chunks = torch.arange(len(texts)).split(batch_size)
        return torch.cat([self._encode_text_state(_rows(texts, rows, self.device)) for rows in chunks])

    @torch.no_grad()
    def score_pairs(
        self, images: ImageState, texts: TextState, pairs: Tensor | None = None, *, chunk_size: int = 16
    ) -> Tensor:
        """How well images and texts match, both streams reading each other.

        Args:
            images: N begun images, wherever they lie.
            texts: M begun texts.
            pairs: (P, 2) int64, row of the image and of the text; all N * M if None.
            chunk_size: Pairs to compute at a time. Bounds the memory; changes no result beyond rounding.

        Returns:
            (P,), or (N, M) without `pairs`: the logit of "match", any real number, on the model's device.

        Raises:
            ValueError: If the model was built without the 'itm' objective, or there is no image or no text.
        """
        if not len(images) or not len(texts):
            raise ValueError(f"nothing to score: {len(images)} images and {len(texts)} texts; begin one of each")
        if pairs is None:
            score = partial(self.score_pairs, images, texts, chunk_size=chunk_size)
            return search_scores(None, score, shape=(len(images), len(texts)))
        scores = [
            self.match(_rows(images, part[:, 0], self.device), _rows(texts, part[:, 1], self.device))[:, 1]
            for part in pairs.cpu().split(chunk_size)
        ]
        return torch.cat(scores)

    @torch.no_grad()
    def score_texts(
        self,
        images: ImageState,
        input_ids: Tensor,
        attention_mask: Tensor,
        wanted: Tensor | None = None,
        *,
        chunk_size: int = 16,
    ) -> Tensor:
        """`score_pairs` of a few begun images with any number of texts, which are begun a chunk at a time.

        To search a test set in bounded memory, begin its images a few at a time: beginning the texts anew for each few
        costs little beside the pairs.

        Args:
            images: N begun images.
            input_ids: (M, L) of the texts, padded to the right, wherever they lie.
            attention_mask: (M, L).
            wanted: (N, M) bool, which pairs to score; all if None.
            chunk_size: Texts begun, and pairs computed, at a time.

        Returns:
            (N, M) float32 on the host; -inf for pairs that are not wanted.

        Raises:
            ValueError: As of `score_pairs`.
        """
        scores = torch.full((len(images), len(input_ids)), -torch.inf)
        columns = torch.arange(len(input_ids)) if wanted is None else wanted.any(dim=0).nonzero().squeeze(1)
        for block in columns.split(chunk_size):
            asked = scores.new_ones(len(images), len(block)) if wanted is None else wanted[:, block]
            pairs = asked.nonzero()
            longest = int(attention_mask[block].sum(dim=1).max())
            tokens, mask = (part[block, :longest].to(self.device) for part in (input_ids, attention_mask))
            logits = self.score_pairs(images, self.backbone.begin_text(tokens, mask), pairs, chunk_size=chunk_size)
            scores[pairs[:, 0], block[pairs[:, 1]]] = logits.float().cpu()
        return scores

    def rerank(
        self,
        images: ImageState,
        texts: TextState,
        scores: Tensor,
        *,
        top_k: int = 16,
        queries: Queries = "both",
        chunk_size: int = 16,
    ) -> Tensor:
        """The second step of search: matches the best candidates of a first ranking, and puts them before all others.

        Args:
            images: N begun images.
            texts: M begun texts.
            scores: (N, M) of the first step, for instance cosines (of this model or another).
            top_k: As of `search_scores`.
            queries: As of `search_scores`.
            chunk_size: Pairs to compute at a time.

        Returns:
            As `search_scores`; with `top_k` of all candidates, `score_pairs`.

        Raises:
            ValueError: If the scores do not fit, `top_k` is negative or `queries` unknown.
        """
        if scores.shape != (len(images), len(texts)):
            raise ValueError(
                f"scores must have the shape (images, texts) = {(len(images), len(texts))}, got {tuple(scores.shape)}"
            )
        score = partial(self.score_pairs, images, texts, chunk_size=chunk_size)
        return search_scores(scores, score, top_k=top_k, queries=queries)

    def search(
        self, images: ImageState | Images, texts: TextState | Texts, *, top_k: int = 16, queries: Queries = "both"
    ) -> Tensor:
        """Scores (N, M) by all that the model has: cosines, matches of all pairs, or with both heads two steps.

        Args:
            images: N images as they come, or begun.
            texts: M texts, or begun ones.
            top_k: As of `search_scores`.
            queries: As of `search_scores`.

        Raises:
            ValueError: The model has neither head, `top_k` is negative or `queries` unknown.
        """
        images, texts = self._begun(images, texts)
        contrast, matching = self.contrastive_head is not None, self.matching_head is not None
        cosines = self.image_features(images) @ self.text_features(texts).T if contrast else None
        score = partial(self.score_pairs, images, texts) if matching else None
        return search_scores(cosines, score, shape=(len(images), len(texts)), top_k=top_k, queries=queries)

    def retrieve(self, images: Images, texts: Texts, *, top_k: int = 5) -> Results[Results[Match]]:
        """The images that fit each text best, by `search`.

        Args:
            images: One image or several, as the processor takes them.
            texts: One text or several.
            top_k: How many images to give each text, at least 1; all if there are fewer. At least 16 are re-ranked.

        Returns:
            For each text its images, best first.

        Raises:
            ValueError: `top_k` is below 1, a text is empty, or there is no image.
        """
        given, asked, scores = self._ranked(images, texts, top_k, "texts")
        shown = not is_prepared(images)
        return Results((best_images(given, column, top_k, shown=shown) for column in scores.T), titles=asked)

    def retrieve_texts(self, images: Images, texts: Texts, *, top_k: int = 5) -> Results[Results[TextMatch]]:
        """The texts that fit each image best, by `search`.

        Args:
            images: As of `retrieve`.
            texts: As of `retrieve`.
            top_k: How many texts to give each image, at least 1; all if there are fewer. At least 16 are re-ranked.

        Returns:
            For each image its texts, best first.

        Raises:
            ValueError: As of `retrieve`.
        """
        given, candidates, scores = self._ranked(images, texts, top_k, "images")
        titles = [image_name(image) or f"image {place}" for place, image in enumerate(given)]
        shown = [] if is_prepared(images) else [(image,) for image in given]
        return Results((best_texts(candidates, row, top_k) for row in scores), titles=titles, images=shown)

    def _ranked(
        self, images: Images, texts: Texts, top_k: int, queries: Queries
    ) -> tuple[list[Any], list[str], Tensor]:
        """Lists of images and of texts, and the scores of all pairs."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, is {top_k}")
        given = list(images) if is_prepared(images) else image_list(images)  # type: ignore[arg-type]
        asked = as_list(texts)
        return given, asked, self.search(images, asked, top_k=max(16, top_k), queries=queries)

    def encode_images(self, images: Images, *, batch_size: int = 16) -> Tensor:
        """Unit vectors (B, D) of images; their products with those of texts are cosines.

        Args:
            images: As they come, which are computed without gradient; or prepared, a float tensor (B, 3, H, W), which
                is computed at once, and with gradient where that is enabled.
            batch_size: Images that are not prepared to compute at a time.

        Raises:
            ValueError: If the model was built without the 'itc' objective, or has no processor to prepare images.
        """
        if not is_prepared(images):
            with torch.no_grad():
                states = map(self._begin_image_batch, _batches(images, batch_size, "image"))
                return torch.cat([self._encode_image_state(state) for state in states])
        return self._encode_image_state(self.backbone.begin_image(cast(Tensor, images)))

    def encode_texts(
        self, texts: Texts | Tensor, attention_mask: Tensor | None = None, *, batch_size: int = 64
    ) -> Tensor:
        """Unit vectors (B, D) of texts.

        Args:
            texts: Texts, which are computed without gradient, or `input_ids` (B, L); see `encode_images`.
            attention_mask: (B, L), of `input_ids`.
            batch_size: Texts that are not prepared to compute at a time.

        Raises:
            ValueError: If the model was built without the 'itc' objective, or has no processor to prepare texts.
        """
        if not isinstance(texts, Tensor):
            with torch.no_grad():
                states = map(self._begin_text_batch, _batches(as_list(texts), batch_size, "text"))
                return torch.cat([self._encode_text_state(state) for state in states])
        return self._encode_text_state(self.backbone.begin_text(texts, attention_mask))

    def match(self, images: ImageState | Images, texts: TextState | Texts) -> Tensor:
        """Logits (B, 2), (no match, match), of images and texts, pair by pair; column 1 ranks.

        Args:
            images: One for each text, or one for all of them; as they come or begun.
            texts: B texts, as they come or begun.

        Raises:
            ValueError: If the model was built without the 'itm' objective, or images and texts do not pair up.
        """
        if self.matching_head is None:
            raise ValueError("this model was built without the 'itm' objective; it can only compare features")
        image, text = self._begun(images, texts)
        if (rows := image_rows(len(image), len(text), 1, text.hidden_state.device)) is not None:
            image = image[rows]
        pooled = self.backbone.fuse(image, text).pooled
        assert pooled is not None
        return self.matching_head(pooled)

    def explained_score(self, tokens: Tensor, target: str | None = None, **batch: Any) -> Tensor:
        """The logit by which image and text match."""
        text = self.backbone.begin_text(batch["input_ids"], batch.get("attention_mask"))
        return self.match(self.backbone.begin_image(batch["pixel_values"]), text)[:, 1]

    def export_parts(self) -> dict[str, ExportPart]:
        """Towers with unit vectors, and the fused encoder with logits of matching, as far as there are heads."""
        return {
            **tower_parts(self.backbone, self.contrastive_head),
            "fused": fused_part(self.backbone, self.matching_head),
        }

    def cross_modal_parameter_names(self) -> set[str]:
        """Those of the backbone, and the contrastive head's projections and poolers."""
        return super().cross_modal_parameter_names() | (self._contrastive_names() - {"contrastive_head.temperature"})

    def head_parameter_names(self) -> set[str]:
        """Parameters of the other heads."""
        return super().head_parameter_names() - self._contrastive_names()

    def _contrastive_names(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.startswith("contrastive_head.")}

    def _encode_image_state(self, image: ImageState) -> Tensor:
        if self.contrastive_head is None:
            raise ValueError("this model was built without the 'itc' objective; it can only match")
        return self.contrastive_head.encode_images(self.backbone.finish_image(image).hidden_state)

    def _encode_text_state(self, text: TextState) -> Tensor:
        if self.contrastive_head is None:
            raise ValueError("this model was built without the 'itc' objective; it can only match")
        return self.contrastive_head.encode_texts(self.backbone.finish_text(text).hidden_state)

    def _begun(self, images: ImageState | Images, texts: TextState | Texts) -> tuple[ImageState, TextState]:
        return (
            images if isinstance(images, ImageState) else self.begin_images(images),
            texts if isinstance(texts, TextState) else self.begin_texts(texts),
        )

    def _begin_image_batch(self, images: Images) -> ImageState:
        return self.backbone.begin_image(self.prepare(images)["pixel_values"])

    def _begin_text_batch(self, texts: Sequence[str]) -> TextState:
        return self.backbone.begin_text(**self.prepare(text=texts))


def _batches(items: Any, size: int, kind: str) -> Iterator[Any]:
    """All items, so many at a time."""
    several = isinstance(items, Sequence) and not isinstance(items, str | bytes)
    if not several and getattr(items, "ndim", 3) != 4:  # neither a list nor an array or tensor of images
        items = [items]
    if not len(items):
        raise ValueError(f"there is no {kind}; give at least one")
    return (items[start : start + size] for start in range(0, len(items), size))


def _moved(state: State, device: str | torch.device) -> State:
    return state.map(lambda tensor: tensor.to(device))


def _rows(state: State, rows: Tensor, device: torch.device) -> State:
    """Rows of a state, on a device; each row crosses once, however often it is asked for."""
    unique, index = rows.unique(return_inverse=True)
    return state.map(lambda tensor: tensor[unique.to(tensor.device)].to(device)[index.to(device)])
