"""Detection by name, phrase grounding and referring expressions: the fine stage's model (FIBER, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from fiber_backbone import FiberBackbone, ImageState, KeyMap, LoadReport, TextState
from torch import Tensor

from fiber_heads.distributed import BatchMean
from fiber_heads.exported import ExportPart
from fiber_heads.grounding.asking import category_names, check_words, named_results, settings_above, tell_unasked
from fiber_heads.grounding.assignment import assign_anchors
from fiber_heads.grounding.checkpoints import HEAD, original_grounding_map
from fiber_heads.grounding.config import DetectionSettings, GroundingConfig
from fiber_heads.grounding.detections import Detections
from fiber_heads.grounding.exported import detector_part
from fiber_heads.grounding.head import GroundingHead, GroundingPredictions
from fiber_heads.grounding.losses import GroundingLoss
from fiber_heads.grounding.postprocess import detect_boxes, merge_chunks
from fiber_heads.grounding.scaling import Scaling
from fiber_heads.processing import Images, PromptProcessor, Texts, as_list
from fiber_heads.results import Results
from fiber_heads.task import TaskModel, TaskOutput, check_batch, is_bias

PIXEL_MARGIN = 0.5  # from the border of a box to the centers of its outermost pixels
REFERRING = DetectionSettings(score_threshold=0.0, candidates_per_level=3000)  # the original's for RefCOCO


@dataclass
class GroundingOutput(TaskOutput):
    """One step.

    Attributes:
        predictions: At every anchor.
        matched: (B, A) int64, the row of each anchor's box, or -1; None without targets.
        sample_losses: Where `source` was given, by loss each image's sum and what it is divided by, (2, B).
    """

    predictions: GroundingPredictions | None = None
    matched: Tensor | None = None
    sample_losses: dict[str, Tensor] | None = None


class FiberForGrounding(TaskModel):
    """Finds what a text names.

    Args:
        backbone: Built with `FiberConfig.fine_stage()`.
        config: Sizes and losses of the head.

    Raises:
        ValueError: If the backbone is not one of the fine stage, or its strides are not the head's.
    """

    example = 'model.detect("photo.jpg", ["dog", "cat"])'
    config_class = GroundingConfig
    explained_by = "image"  # whose places the score is of
    config: GroundingConfig

    def __init__(self, backbone: FiberBackbone, config: GroundingConfig | None = None) -> None:
        super().__init__(backbone, config)
        _check_backbone(backbone, self.config)
        widths = backbone.stage_dims[-3:]
        self.grounding_head = GroundingHead((widths[0], widths[1], widths[2]), backbone.text_dim, self.config)
        self.config = self.grounding_head.config

    @property
    def loss(self) -> GroundingLoss:
        """The losses by the settings as they are now."""
        config = self.config
        return GroundingLoss(
            config.focal_alpha,
            config.focal_gamma,
            config.box_loss_weight,
            config.centerness_loss_weight,
            config.token_loss_weight,
            config.max_tokens - 1 if config.no_object_column else None,
            PIXEL_MARGIN if config.inclusive_boxes else 0.0,
        )

    def set_gradient_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of the backbone and of the dynamic head in the backward pass."""
        super().set_gradient_checkpointing(enable)
        self.grounding_head.tower.gradient_checkpointing = enable

    def forward(
        self,
        *,
        pixel_values: Tensor,
        image_sizes: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        original_sizes: Tensor | None = None,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        mean: BatchMean | None = None,
        return_loss: bool = True,
        source: Tensor | None = None,
        **_: Any,
    ) -> GroundingOutput:
        """Predictions, and with targets their losses.

        Args:
            pixel_values: (B, 3, H, W).
            image_sizes: (B, 2), true height and width.
            input_ids: (B, L).
            attention_mask: (B, L).
            original_sizes: (B, 2), height and width before the images were resized; only inclusive boxes need them
                (`Scaling`), and without them images count as not resized.
            targets: For losses, for each image `boxes` (n, 4) xyxy in pixels of `pixel_values`, half-open, and
                `positive_map` (n, L) bool, the tokens that speak of each box.
            mean: Of what the losses are divided by over the parts of the global batch, see `TaskModel.passes`.
            return_loss: Whether to compute losses if the batch has what they need; transformers' Trainer looks for it.
            source: (B,) int64, which data set each image is of; with it come the losses of each image.
            **_: Other keys of the batch.

        Raises:
            ValueError: If a positive map does not fit.
        """
        image = self._begin(pixel_values, image_sizes)
        found = self._predict(image, self.backbone.begin_text(input_ids, attention_mask), image_sizes)
        if targets is None or not return_loss:
            nothing = attention_mask.new_zeros(())
            return GroundingOutput(nothing, logits=found.token_logits, predictions=found)
        mean = mean or BatchMean()
        loss = replace(self.loss, reduce=mean, least=mean.least)
        places = found.anchors, found.anchors_per_level, found.valid
        boxes, matched = self._match(places, targets, image_sizes, original_sizes)
        sums = loss.sums(
            found.token_logits,
            found.deltas,
            found.centerness,
            anchors=found.anchors,
            matched=matched,
            boxes=boxes,
            positive_maps=[target["positive_map"] for target in targets],
            text_mask=attention_mask,
            valid=found.valid,
        )
        losses = loss.means(sums)
        total = torch.stack(list(losses.values())).sum()
        of_samples = None if source is None else sums.by_sample()
        return GroundingOutput(total, losses, {}, found.token_logits, found, matched, of_samples)

    def totals(self, **batch: Any) -> Tensor | None:
        """Anchors with a box, and the sum of their centerness: which anchors those are does not hang on predictions."""
        if (targets := batch.get("targets")) is None:
            return None
        places = self.grounding_head.places(batch["pixel_values"], batch["image_sizes"])
        boxes, matched = self._match(places, targets, batch["image_sizes"], batch.get("original_sizes"))
        return self.loss.totals(places[0].to(torch.promote_types(self.dtype, torch.float32)), boxes, matched)

    def _match(
        self,
        places: tuple[Tensor, Sequence[int], Tensor | None],
        targets: Sequence[Mapping[str, Tensor]],
        image_sizes: Tensor,
        original_sizes: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        """The boxes as they are taught, and for each anchor the row of its own, (B, A)."""
        anchors, per_level, valid = places
        scaling = Scaling(image_sizes, original_sizes, self.config.inclusive_boxes)
        boxes = scaling.to_taught([target["boxes"] for target in targets])
        return boxes, assign_anchors(anchors, per_level, boxes, valid, self.config.top_k, self.loss.margin)

    def detect(
        self,
        images: Images,
        categories: Texts,
        *,
        threshold: float = 0.2,
        chunk_size: int | None = None,
        settings: DetectionSettings | None = None,
    ) -> Results[Detections]:
        """Objects of named categories (open-vocabulary detection).

        Images are computed once below the cut for all prompts.

        Args:
            images: One image or several, as the processor takes them.
            categories: Their names; a lone text is one category, or several with separators between them, see
                `fiber_heads.grounding.asking.category_names`.
            threshold: The returned scores lie above this; a score is the root of the category's probability times the
                centerness.
            chunk_size: Categories of a prompt; as many as fit by default.
            settings: Further settings; `threshold` goes before theirs.

        Returns:
            For each image `boxes` (K, 4) xyxy in its own pixels, half-open, `scores` (K,) descending, `labels` (K,)
            indices into `categories`, and `text_labels`, their names.

        Raises:
            ValueError: If there is no category, one is empty or does not fit a prompt, or the model has no processor.
        """
        names = category_names(categories)
        prompts = self._prompts().category_prompts(names, chunk_size)
        found = self.find_categories(self.prepare(images), prompts, settings_above(threshold, settings))
        return named_results(images, found, [names] * len(found), threshold)

    def ground(
        self,
        images: Images,
        captions: Texts,
        *,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
        threshold: float = 0.2,
        settings: DetectionSettings | None = None,
    ) -> Results[Detections]:
        """What the phrases of a sentence speak of (phrase grounding).

        Args:
            images: One image or several.
            captions: A sentence for each.
            spans: For each sentence the [start, end) characters of its phrases; by default its noun phrases.
            threshold: As of `detect`.
            settings: Further settings; `threshold` goes before theirs.

        Returns:
            As `detect`; `labels` are indices into the sentence's phrases, `text_labels` the phrases.

        Raises:
            ValueError: If there are not as many sentences as images, one is empty, or none has a phrase that is asked.
                A sentence without a phrase among others, and a phrase that was cut off, is warned of.
        """
        return self._ground(images, as_list(captions), spans, threshold, settings_above(threshold, settings))

    def _ground(
        self,
        images: Images,
        texts: list[str],
        spans: Sequence[Sequence[tuple[int, int]]] | None,
        threshold: float,
        settings: DetectionSettings,
    ) -> Results[Detections]:
        check_words(texts)
        inputs = self.prepare(images, texts)
        if len(inputs["pixel_values"]) != len(texts):
            raise ValueError(f"{len(inputs['pixel_values'])} images and {len(texts)} sentences came; give one each")
        prompts = self._prompts().phrase_prompts(texts, spans)
        tell_unasked(texts, prompts)
        return named_results(images, self.find({**inputs, **prompts}, settings), prompts["phrase_texts"], threshold)

    def refer(self, images: Images, expressions: Texts) -> Results[Detections]:
        """The one thing that an expression describes (referring expressions).

        Args:
            images: One image or several.
            expressions: One for each.

        Returns:
            As `ground`, with the best box of each image. Of an expression longer than the processor's `max_length`
            the remaining tokens are asked.

        Raises:
            ValueError: If there are not as many expressions as images, or one is empty.
        """
        texts = as_list(expressions)
        whole = [[(0, len(text))] for text in texts]
        found = self._ground(images, texts, whole, 0.0, REFERRING)
        return Results((each.best(1) for each in found), titles=found.titles)

    @torch.no_grad()
    def find(self, batch: Mapping[str, Any], settings: DetectionSettings | None = None) -> list[dict[str, Tensor]]:
        """Boxes for the phrases of each image's text: what `ground`, `refer` and evaluations do with tensors.

        Args:
            batch: `pixel_values` (B, 3, H, W), `image_sizes` (B, 2), `input_ids` and `attention_mask` (B, L), and for
                each image `phrase_maps` (P, L) bool and `phrase_labels` (P,) int64; optionally `original_sizes`
                (B, 2), (height, width) to scale the boxes to; without them they stay in the prepared images' pixels.
            settings: Thresholds and counts.

        Returns:
            For each image `boxes`, `scores` and `labels`, see `detect_boxes`.

        Raises:
            KeyError: If the batch lacks a key.
        """
        check_batch(
            batch, ("pixel_values", "image_sizes", "input_ids", "attention_mask", "phrase_maps", "phrase_labels")
        )
        image = self._begin(batch["pixel_values"], batch["image_sizes"])
        text = self.backbone.begin_text(batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device))
        return self._find(batch, image, text, batch["phrase_maps"], batch["phrase_labels"], settings)

    @torch.no_grad()
    def find_categories(
        self,
        batch: Mapping[str, Any],
        prompts: Mapping[str, Any],
        settings: DetectionSettings | None = None,
        *,
        limit_together: bool = True,
    ) -> list[dict[str, Tensor]]:
        """Boxes for the categories of N prompts, all asked of every image, each computed once below the cut.

        Args:
            batch: `pixel_values`, `image_sizes` and optionally `original_sizes`, as of `find`.
            prompts: As `GroundingProcessor.category_prompts` gives them.
            settings: Thresholds and counts; `max_detections` holds for each prompt.
            limit_together: Whether it holds for all prompts together too. LVIS's fixed AP wants it not to.

        Returns:
            As `find`.
        """
        check_batch(batch, ("pixel_values", "image_sizes"))
        settings = settings or DetectionSettings()
        image = self._begin(batch["pixel_values"], batch["image_sizes"])
        texts = self.backbone.begin_text(
            prompts["input_ids"].to(self.device), prompts["attention_mask"].to(self.device)
        )
        chunks = []
        for number, (maps, labels) in enumerate(zip(prompts["phrase_maps"], prompts["phrase_labels"], strict=True)):
            text = texts[[number] * len(image)]
            chunks.append(self._find(batch, image, text, [maps] * len(image), [labels] * len(image), settings))
        limit = settings.max_detections if limit_together else None
        return [merge_chunks(of_image, limit) for of_image in zip(*chunks, strict=True)]

    def _find(
        self,
        batch: Mapping[str, Any],
        image: ImageState,
        text: TextState,
        phrase_maps: Sequence[Tensor],
        phrase_labels: Sequence[Tensor],
        settings: DetectionSettings | None,
    ) -> list[dict[str, Tensor]]:
        scaling = Scaling(batch["image_sizes"], batch.get("original_sizes"), self.config.inclusive_boxes)
        predictions = self._predict(image, text, scaling.image_sizes)
        found = detect_boxes(
            predictions.token_logits,
            predictions.deltas,
            predictions.centerness,
            anchors=predictions.anchors,
            anchors_per_level=predictions.anchors_per_level,
            image_sizes=scaling.limits,
            class_tokens=phrase_maps,
            labels=phrase_labels,
            valid=predictions.valid,
            settings=settings,
            keep_outside=scaling.inclusive,
        )
        return scaling.to_original(found)

    def explained_score(self, tokens: Tensor, target: str | None = None, **batch: Any) -> Tensor:
        """The mean logit of the words in question, at the anchor that it is highest at."""
        found = self(**batch).predictions
        logits = found.token_logits.masked_fill(~tokens[:, None], 0.0).sum(dim=-1) / tokens.sum(dim=1, keepdim=True)
        return (logits if found.valid is None else logits.masked_fill(~found.valid, -torch.inf)).amax(dim=1)

    def export_parts(self) -> dict[str, ExportPart]:
        """`detector`."""
        return {"detector": detector_part(self, self.backbone, self.config, self._look)}

    def _look(self, pixel_values: Tensor, image_sizes: Tensor, ids: Tensor, mask: Tensor) -> GroundingPredictions:
        return self._predict(self._begin(pixel_values, image_sizes), self.backbone.begin_text(ids, mask), image_sizes)

    def _begin(self, pixel_values: Tensor, image_sizes: Tensor) -> ImageState:
        own = image_sizes if self.config.padding_aware and self._differ(pixel_values, image_sizes) else None
        return self.backbone.begin_image(pixel_values, return_pyramid=True, image_sizes=own)

    def _predict(self, image: ImageState, text: TextState, image_sizes: Tensor) -> GroundingPredictions:
        fused = self.backbone.fuse(image, text)
        return self.grounding_head(fused.pyramid[-3:], fused.text_hidden_state, fused.attention_mask, image_sizes)

    def _differ(self, pixel_values: Tensor, image_sizes: Tensor) -> bool:
        """Whether images may be smaller than the batch; sizes on a device are not asked, which would stall it."""
        if torch.compiler.is_exporting():
            return True
        if image_sizes.is_cuda:
            return len(pixel_values) > 1
        stride, shape = self.config.strides[2], torch.tensor(pixel_values.shape[2:])
        return bool((-(-image_sizes // stride) * stride != shape).any())

    def _prompts(self) -> PromptProcessor:
        if not isinstance(self.processor, PromptProcessor):
            raise ValueError(
                "this model has no processor for categories and phrases; set model.processor, for instance to "
                "fiber_data.GroundingProcessor.from_pretrained(folder)"
            )
        return self.processor

    def original_head_map(self) -> KeyMap:
        """The original detector's head."""
        return original_grounding_map(self.config, "grounding_head.")

    def original_may_lack(self, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
        """The whole head, which a checkpoint of the coarse stage has not; of a detector's only prompt vectors."""
        return ("grounding_head.prompt",) if any(HEAD.match(name) for name in tensors) else ("grounding_head.",)

    def finish_original_checkpoint(self, tensors: Mapping[str, Tensor], report: LoadReport) -> None:
        """Reads offsets and boxes as the original's head was trained to, if the checkpoint came with one."""
        if any(HEAD.match(name) for name in report.taken):
            self.grounding_head.read_as(GroundingConfig.as_original())

    def start_from(self, other: TaskModel) -> LoadReport:
        """As of `TaskModel`; the head of another detector brings how its offsets and boxes are to be read."""
        report = super().start_from(other)
        if isinstance(other, FiberForGrounding) and any(name.startswith("grounding_head.") for name in report.taken):
            self.grounding_head.read_as(other.config)
        return report

    def decayed_by_original(self, name: str) -> bool:
        """The original's detector decays whatever is not called a bias."""
        return not is_bias(name)


def _check_backbone(backbone: FiberBackbone, config: GroundingConfig) -> None:
    """ValueError if the head cannot stand on a backbone."""
    if not backbone.has_pyramid:
        raise ValueError(
            "grounding needs a feature pyramid, which this backbone's image stream or fusion does not give; build it "
            "with FiberConfig(image_stream='swin', fusion='gated')"
        )
    switches = backbone.config
    if switches.window_policy != "pad" or not switches.pyramid_norms or not switches.fused_text_norm:
        raise ValueError("grounding needs a backbone of the fine stage: FiberBackbone.from_config(config.fine_stage())")
    strides = tuple(backbone.strides[-3:])
    if strides != config.strides[:3]:
        raise ValueError(
            f"the backbone's last maps have strides {strides}, but the head reads {config.strides[:3]}; set "
            "GroundingConfig.strides"
        )
