"""Visual reasoning over two images: is a statement about them true (NLVR2; FIBER, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from torch import Tensor
from torch.nn.functional import cross_entropy

from fiber_heads.classification import ClassificationHead, image_rows
from fiber_heads.exported import ExportPart, couples_part
from fiber_heads.initialization import initialize
from fiber_heads.processing import Images, Texts, as_list, image_list
from fiber_heads.results import Result, Results
from fiber_heads.task import TaskModel, TaskOutput


@dataclass(frozen=True)
class Judgment(Result):
    """What the model thinks of one statement.

    Attributes:
        statement: As it came.
        probability: That it is true, 0..1.
    """

    statement: str
    probability: float

    def __str__(self) -> str:
        verdict = "true" if self.probability > 0.5 else "false"
        return f"{self.statement}: {verdict} ({self.probability:.3f} that it is true)"


class FiberForVisualReasoning(TaskModel):
    """Judges statements about two images: each is fused with the statement, a classifier reads both results.

    Args:
        backbone: Any backbone with a joint projection.

    Raises:
        ValueError: If the backbone has no joint projection.
    """

    example = 'model.judge("left.jpg", "right.jpg", "both images show two dogs")'

    def __init__(self, backbone: FiberBackbone) -> None:
        super().__init__(backbone)
        if not backbone.config.joint_projection:
            raise ValueError("visual reasoning needs a backbone with FiberConfig(joint_projection=True)")
        self.reasoning_head = ClassificationHead(4 * backbone.text_dim, 2 * backbone.text_dim, 2)
        initialize(self.reasoning_head, backbone.config.initializer_range)

    def forward(
        self,
        *,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        **_: Any,
    ) -> TaskOutput:
        """Logits (B, 2), (false, true), of statements, and the loss where the batch has labels.

        Args:
            pixel_values: (B, 2, 3, H, W), or (1, 2, 3, H, W) for many statements about one pair of images.
            input_ids: (B, L).
            attention_mask: (B, L).
            labels: (B,) int64, 1 = true.
            **_: Other keys of the batch.

        Returns:
            The loss is the mean cross-entropy.

        Raises:
            ValueError: If `pixel_values` holds no pairs, or pairs and statements do not fit.
        """
        if pixel_values.ndim != 5 or pixel_values.shape[1] != 2:
            raise ValueError(
                f"pixel_values must have the shape (batch, 2, 3, height, width), got {tuple(pixel_values.shape)}; "
                "stack the first and the second images along dimension 1"
            )
        image = self.backbone.begin_image(pixel_values.flatten(0, 1))
        text = self.backbone.begin_text(input_ids, attention_mask)
        if (rows := image_rows(len(pixel_values), len(text), 2, text.hidden_state.device)) is not None:
            image = image[rows]
        pooled = self.backbone.fuse(image, text.repeat_interleave(2)).pooled
        assert pooled is not None
        logits = self.reasoning_head(pooled.view(len(text), -1))  # rows 2 b and 2 b + 1 side by side
        if labels is None:
            return TaskOutput(logits.new_zeros(()), logits=logits)
        loss = cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        metrics = {"reasoning_accuracy": accuracy, "reasoning_count": torch.full_like(accuracy, len(labels))}
        return TaskOutput(loss, {"reasoning": loss}, metrics, logits)

    def explained_score(self, tokens: Tensor, target: str | None = None, **batch: Any) -> Tensor:
        """How much more likely a statement is true than false; of (2 B, 3, H, W) images each two are a pair."""
        pixels = batch["pixel_values"]
        batch["pixel_values"] = pixels.unflatten(0, (-1, 2)) if pixels.ndim == 4 else pixels
        logits = self(**batch).logits
        return logits[:, 1] - logits[:, 0]

    def export_parts(self) -> dict[str, ExportPart]:
        """`fused`: logits (B, 2) of statements about pairs of images (B, 2, 3, H, W)."""
        return {"fused": couples_part(self.backbone, self.reasoning_head)}

    @torch.no_grad()
    def judge(self, first: Images, second: Images, statements: Texts) -> Results[Judgment]:
        """How likely statements about two images are true.

        Args:
            first: The first image of each pair, as the processor takes them; one pair may serve all statements.
            second: The second images, as many.
            statements: One statement or several (B).

        Returns:
            For each statement how likely it is true.

        Raises:
            ValueError: If the model has no processor, a statement is empty, or images and statements do not fit.
        """
        if not statements:
            raise ValueError("there is no statement; give a text or a list of texts")
        statements = as_list(statements)
        batch = self.prepare(first, statements)
        others = self.prepare(second)["pixel_values"]
        if len(others) != len(batch["pixel_values"]):
            raise ValueError(
                f"there are {len(batch['pixel_values'])} first and {len(others)} second images; give as many of both"
            )
        batch["pixel_values"] = torch.stack([batch["pixel_values"], others], dim=1)
        likely = self(**batch).logits.softmax(dim=1)[:, 1]
        pairs = list(zip(image_list(first), image_list(second), strict=True))
        return Results(
            (Judgment(*each) for each in zip(statements, likely.tolist(), strict=True)),
            images=pairs if len(pairs) > 1 else pairs * len(statements),
        )
