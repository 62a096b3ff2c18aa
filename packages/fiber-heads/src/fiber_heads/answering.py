"""Visual question answering: which of a fixed list of answers fits an image and a question (FIBER, section 4.1)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fiber_heads.classification import ClassificationHead, image_rows
from fiber_heads.exported import ExportPart, fused_part
from fiber_heads.initialization import initialize
from fiber_heads.processing import Images, Texts, as_list, image_list
from fiber_heads.results import Result, Results
from fiber_heads.task import TaskModel, TaskOutput


@dataclass(frozen=True)
class Answer(Result):
    """One answer to one question.

    Attributes:
        text: One of the model's answers.
        probability: Sigmoid of its logit, 0..1: how sure the model is of this answer alone. Several answers may be
            right ("sofa", "couch"), so the probabilities of all answers do not sum to one.
    """

    text: str
    probability: float

    def __str__(self) -> str:
        return f"{self.text} ({self.probability:.3f})"


@dataclass
class AnsweringConfig:
    """What the model can answer.

    Args:
        answers: The answers in the order of the logits; 3129 for VQAv2.

    Raises:
        ValueError: If there is no answer, or one occurs twice.
    """

    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        self.answers = tuple(self.answers)  # a list, when it comes from a file
        if not self.answers:
            raise ValueError("answers is empty; give every answer that the model may choose, such as ('yes', 'no')")
        twice, count = Counter(self.answers).most_common(1)[0]
        if count > 1:
            raise ValueError(f"answers holds {twice!r} {count} times; each answer has one logit, so list it once")


class FiberForQuestionAnswering(TaskModel):
    """Chooses among fixed answers.

    Args:
        backbone: Any backbone with a joint projection.
        config: The answers.

    Raises:
        ValueError: If the backbone has no joint projection.
    """

    example = 'model.answer("photo.jpg", "what is on the table?")'
    config_class = AnsweringConfig
    config: AnsweringConfig

    def __init__(self, backbone: FiberBackbone, config: AnsweringConfig) -> None:
        super().__init__(backbone, config)
        if not backbone.config.joint_projection:
            raise ValueError("question answering needs a backbone with FiberConfig(joint_projection=True)")
        width = 2 * backbone.text_dim
        self.answer_head = ClassificationHead(width, width, len(config.answers))
        initialize(self.answer_head, backbone.config.initializer_range)

    def forward(
        self,
        *,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        answer_targets: Tensor | None = None,
        return_loss: bool = True,
        **_: Any,
    ) -> TaskOutput:
        """Logits (B, A) of questions, and the loss where the batch has targets.

        Args:
            pixel_values: (B, 3, H, W), or (1, 3, H, W) for many questions about one image, which is then begun once.
            input_ids: (B, L).
            attention_mask: (B, L).
            answer_targets: (B, A) in 0..1, how right each answer is (VQAv2: 0.3 for each annotator who gave it, at
                most 1).
            return_loss: Whether to compute losses if the batch has what they need; transformers' Trainer looks for it.
            **_: Other keys of the batch.

        Returns:
            The loss is the binary cross-entropy summed over the answers, mean over the questions. `answer_accuracy` is
            the mean target of the answers that the model holds best.

        Raises:
            ValueError: If images and questions do not pair up, or the targets do not fit the logits.
        """
        image = self.backbone.begin_image(pixel_values)
        text = self.backbone.begin_text(input_ids, attention_mask)
        if (rows := image_rows(len(image), len(text), 1, text.hidden_state.device)) is not None:
            image = image[rows]
        pooled = self.backbone.fuse(image, text).pooled
        assert pooled is not None
        logits = self.answer_head(pooled)
        if answer_targets is None or not return_loss:
            return TaskOutput(logits.new_zeros(()), logits=logits)
        if answer_targets.shape != logits.shape:
            raise ValueError(
                f"answer_targets must have the shape (questions, answers) = {tuple(logits.shape)}, got "
                f"{tuple(answer_targets.shape)}; encode the targets with this model's config.answers"
            )
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = binary_cross_entropy_with_logits(wide, answer_targets.to(wide), reduction="none").sum(dim=1).mean()
        best = logits.detach().argmax(dim=1, keepdim=True)
        accuracy = answer_targets.gather(1, best).mean()
        metrics = {"answer_accuracy": accuracy, "answer_count": torch.full_like(accuracy, len(logits))}
        return TaskOutput(loss, {"answer": loss}, metrics, logits)

    def explained_score(self, tokens: Tensor, target: str | None = None, **batch: Any) -> Tensor:
        """The logit of an answer, of the best one by default."""
        if target is not None and target not in self.config.answers:
            raise ValueError(f"{target!r} is none of the model's {len(self.config.answers):,} answers")
        logits = self(**batch).logits
        return logits.amax(dim=1) if target is None else logits[:, self.config.answers.index(target)]

    def export_parts(self) -> dict[str, ExportPart]:
        """`fused`, with the logits of the answers."""
        return {"fused": fused_part(self.backbone, self.answer_head)}

    @torch.no_grad()
    def answer(self, images: Images, questions: Texts, *, top_k: int = 1) -> Results[Results[Answer]]:
        """The best answers to questions about images.

        Args:
            images: One image that all questions are about, encoded once, or one image for each question, as the
                processor takes them.
            questions: One question or several (B).
            top_k: How many answers to give each, at least 1; all if there are fewer.

        Returns:
            For each question its answers, best first.

        Raises:
            ValueError: If the model has no processor, a question is empty, or images and questions do not pair up.
        """
        if not questions:
            raise ValueError("there is no question; give a text or a list of texts")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, is {top_k}")
        asked = as_list(questions)
        logits = self(**self.prepare(images, asked)).logits
        best = logits.topk(min(top_k, logits.shape[1]), dim=1)
        found = [
            Results(Answer(self.config.answers[index], chance) for index, chance in zip(*row, strict=True))
            for row in zip(best.indices.tolist(), best.values.sigmoid().tolist(), strict=True)
        ]
        given = image_list(images)
        return Results(
            found, titles=asked, images=[(image,) for image in (given if len(given) > 1 else given * len(found))]
        )
