"""Image-text retrieval, fine-tuned by contrast or by matching, and searched in two steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fiber_backbone import FiberBackbone, ImageState, TextState
from fiber_data import CaptionSample, FiberProcessor, glance
from fiber_eval import retrieval_recall
from fiber_heads import FiberForRetrieval
from fiber_heads.distributed import gather_by_id
from fiber_heads.search import search_scores
from lightning_fabric import Fabric
from torch import Tensor

from fiber_train.evaluation import Evaluation
from fiber_train.examples import Shown
from fiber_train.tasks.captions import (
    CaptionTask,
    check_captioned,
    check_contrast,
    count,
    count_captions,
    with_normalization,
)
from fiber_train.tasks.recall import KS, recall_lines, recall_measures, recall_preview
from fiber_train.tasks.retrieval.settings import RetrievalSettings
from fiber_train.tasks.search_examples import show_search


class Retrieval(CaptionTask[RetrievalSettings]):
    """Captions for images and images for captions."""

    settings_class = RetrievalSettings
    model_class = FiberForRetrieval
    commands = (
        'fiber retrieve --images PHOTOS --query "two dogs on a beach" --checkpoint {run}',
        "fiber index PHOTOS --checkpoint {run} --out photos.index",
    )
    monitor = "mean_recall"

    def make_model(
        self, backbone: FiberBackbone, samples: Sequence[CaptionSample], processor: FiberProcessor
    ) -> FiberForRetrieval:
        """A fresh model of the run's objectives."""
        return FiberForRetrieval(backbone, with_normalization(self.settings.model, processor))

    def preview(self, samples: Sequence[CaptionSample]) -> Evaluation:
        """The recalls."""
        check_captioned(samples, self.config.data.eval_split)
        return Evaluation(recall_preview(), counts=count(samples))

    def check_training(self, samples: Sequence[CaptionSample]) -> None:
        """Images need captions that tell them apart."""
        super().check_training(samples)
        check_contrast(samples, self.config, self.settings.model)

    def evaluate(
        self, model: FiberForRetrieval, samples: Sequence[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """Recall over all images and captions by all that the model has: cosines, matches, or both in two steps.

        The predictions are all scores, as `fiber-eval retrieval` takes them; of an image its scores of all captions.
        """
        encode = self._encode if model.matching_head is None else self._begin
        encoded = encode(model, samples, processor, fabric)
        samples, found = self.collect(encoded, samples, "images")
        images, texts = zip(*(encoded[sample["id"]] for sample in glance(samples, "id")), strict=True)
        if model.matching_head is None:
            scores = torch.from_numpy(np.concatenate(images) @ np.concatenate(texts).T)
        else:
            scores = self._scores(model, ImageState.cat(images), TextState.cat(texts), fabric)
        owners = [row for row, own in enumerate(texts) for _ in range(len(own))]
        file = io.BytesIO()
        np.savez_compressed(file, scores=scores.numpy(), text_image_index=np.array(owners))
        found.predictions = self.keep({"predictions.npz": file.getvalue()})
        found.outputs = {sample["id"]: row for sample, row in zip(glance(samples, "id"), scores, strict=True)}
        found.counts |= count(samples)
        found.measures += recall_measures(retrieval_recall(scores, owners, ks=KS), count_captions(samples))
        return found

    def _encode(
        self, model: FiberForRetrieval, samples: Sequence[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> dict[Any, tuple[Any, Any]]:
        """By id the features of the image (1, D) and of its captions, on the host."""
        found: dict[Any, tuple[Any, Any]] = {}
        sizes = _num_captions(samples)
        for batch in self.batches(model, samples, processor, fabric):
            images = model.encode_images(batch["pixel_values"]).float().cpu().numpy()
            texts = model.encode_texts(batch["input_ids"], batch["attention_mask"]).float().cpu().numpy()
            found |= _by_id(batch["ids"], images, texts, sizes)
        return gather_by_id(found)

    def _begin(
        self, model: FiberForRetrieval, samples: Sequence[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> dict[Any, tuple[ImageState, TextState]]:
        """By id the image and its captions up to the cut, on the host.

        Every process begins all of them: pairs are many more, and those are shared out.
        """
        found: dict[Any, tuple[ImageState, TextState]] = {}
        sizes = _num_captions(samples)
        for batch in self.batches(model, samples, processor, fabric, share=False):
            images = model.backbone.begin_image(batch["pixel_values"]).map(_to_host)
            texts = model.backbone.begin_text(batch["input_ids"], batch["attention_mask"]).map(_to_host)
            found |= _by_id(batch["ids"], images, texts, sizes)
        return found

    def _scores(self, model: FiberForRetrieval, images: ImageState, texts: TextState, fabric: Fabric) -> Tensor:
        """(images, captions) in float64 on the host."""

        def score_pairs(pairs: Tensor) -> Tensor:
            own = range(fabric.global_rank, len(pairs), fabric.world_size)
            logits = model.score_pairs(images, texts, pairs[list(own)]).double().tolist()
            found = gather_by_id(dict(zip(own, logits, strict=True)))
            return torch.tensor([found[index] for index in range(len(pairs))], dtype=torch.float64)

        first = None
        if model.contrastive_head is not None:
            first = (model.image_features(images) @ model.text_features(texts).T).double().cpu()
        shape = (len(images), len(texts))
        return search_scores(first, score_pairs, shape=shape, top_k=self.settings.rerank)

    def needs_unused_parameters(self) -> bool:
        """Contrast leaves the fused blocks unused, matching the poolers."""
        return True

    def show(self, model: FiberForRetrieval, samples: Sequence[CaptionSample], number: int) -> Shown:
        """Captions found for images."""
        return show_search(model, samples, number)

    def describe(self, found: Evaluation) -> str:
        """Recalls beside chance."""
        return "\n".join(recall_lines(found))


def _num_captions(samples: Sequence[CaptionSample]) -> dict[Any, int]:
    return {sample["id"]: len(sample["captions"]) for sample in glance(samples, "id", "captions")}


def _by_id(ids: Sequence[Any], images: Any, texts: Any, sizes: Mapping[Any, int]) -> dict[Any, tuple[Any, Any]]:
    """The rows of a batch, of each image its own and those of its captions."""
    found, start = {}, 0
    for row, name in enumerate(ids):
        found[name] = (images[row : row + 1], texts[start : start + sizes[name]])
        start += sizes[name]
    return found


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.cpu()
