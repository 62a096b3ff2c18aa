"""Visual reasoning over two images: is a statement about them true (NLVR2; FIBER, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from torch import Tensor
from torch.nn.functional import cross_entropy

from fiber_heads.classification import ClassificationHead, image_rows
from fiber_heads.initialization import initialize
from fiber_heads.task import TaskModel, TaskOutput, check_batch


class FiberForVisualReasoning(TaskModel):
    """Judges statements about two images: each is fused with the statement, a classifier reads both results.

    Args:
        backbone: Any backbone with a joint projection.

    Raises:
        ValueError: If the backbone has no joint projection.
    """

    def __init__(self, backbone: FiberBackbone) -> None:
        super().__init__(backbone)
        if not backbone.config.joint_projection:
            raise ValueError("visual reasoning needs a backbone with FiberConfig(joint_projection=True)")
        self.reasoning_head = ClassificationHead(4 * backbone.text_dim, 2 * backbone.text_dim, 2)
        initialize(self.reasoning_head, backbone.config.initializer_range)

    def forward(self, batch: Mapping[str, Any]) -> TaskOutput:
        """Logits (B, 2), (false, true), of statements, and the loss where the batch has labels.

        Args:
            batch: `pixel_values` (B, 2, 3, H, W), or (1, 2, 3, H, W) for many statements about one pair of images;
                `input_ids` and `attention_mask` (B, L); optionally `labels` (B,) int64, 1 = true.

        Returns:
            The loss is the mean cross-entropy.

        Raises:
            KeyError: If the batch lacks a key.
            ValueError: If `pixel_values` holds no pairs, or pairs and statements do not fit.
        """
        check_batch(batch, ("pixel_values", "input_ids", "attention_mask"))
        pixels = batch["pixel_values"]
        if pixels.ndim != 5 or pixels.shape[1] != 2:
            raise ValueError(
                f"pixel_values must have the shape (batch, 2, 3, height, width), got {tuple(pixels.shape)}; stack the "
                "first and the second images along dimension 1"
            )
        image = self.backbone.begin_image(pixels.flatten(0, 1))
        text = self.backbone.begin_text(batch["input_ids"], batch["attention_mask"])
        if (rows := image_rows(len(pixels), len(text), 2, text.hidden_state.device)) is not None:
            image = image[rows]
        pooled = self.backbone.fuse(image, text.repeat_interleave(2)).pooled
        assert pooled is not None
        logits = self.reasoning_head(pooled.view(len(text), -1))  # rows 2 b and 2 b + 1 side by side
        output = TaskOutput(logits.new_zeros(()), logits=logits)
        if (labels := batch.get("labels")) is not None:
            output.loss = output.losses["reasoning"] = cross_entropy(logits, labels)
            output.metrics["reasoning_accuracy"] = (logits.detach().argmax(dim=1) == labels).float().mean()
            output.metrics["reasoning_count"] = torch.full_like(output.metrics["reasoning_accuracy"], len(labels))
        return output

    @torch.no_grad()
    def judge(self, first: Any, second: Any, statements: str | Sequence[str]) -> Tensor:
        """How likely statements about two images are true.

        Args:
            first: The first image of each pair, as the processor takes them; one pair may serve all statements.
            second: The second images, as many.
            statements: One statement or several (B).

        Returns:
            (B,) probabilities, 0..1.

        Raises:
            ValueError: If the model has no processor, a statement is empty, or images and statements do not fit.
        """
        if not statements:
            raise ValueError("there is no statement; give a text or a list of texts")
        batch = self.prepare(first, statements)
        others = self.prepare(second)["pixel_values"]
        if len(others) != len(batch["pixel_values"]):
            raise ValueError(
                f"there are {len(batch['pixel_values'])} first and {len(others)} second images; give as many of both"
            )
        batch["pixel_values"] = torch.stack([batch["pixel_values"], others], dim=1)
        return self(batch).logits.softmax(dim=1)[:, 1]
