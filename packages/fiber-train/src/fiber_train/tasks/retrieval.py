"""Image-text retrieval, fine-tuned by contrast or by matching, and searched in two steps."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from fiber_backbone import FiberBackbone, ImageState, TextState
from fiber_data import CaptionSample, FiberProcessor
from fiber_eval import retrieval_recall
from fiber_heads import FiberForRetrieval, place_reranked, rerank_candidates
from lightning_fabric import Fabric
from torch import Tensor

from fiber_train.tasks.base import Evaluation, gather
from fiber_train.tasks.pretraining import CaptionTask, chance, count, describe_retrieval, pretraining_config

_KS = (1, 5, 10)


class Retrieval(CaptionTask):
    """Captions for pictures and pictures for captions."""

    model_class = FiberForRetrieval
    monitor = "mean_recall"

    def make_model(
        self, backbone: FiberBackbone, samples: list[CaptionSample], processor: FiberProcessor
    ) -> FiberForRetrieval:
        """A fresh model of the run's objectives."""
        return FiberForRetrieval(backbone, pretraining_config(self.config, processor))

    def evaluate(
        self, model: Any, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """Recall over all pictures and captions by all that the model has: cosines, matches, or both in two steps.

        The predictions are all scores, as `fiber-eval retrieval` takes them.
        """
        if model.matching_head is None:
            scores, owners = self._cosines(model, samples, processor, fabric)
        else:
            images, texts, owners = self._begin(model, samples, processor, fabric)
            scores = self._scores(model, images, texts, fabric)
        recall = {name: float(value) for name, value in retrieval_recall(scores, owners, _KS).items()}
        file = io.BytesIO()
        np.savez_compressed(file, scores=scores.numpy(), text_image_index=np.array(owners))
        predictions = {"predictions.npz": file.getvalue()}
        return Evaluation(count(samples) | recall | chance(len(samples), _KS), predictions)

    def _cosines(
        self, model: FiberForRetrieval, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> tuple[Tensor, list[int]]:
        """(pictures, captions) on the host, and the picture of each caption."""
        images: dict[int, Any] = {}
        texts: dict[int, tuple[Any, int]] = {}
        for batch in self.batches(model, samples, processor, fabric):
            features = model.encode_images(batch["pixel_values"]).float().cpu().numpy()
            images |= zip(batch["image_ids"].tolist(), features, strict=True)
            features = model.encode_texts(batch["input_ids"], batch["attention_mask"]).float().cpu().numpy()
            pairs = zip(features, batch["text_image_ids"].tolist(), strict=True)
            texts |= zip(batch["text_ids"].tolist(), pairs, strict=True)
        images, texts = gather(images), gather(texts)
        found, owners = zip(*(texts[number] for number in sorted(texts)), strict=True)
        rows = np.stack([images[number] for number in range(len(samples))])
        return torch.from_numpy(rows @ np.stack(found).T), list(owners)

    def _begin(
        self, model: FiberForRetrieval, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> tuple[ImageState, TextState, list[int]]:
        """Every picture and caption up to the cut, on the host, and the picture of each caption.

        Every process begins all of them: pairs are many more, and those are shared out.
        """
        images, texts, owners = [], [], []
        for batch in self.batches(model, samples, processor, fabric, share=False):
            images.append(model.backbone.begin_image(batch["pixel_values"]).map(_to_host))
            texts.append(model.backbone.begin_text(batch["input_ids"], batch["attention_mask"]).map(_to_host))
            owners += batch["text_image_ids"].tolist()
        return ImageState.cat(images), TextState.cat(texts), owners

    def _scores(self, model: FiberForRetrieval, images: ImageState, texts: TextState, fabric: Fabric) -> Tensor:
        """(pictures, captions) in float64 on the host."""
        rerank = self.config.retrieval.rerank
        first = torch.zeros(len(images), len(texts), dtype=torch.float64)
        looked_at = torch.ones_like(first, dtype=torch.bool)
        if model.contrastive_head is not None:
            first = (model.image_features(images) @ model.text_features(texts).T).double().cpu()
            looked_at = rerank_candidates(first, rerank) if rerank else looked_at
        pairs = looked_at.nonzero()
        own = range(fabric.global_rank, len(pairs), fabric.world_size)
        logits = model.score_pairs(images, texts, pairs[list(own)]).double().tolist()
        found = gather(dict(zip(own, logits, strict=True)))
        ordered = torch.tensor([found[place] for place in range(len(pairs))], dtype=torch.float64)
        return place_reranked(first, looked_at, ordered)

    def needs_unused_parameters(self) -> bool:
        """Contrast leaves the fused blocks unused, matching the poolers."""
        return True

    def describe(self, numbers: dict[str, float]) -> str:
        """Recalls beside chance."""
        return "\n".join(describe_retrieval(numbers))


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.cpu()
