"""The coarse stage: image-text contrast, matching and masked tokens, each image and text begun once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from fiber_backbone import FiberBackbone, ImageState, LoadReport, TextState
from torch import Tensor
from torch.nn.functional import cross_entropy

from fiber_heads.checkpoints import describe_rank_output
from fiber_heads.config import PretrainingConfig
from fiber_heads.contrastive import Contrast, ContrastiveHead, FeatureQueue, sample_negatives
from fiber_heads.initialization import initialize
from fiber_heads.masked_lm import MaskedLMHead
from fiber_heads.matching import MatchingHead
from fiber_heads.search import SearchModel
from fiber_heads.task import TaskOutput


@dataclass
class PretrainingOutput(TaskOutput):
    """One step; `loss` is the sum of the losses, and accuracies come with `..._count`, the decisions that they average.

    Attributes:
        mlm_logits: (B, L, V).
        itm_logits: (3 B, 2): pairs, then images with a drawn text, then texts with a drawn image.
        itm_labels: (3 B,) 1 = match, 0 = no match, -100 = there was no negative to draw.
        sample_losses: Where `source` was given, by loss each pair's sum and the decisions that it is of, (2, B).
    """

    mlm_logits: Tensor | None = None
    itm_logits: Tensor | None = None
    itm_labels: Tensor | None = None
    sample_losses: dict[str, Tensor] | None = None


@dataclass
class Negatives:
    """For each pair of the batch a text and an image that do not belong to it.

    Attributes:
        text: (B,) int64, row in the batch, or B + slot of the queue.
        image: (B,) int64, likewise.
        text_exists: (B,) bool, whether there was any candidate.
        image_exists: (B,) bool, likewise.
    """

    text: Tensor
    image: Tensor
    text_exists: Tensor
    image_exists: Tensor


@dataclass
class _Fused:
    """What the fused blocks give; see `PretrainingOutput`."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    mlm_logits: Tensor | None = None
    itm_logits: Tensor | None = None
    itm_labels: Tensor | None = None


