"""The model: a classifier of pairs of an image and a hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_heads import ClassificationHead, TaskModel, TaskOutput, check_batch, initialize
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

    def forward(self, batch: Mapping[str, Any]) -> TaskOutput:
        """Logits (B, labels) of hypotheses, and the mean cross-entropy where the batch has labels.

        Args:
            batch: `pixel_values` (B, 3, H, W); `input_ids` and `attention_mask` (B, L); optionally
                `entailment_labels` (B,) int64.
        """
        check_batch(batch, ("pixel_values", "input_ids", "attention_mask"))
        pooled = self.backbone(batch["pixel_values"], batch["input_ids"], batch["attention_mask"]).pooled
        logits = self.entailment_head(dropout(pooled, self.config.dropout, self.training))
        output = TaskOutput(logits.new_zeros(()), logits=logits)
        if (labels := batch.get("entailment_labels")) is not None:
            output.loss = output.losses["entailment"] = cross_entropy(logits, labels)
            output.metrics["entailment_accuracy"] = (logits.detach().argmax(dim=1) == labels).float().mean()
        return output

    @torch.no_grad()
    def judge(self, image: Any, hypothesis: str) -> dict[str, float]:
        """The probability 0..1 of each label, for an image as the processor takes it."""
        chances = self(self.prepare(image, hypothesis)).logits.softmax(dim=1)[0]
        return dict(zip(self.config.labels, chances.tolist(), strict=True))
