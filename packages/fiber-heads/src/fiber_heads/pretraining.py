"""The coarse stage: image-text contrast, matching and masked tokens, each image and text begun once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fiber_backbone import FiberBackbone, ImageState, LoadReport, TextState
from torch import Tensor
from torch.nn.functional import cross_entropy

from fiber_heads.checkpoints import describe_rank_output
from fiber_heads.config import PretrainingConfig
from fiber_heads.contrastive import Contrast, ContrastiveHead, FeatureQueue, sample_negatives
from fiber_heads.distributed import BatchMean
from fiber_heads.draws import uniform
from fiber_heads.grad_cache import GradCache
from fiber_heads.initialization import initialize
from fiber_heads.masked_lm import MaskedLMHead
from fiber_heads.matching import MatchingHead
from fiber_heads.search import SearchModel
from fiber_heads.share import Begun, Pairs, Share, padded
from fiber_heads.task import TaskOutput

_TEXT, _IMAGE = range(2)  # what a number of a sample's seed is drawn for


@dataclass
class PretrainingOutput(TaskOutput):
    """One step; `loss` is the sum of the losses, and accuracies come with `..._count`, the decisions of this batch.

    Losses and accuracies are such that their means over the processes are those of the global batch.

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
        text: (B,) int64, row g in the global batch (row g % B of process g // B), or its number of rows + slot of the
            queue.
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
                gather_with_gradient=config.gather_with_gradient,
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
        seeds: Tensor | None = None,
        negatives: Negatives | None = None,
        mean: BatchMean | None = None,
        stage: Callable[..., TaskOutput] | None = None,
        source: Tensor | None = None,
        **_: Any,
    ) -> TaskOutput:
        """One step of all objectives; in training mode the queue takes in the batch afterwards.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (B, L).
            attention_mask: (B, L).
            mlm_input_ids: (B, L), some of them masked; for `"mlm"`.
            mlm_labels: (B, L), the tokens to predict, -100 elsewhere; for `"mlm"`.
            image_ids: (B,), equal for captions of one image.
            seeds: (B,) int64, of each sample one of its own, from which its negatives follow; by default torch's
                generator draws them.
            negatives: Pairs to match instead of drawn ones.
            source: (B,) int64, which data set each pair is of; with it come the losses of each pair.
            mean: Of the number of tokens over the parts of the global batch, see `passes`.
            stage: Does a part of the step in place of the whole, see `passes`.
            **_: Other keys of the batch.

        Returns:
            A `PretrainingOutput`; what a `stage` gives has less.
        """
        pairs = Pairs(pixel_values, input_ids, attention_mask, mlm_input_ids, mlm_labels, image_ids, seeds, source)
        mean = mean or BatchMean()
        if stage is not None:
            return stage(self, pairs, mean)
        begun = self.begin(pairs)
        share = Share(begun, attention_mask, image_ids)
        output = self.compare(begun, share, slice(None), pairs, mean, negatives)
        self.remember(share, [pairs.inputs()])
        return output

    def totals(self, *, mlm_labels: Tensor | None = None, **_: Any) -> Tensor | None:
        """The number of masked tokens; matching and contrast are means over pairs."""
        return None if self.word_head is None or mlm_labels is None else self._count((mlm_labels != -100).sum())

    def passes(self, parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Where pairs are compared with each other, those of all parts are: see `GradCache`.

        With `original` each part is compared in itself, as there.
        """
        if self.contrastive_head is not None:
            self.contrastive_head.limit()  # of a sharded model, forward passes change only what they gathered
        passes = super().passes(parts)
        if len(parts) == 1 or self.config.original or self.config.objectives == ("mlm",):
            return passes
        return GradCache(passes).passes()

    def begin(self, pairs: Pairs) -> Begun:
        """What the objectives need of each pair by itself: each image, text and masked text is begun once."""
        masked = self.word_head is not None and pairs.mlm_input_ids is not None
        text_inputs = [pairs.input_ids, pairs.mlm_input_ids] if masked else [pairs.input_ids]
        image = self.backbone.begin_image(pairs.pixel_values)
        texts = self.backbone.begin_text(torch.cat(text_inputs), pairs.attention_mask.repeat(len(text_inputs), 1))  # type: ignore[arg-type]
        size = len(image)
        text, begun = texts[:size], {}
        if self.contrastive_head is not None:
            begun["image_features"] = self._encode_image_state(image)
            begun["text_features"] = self._encode_text_state(text)
        if self.word_head is not None or self.matching_head is not None:
            begun["image"] = image.hidden_state
        if self.word_head is not None:
            begun["masked_text"] = texts[size:].hidden_state
        if self.matching_head is not None:
            begun["text"] = text.hidden_state
        return begun

    def compare(
        self,
        own: Begun,
        share: Share,
        part: slice,
        pairs: Pairs,
        mean: BatchMean,
        negatives: Negatives | None = None,
    ) -> PretrainingOutput:
        """The objectives of some pairs, over the candidates of the global batch.

        Args:
            own: Begun of these pairs.
            share: Of the global batch, all that this process has; among it these pairs.
            part: Their rows in it.
            pairs: They themselves.
            mean: Of the number of tokens over the parts of the global batch.
            negatives: Pairs to match instead of drawn ones.
        """
        contrast, losses = None, {}
        if self.contrastive_head is not None:
            features = share.begun["image_features"], share.begun["text_features"]
            contrast = self.contrastive_head(*features, self.queue, share.image_ids, part)
            losses["itc"] = contrast.loss
        joined: list[tuple[ImageState, TextState]] = []
        if self.word_head is not None:
            joined.append((ImageState(own["image"]), TextState(own["masked_text"], pairs.attention_mask)))
        if self.matching_head is not None:
            negatives = negatives or self._draw(contrast, share, part, pairs.seeds)
            joined.append(self._pair(own, share, part, negatives, pairs))
        fused = _Fused()
        if joined:
            fused = self._fused_objectives(joined, len(pairs.input_ids), pairs.mlm_labels, negatives, mean)
        losses |= fused.losses
        total = torch.stack(list(losses.values())).sum()
        output = PretrainingOutput(
            total, losses, fused.metrics, None, fused.mlm_logits, fused.itm_logits, fused.itm_labels
        )
        if pairs.source is not None:
            output.sample_losses = _by_sample(output, contrast, pairs.mlm_labels)
        return output

    def remember(self, share: Share, inputs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """In training mode the queue takes in this process's share, made of `inputs`."""
        if self.training and self.queue is not None:
            kept = None
            if self.queue.inputs != "none":
                pixels, *texts = zip(*inputs, strict=True)
                length = max(each.shape[1] for each in texts[0])
                ids, masks = (torch.cat([padded(each, length) for each in part]) for part in texts)
                kept = torch.cat(pixels), ids, masks
            features = share.begun["image_features"], share.begun["text_features"]
            self.queue.push(*features, share.image_ids, kept)

    def _fused_objectives(
        self,
        pairs: list[tuple[ImageState, TextState]],
        size: int,
        mlm_labels: Tensor | None,
        negatives: Negatives | None,
        mean: BatchMean,
    ) -> _Fused:
        """Masked tokens (first B = `size` pairs) and matching (last 3 B) in one pass over the fused blocks."""
        image, text = ImageState.cat([pair[0] for pair in pairs]), TextState.cat([pair[1] for pair in pairs])
        fused = self.backbone.fuse(image, text)
        assert fused.text_features is not None and fused.pooled is not None
        output = _Fused()
        if self.word_head is not None and mlm_labels is not None:
            output.mlm_logits = self.word_head(fused.text_features[:size, : mlm_labels.shape[1]])
            count = mean(self._count((mlm_labels != -100).sum())).clamp(min=mean.least)
            output.losses["mlm"] = self.word_head.loss(output.mlm_logits, mlm_labels, count)
            _note_accuracy(output.metrics, "mlm", output.mlm_logits, mlm_labels, count)
        if self.matching_head is not None and negatives is not None:
            exists = torch.cat([torch.ones_like(negatives.text_exists), negatives.text_exists, negatives.image_exists])
            labels = (torch.arange(3 * size, device=exists.device) < size).long().masked_fill(~exists, -100)
            output.itm_logits, output.itm_labels = self.matching_head(fused.pooled[-3 * size :]), labels
            # Two images among the candidates are a negative for every pair: all parts have equally many decisions.
            output.losses["itm"] = self.matching_head.loss(output.itm_logits, labels)
            _note_accuracy(output.metrics, "itm", output.itm_logits, labels, (labels != -100).sum())
        return output

    def _count(self, number: Tensor) -> Tensor:
        """A number to divide losses by, in their type."""
        return number.to(torch.promote_types(self.dtype, torch.float32))

    def _draw(self, contrast: Contrast | None, share: Share, part: slice, seeds: Tensor | None) -> Negatives:
        """Hard negatives by the contrast's weights, or any other pair of the global batch without a contrast."""
        if contrast is not None:
            to_text, to_image = contrast.image_to_text, contrast.text_to_image
        else:
            to_text = to_image = share.other_images(part).float()
        found = []
        for purpose, weights in ((_TEXT, to_text), (_IMAGE, to_image)):
            numbers = None if seeds is None else uniform(seeds, purpose)
            rows, exists = sample_negatives(weights, numbers, original=self.config.original)
            if contrast is not None and self.config.original:  # whose candidates are this process's
                size = len(share.attention_mask)
                rows = rows + torch.where(rows < size, share.own_rows(slice(0, 1)), share.num_rows - size)
            found.append((rows, exists))
        (text, text_exists), (image, image_exists) = found
        return Negatives(text, image, text_exists, image_exists)

    def _pair(
        self, own: Begun, share: Share, part: slice, negatives: Negatives, pairs: Pairs
    ) -> tuple[ImageState, TextState]:
        """3 B pairs: those of the batch, its images with drawn texts, its texts with drawn images."""
        image, text = ImageState(own["image"]), TextState(own["text"], pairs.attention_mask)
        # A slot of the queue stands for the pair itself until it is encoded.
        in_batch = [
            torch.where(rows < share.num_rows, rows, share.own_rows(part)) for rows in (negatives.image, negatives.text)
        ]
        other_image, other_text = share.fetch_images(in_batch[0]), share.fetch_texts(in_batch[1])
        if self.queue is not None and self.queue.inputs != "none" and self.queue.filled:
            other_image, other_text = self._with_queued(other_image, other_text, negatives, share.num_rows, pairs)
        return ImageState.cat([image, image, other_image]), TextState.cat([text, other_text, text])

    def _with_queued(
        self, image: ImageState, text: TextState, negatives: Negatives, start: int, pairs: Pairs
    ) -> tuple[ImageState, TextState]:
        """Negatives (B,) of the global batch, and of the queue, whose slots count from `start`, in their places."""
        assert self.queue is not None
        # Queued inputs lie on the host, so the host must know what was drawn.
        slots = torch.cat([negatives.image, negatives.text]).cpu().unique()
        slots = slots[slots >= start] - start
        if not len(slots):
            return image, text
        pixels, ids, mask = self.queue.get_inputs(slots, pairs.pixel_values)
        all_images = ImageState.cat([image, self.backbone.begin_image(pixels)])
        all_texts = TextState.cat([text, self.backbone.begin_text(ids, mask)])
        place = torch.zeros(self.queue.size, dtype=torch.int64)
        place[slots] = torch.arange(len(slots)) + len(image)
        place, own = place.to(pixels.device), torch.arange(len(image), device=pixels.device)
        rows = [
            torch.where(drawn < start, own, place[(drawn - start).clamp(min=0)])
            for drawn in (negatives.image, negatives.text)
        ]
        return all_images[rows[0]], all_texts[rows[1]]

    def finish_original_checkpoint(self, tensors: Mapping[str, Tensor], report: LoadReport) -> None:
        """Notes if the original's two rankers disagree."""
        if self.matching_head is not None:
            report.notes.extend(describe_rank_output(tensors))

    def prepare_sharding(self) -> None:
        """Refuses a queue of inputs, of which processes encode unlike numbers while they wait for each other's weights.

        Raises:
            ValueError: There is one.
        """
        if self.queue is not None and self.queue.inputs != "none":
            raise ValueError(
                f"a queue with queue_inputs={self.queue.inputs!r} cannot be trained in pieces (fsdp, hsdp); set "
                "queue_inputs to 'none', or train with ddp"
            )

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


def _note_accuracy(metrics: dict[str, Tensor], name: str, logits: Tensor, labels: Tensor, count: Tensor) -> None:
    """The share of right decisions among `count`, and how many there are here."""
    decided = labels != -100
    right = ((logits.detach().argmax(dim=-1) == labels) & decided).sum()
    right = right.to(torch.promote_types(logits.dtype, torch.float32))
    metrics[f"{name}_accuracy"], metrics[f"{name}_count"] = right / count.clamp(min=1e-6), decided.sum()
