"""The model: a classifier of pairs of an image and a hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_heads import ClassificationHead, TaskModel, TaskOutput, initialize
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout


@dataclass
class EntailmentConfig:
    """What the model tells apart.

    Args:
        labels: In the order of the logits.
        dropout: On the pooled pair, in [0, 1).
    """

    labels: tuple[str, ...] = ("entailment", "neutral", "contradiction")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.labels = tuple(self.labels)  # a list, when it comes from a file


class FiberForEntailment(TaskModel):
    """Says whether an image entails a hypothesis.

    Args:
        backbone: Any backbone with a joint projection.
        config: The labels.
    """

    config_class = EntailmentConfig

    def __init__(self, backbone: FiberBackbone, config: EntailmentConfig | None = None) -> None:
        super().__init__(backbone, config)
        width = 2 * backbone.text_dim
        self.entailment_head = ClassificationHead(width, width, len(self.config.labels))
        initialize(self.entailment_head)

    def forward(
        self,
        *,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        entailment_labels: Tensor | None = None,
        **_: Any,
    ) -> TaskOutput:
        """Logits (B, labels) of hypotheses, and the mean cross-entropy where the batch has labels.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (B, L).
            attention_mask: (B, L).
            entailment_labels: (B,) int64.
            **_: Other keys of the batch.
        """
        pooled = self.backbone(pixel_values, input_ids, attention_mask).pooled
        logits = self.entailment_head(dropout(pooled, self.config.dropout, self.training))
        if entailment_labels is None:
            return TaskOutput(logits.new_zeros(()), logits=logits)
        loss = cross_entropy(logits, entailment_labels)
        accuracy = (logits.detach().argmax(dim=1) == entailment_labels).float().mean()
        return TaskOutput(loss, {"entailment": loss}, {"entailment_accuracy": accuracy}, logits)

    @torch.no_grad()
    def judge(self, image: Any, hypothesis: str) -> dict[str, float]:
        """The probability 0..1 of each label, for an image as the processor takes it."""
        chances = self(**self.prepare(image, hypothesis)).logits.softmax(dim=1)[0]
        return dict(zip(self.config.labels, chances.tolist(), strict=True))
