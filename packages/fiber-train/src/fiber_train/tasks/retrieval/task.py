"""Image-text retrieval, fine-tuned by contrast or by matching, and searched in two steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from fiber_backbone import FiberBackbone
from fiber_data import CaptionSample, FiberProcessor, glance
from fiber_eval import retrieval_recall_in_blocks
from fiber_heads import FiberForRetrieval
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric
from torch import Tensor

from fiber_train.evaluation import Evaluation
from fiber_train.examples import Shown
from fiber_train.tasks.captions import (
    CaptionTask,
    check_captioned,
    check_contrast,
    count,
    with_normalization,
)
from fiber_train.tasks.recall import KS, recall_lines, recall_measures, recall_preview
from fiber_train.tasks.retrieval.scores import Cosines, Matched, ScoreBlocks, deal
from fiber_train.tasks.retrieval.settings import RetrievalSettings
from fiber_train.tasks.search_examples import show_search

_BLOCK = 64  # images whose cosines are made at a time
_NOTHING = np.empty((0, 0), np.float32)


class Retrieval(CaptionTask[RetrievalSettings]):
    """Captions for images and images for captions."""

    settings_class = RetrievalSettings
    model_class = FiberForRetrieval
    commands = (
        "fiber retrieve --images {folder} --query {caption} --checkpoint {run}",
        "fiber index {folder} --checkpoint {run} --out photos.index",
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
        No process holds more scores than those of its share of the images. `outputs` has these alone, unless
        `task.metrics` needs all; the file is in the first process, and where it is kept.
        """
        encoded = self._encode(model, samples, processor, fabric)
        samples, found = self.collect(encoded, samples, "images")
        known = list(glance(samples, "id", "captions"))
        ids, sizes = [sample["id"] for sample in known], [len(sample["captions"]) for sample in known]
        owners = [row for row, size in enumerate(sizes) for _ in range(size)]
        cosines = None
        if self._by_contrast(model):
            images, texts = (torch.cat(part) for part in zip(*(encoded[name] for name in ids), strict=True))
            cosines = Cosines(images, texts, self.settings.rerank)
        encoded = {}
        if model.matching_head is not None:
            matched = self._match(model, samples, processor, fabric, cosines)
            scores = ScoreBlocks(ids, owners, matched.rows, matched, fabric.device)
        else:
            assert cosines is not None
            scores = ScoreBlocks(ids, owners, deal(len(ids), _BLOCK), cosines, fabric.device)
        written = scores.write(fabric.is_global_zero or self._keep is not None)
        found.predictions = self.keep({"predictions.npz": written})
        found.outputs = scores.gathered() if self._metrics and fabric.world_size > 1 else scores.by_id()
        found.counts |= count(samples)
        numbers = retrieval_recall_in_blocks(scores, owners, num_images=len(ids), ks=KS, add_up=scores.add_up)
        found.measures += recall_measures(numbers, sizes)
        return found

    def _by_contrast(self, model: FiberForRetrieval) -> bool:
        """Whether cosines have a say: not where every pair is matched anyway."""
        return model.contrastive_head is not None and (model.matching_head is None or self.settings.rerank > 0)

    def _encode(
        self, model: FiberForRetrieval, samples: Sequence[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> dict[Any, tuple[Tensor, Tensor]]:
        """By id of the images that can be read the features of the image (1, D) and of its captions, on the host.

        They are empty where nothing is to be compared by them.
        """
        found: dict[Any, tuple[Any, Any]] = {}
        sizes = _num_captions(samples)
        for batch in self.batches(model, samples, processor, fabric, deal=True):
            own = ~batch["replaced"]
            ids = list(compress(batch["ids"], own.tolist()))
            if ids and self._by_contrast(model):
                counts = torch.tensor([sizes[name] for name in batch["ids"]])
                kept = own.repeat_interleave(counts.to(own.device))
                images = model.encode_images(batch["pixel_values"][own])
                texts = model.encode_texts(batch["input_ids"][kept], batch["attention_mask"][kept])
                found |= _by_id(ids, images.float().cpu().numpy(), texts.float().cpu().numpy(), sizes)
            else:
                found |= dict.fromkeys(ids, (_NOTHING, _NOTHING))
        gathered = gather_by_id(found)
        return {name: (torch.from_numpy(image), torch.from_numpy(text)) for name, (image, text) in gathered.items()}

    def _match(
        self,
        model: FiberForRetrieval,
        samples: Sequence[CaptionSample],
        processor: FiberProcessor,
        fabric: Fabric,
        cosines: Cosines | None,
    ) -> Matched:
        """Matches blocks of images, each begun by one process, with the captions that they want; all captions in turn.

        Of images and captions no more are begun at a time than `task.block_size` and `task.pair_batch_size`.
        """
        matched, known = Matched(cosines), list(glance(samples, "id", "captions"))
        places = {sample["id"]: row for row, sample in enumerate(known)}
        tokens = processor(text=[caption for sample in known for caption in sample["captions"]])
        if cosines is not None:
            cosines.ask()
        size = self.settings.block_size
        for batch in self.batches(model, samples, processor, fabric, batch_size=size, deal=True):
            own = ~batch["replaced"]
            rows = torch.tensor([places[name] for name in compress(batch["ids"], own.tolist())], dtype=torch.int64)
            if len(rows):
                begun = model.backbone.begin_image(batch["pixel_values"][own])
                wanted = None if cosines is None else cosines.wanted(rows)
                chunk = self.settings.pair_batch_size
                matched.add(rows, model.score_texts(begun, **tokens, wanted=wanted, chunk_size=chunk))
        matched.finish()
        return matched

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