class FiberForPretraining(SearchModel):
    """The coarse stage: image-text contrast, matching with hard negatives, masked language modeling.

    Args:
        backbone: Any backbone with a joint projection.
        config: Objectives and queue.

    Raises:
        ValueError: If the backbone has no joint projection.
    """

    config_class = PretrainingConfig
    config: PretrainingConfig

    def __init__(self, backbone: FiberBackbone, config: PretrainingConfig | None = None) -> None:
        super().__init__(backbone, config)
        if not backbone.config.joint_projection:
            raise ValueError("pre-training needs a backbone with FiberConfig(joint_projection=True)")
        config, width = self.config, backbone.text_dim
        self.contrastive_head = None
        self.queue = None
        if "itc" in config.objectives:
            self.contrastive_head = ContrastiveHead(
                width,
                backbone.image_dim,
                temperature=config.temperature,
                pooler=config.itc_pooler,
                original=config.original,
            )
            if config.queue_size:
                self.queue = FeatureQueue(
                    config.queue_size,
                    width,
                    inputs=config.queue_inputs,
                    mean=config.image_mean,
                    std=config.image_std,
                )
        self.matching_head = MatchingHead(width) if "itm" in config.objectives else None
        self.word_head = MaskedLMHead(width, backbone.vocab_size) if "mlm" in config.objectives else None
        for head in (self.contrastive_head, self.matching_head, self.word_head):
            if head is not None:
                initialize(head, backbone.config.initializer_range)

    def needed_keys(self) -> tuple[str, ...]:
        """Also the masked tokens, if they are an objective."""
        tokens = () if self.word_head is None else ("mlm_input_ids", "mlm_labels")
        return (*super().needed_keys(), *tokens)

    def forward(
        self,
        *,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        mlm_input_ids: Tensor | None = None,
        mlm_labels: Tensor | None = None,
        image_ids: Tensor | None = None,
        negatives: Negatives | None = None,
        source: Tensor | None = None,
        **_: Any,
    ) -> PretrainingOutput:
        """One step of all objectives; in training mode the queue takes in the batch afterwards.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (B, L).
            attention_mask: (B, L).
            mlm_input_ids: (B, L), some of them masked; for `"mlm"`.
            mlm_labels: (B, L), the tokens to predict, -100 elsewhere; for `"mlm"`.
            image_ids: (B,), equal for captions of one image.
            negatives: Pairs to match instead of drawn ones.
            source: (B,) int64, which data set each pair is of; with it come the losses of each pair.
            **_: Other keys of the batch.
        """
        text_inputs = [input_ids]
        if self.word_head is not None and mlm_input_ids is not None:
            text_inputs.append(mlm_input_ids)
        image = self.backbone.begin_image(pixel_values)
        texts = self.backbone.begin_text(torch.cat(text_inputs), attention_mask.repeat(len(text_inputs), 1))
        size = len(image)
        text, masked_text = texts[:size], texts[size:]

        contrast, losses = None, {}
        if self.contrastive_head is not None:
            image_features, text_features = self._encode_image_state(image), self._encode_text_state(text)
            contrast = self.contrastive_head(image_features, text_features, self.queue, image_ids)
            losses["itc"] = contrast.loss
        pairs: list[tuple[ImageState, TextState]] = []
        if self.word_head is not None:
            pairs.append((image, masked_text))
        if self.matching_head is not None:
            negatives = negatives or self._draw(contrast, size, image_ids, image.hidden_state.device)
            pairs.append(self._pair(image, text, negatives, pixel_values))
        fused = self._fused_objectives(pairs, size, mlm_labels, negatives) if pairs else _Fused()
        if self.training and self.queue is not None:
            inputs = (pixel_values, input_ids, attention_mask) if self.config.queue_inputs != "none" else None
            self.queue.push(image_features, text_features, image_ids, inputs)
        losses |= fused.losses
        total = torch.stack(list(losses.values())).sum()
        output = PretrainingOutput(
            total, losses, fused.metrics, None, fused.mlm_logits, fused.itm_logits, fused.itm_labels
        )
        if source is not None:
            output.sample_losses = _by_sample(output, contrast, mlm_labels)
        return output

    def _fused_objectives(
        self,
        pairs: list[tuple[ImageState, TextState]],
        size: int,
        mlm_labels: Tensor | None,
        negatives: Negatives | None,
    ) -> _Fused:
        """Masked tokens (first B = `size` pairs) and matching (last 3 B) in one pass over the fused blocks."""
        image, text = ImageState.cat([pair[0] for pair in pairs]), TextState.cat([pair[1] for pair in pairs])
        fused = self.backbone.fuse(image, text)
        assert fused.text_features is not None and fused.pooled is not None
        output = _Fused()
        if self.word_head is not None and mlm_labels is not None:
            output.mlm_logits = self.word_head(fused.text_features[:size, : mlm_labels.shape[1]])
            output.losses["mlm"] = self.word_head.loss(output.mlm_logits, mlm_labels)
            _note_accuracy(output.metrics, "mlm", output.mlm_logits, mlm_labels)
        if self.matching_head is not None and negatives is not None:
            exists = torch.cat([torch.ones_like(negatives.text_exists), negatives.text_exists, negatives.image_exists])
            labels = (torch.arange(3 * size, device=exists.device) < size).long().masked_fill(~exists, -100)
            output.itm_logits, output.itm_labels = self.matching_head(fused.pooled[-3 * size :]), labels
            output.losses["itm"] = self.matching_head.loss(output.itm_logits, labels)
            _note_accuracy(output.metrics, "itm", output.itm_logits, labels)
        return output

    def _draw(self, contrast: Contrast | None, size: int, ids: Tensor | None, device: torch.device) -> Negatives:
        """Hard negatives by the contrast's weights, or any other pair of the batch without a contrast."""
        if contrast is not None:
            to_text, to_image = contrast.image_to_text, contrast.text_to_image
        else:
            same = torch.eye(size, dtype=torch.bool, device=device)
            to_text = to_image = (~(same if ids is None else same | (ids[:, None] == ids))).float()
        text, text_exists = sample_negatives(to_text, original=self.config.original)
        image, image_exists = sample_negatives(to_image, original=self.config.original)
        return Negatives(text, image, text_exists, image_exists)

    def _pair(
        self, image: ImageState, text: TextState, negatives: Negatives, pixel_values: Tensor
    ) -> tuple[ImageState, TextState]:
        """3 B pairs: those of the batch, its images with drawn texts, its texts with drawn images."""
        size = len(image)
        own = torch.arange(size, device=negatives.text.device)
        images, texts = torch.cat([own, own, negatives.image]), torch.cat([own, negatives.text, own])
        if self.queue is None or self.queue.inputs == "none" or not self.queue.filled:
            return image[images], text[texts]
        # Queued inputs lie on the host, so here, and only here, the host must know what was drawn.
        from_queue = torch.cat([negatives.image, negatives.text]).cpu().unique()
        slots = from_queue[from_queue >= size] - size
        if not len(slots):
            return image[images], text[texts]
        pixels, ids, mask = self.queue.get_inputs(slots, pixel_values)
        all_images = ImageState.cat([image, self.backbone.begin_image(pixels)])
        all_texts = TextState.cat([text, self.backbone.begin_text(ids, mask)])
        row = torch.arange(size + self.queue.size)
        row[size + slots] = torch.arange(len(slots)) + size
        row = row.to(images.device)
        return all_images[row[images]], all_texts[row[texts]]

    def finish_original_checkpoint(self, tensors: Mapping[str, Tensor], report: LoadReport) -> None:
        """Notes if the original's two rankers disagree."""
        if self.matching_head is not None:
            report.notes.extend(describe_rank_output(tensors))

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights: the queue."""
        return {} if self.queue is None else self.queue.training_state()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from `training_state`."""
        if self.queue is not None:
            self.queue.load_training_state(state)


@torch.no_grad()
def _by_sample(output: PretrainingOutput, contrast: Contrast | None, mlm_labels: Tensor | None) -> dict[str, Tensor]:
    """Of each pair of a batch the sums of its losses, and the decisions that they are of, (2, B)."""
    found: dict[str, Tensor] = {}
    if contrast is not None:
        found["itc"] = torch.stack([contrast.sample_losses, torch.ones_like(contrast.sample_losses)])
    if output.mlm_logits is not None and mlm_labels is not None:
        found["mlm"] = _sums(output.mlm_logits.transpose(1, 2), mlm_labels)
    if output.itm_logits is not None and output.itm_labels is not None:
        pairs = output.itm_logits.unflatten(0, (3, -1)).permute(1, 2, 0)  # (B, 2, 3)
        found["itm"] = _sums(pairs, output.itm_labels.unflatten(0, (3, -1)).T)
    return found


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum (B,) of cross-entropies of logits (B, C, N) and labels (B, N), and the labels that count."""
    losses = cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    return torch.stack([losses.sum(1), (labels != -100).sum(1).to(losses)])


def _note_accuracy(metrics: dict[str, Tensor], name: str, logits: Tensor, labels: Tensor) -> None:
    decided = labels != -100
    count = decided.sum()
    right = ((logits.detach().argmax(dim=-1) == labels) & decided).sum()
    metrics[f"{name}_accuracy"], metrics[f"{name}_count"] = right / count.clamp(min=1), count
