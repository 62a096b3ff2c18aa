"""Visual question answering: which of a fixed list of answers fits a picture and a question (FIBER, section 4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fiber_heads.classification import ClassificationHead
from fiber_heads.initialization import initialize
from fiber_heads.task import TaskModel, TaskOutput, check_batch


class Answer(NamedTuple):
    """One answer to one question.

    Attributes:
        text: One of the model's answers.
        probability: Sigmoid of its logit, 0..1: how sure the model is of this answer alone. Several answers may be
            right ("sofa", "couch"), so the probabilities of all answers do not sum to one.
    """

    text: str
    probability: float


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

    def __init__(self, backbone: FiberBackbone, config: AnsweringConfig) -> None:
        super().__init__()
        sizes = backbone.config
        if not sizes.joint_projection:
            raise ValueError("question answering needs a backbone with FiberConfig(joint_projection=True)")
        self.backbone, self.config = backbone, config
        self.answer_head = ClassificationHead(2 * sizes.hidden_size, 2 * sizes.hidden_size, len(config.answers))
        initialize(self.answer_head, sizes.initializer_range)

    def to_config(self) -> dict[str, Any]:
        """Sizes of the backbone, and the answers."""
        return {"backbone": asdict(self.backbone.config), "answering": asdict(self.config)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FiberForQuestionAnswering:
        """A fresh model from `to_config`'s dictionary."""
        return cls(FiberBackbone(FiberConfig(**config["backbone"])), AnsweringConfig(**config["answering"]))

    def forward(self, batch: Mapping[str, Any]) -> TaskOutput:
        """Logits (B, A) of questions, and the loss where the batch has targets.

        Args:
            batch: `pixel_values` (B, 3, H, W), or (1, 3, H, W) for many questions about one picture, which is then
                begun once; `input_ids` and `attention_mask` (B, L); optionally `answer_targets` (B, A) in 0..1, how
                right each answer is (VQAv2: 0.3 for each annotator who gave it, at most 1).

        Returns:
            The loss is the binary cross-entropy summed over the answers, mean over the questions. `answer_accuracy` is
            the mean target of the answers that the model holds best.

        Raises:
            KeyError: If the batch lacks a key.
            ValueError: If pictures and questions do not pair up, or the targets do not fit the logits.
        """
        check_batch(batch, ("pixel_values", "input_ids", "attention_mask"))
        image = self.backbone.begin_image(batch["pixel_values"])
        text = self.backbone.begin_text(batch["input_ids"], batch["attention_mask"])
        if (rows := picture_rows(len(image), len(text), 1, text.hidden_state.device)) is not None:
            image = image[rows]
        pooled = self.backbone.fuse(image, text).pooled
        assert pooled is not None
        logits = self.answer_head(pooled)
        output = TaskOutput(logits.new_zeros(()), logits=logits)
        if (targets := batch.get("answer_targets")) is None:
            return output
        if targets.shape != logits.shape:
            raise ValueError(
                f"answer_targets must have the shape (questions, answers) = {tuple(logits.shape)}, got "
                f"{tuple(targets.shape)}; encode the targets with this model's config.answers"
            )
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = binary_cross_entropy_with_logits(wide, targets.to(wide), reduction="none")
        output.loss = output.losses["answer"] = losses.sum(dim=1).mean()
        best = logits.detach().argmax(dim=1, keepdim=True)
        output.metrics["answer_accuracy"] = targets.gather(1, best).mean()
        output.metrics["answer_count"] = torch.full_like(output.metrics["answer_accuracy"], len(logits))
        return output

    @torch.no_grad()
    def answer(self, images: Any, questions: str | Sequence[str], top_k: int = 1) -> list[list[Answer]]:
        """The best answers to questions about pictures.

        Args:
            images: One picture that all questions are about, encoded once, or one picture for each question, as the
                processor takes them.
            questions: One question or several (B).
            top_k: How many answers to give each, at least 1; all if there are fewer.

        Returns:
            For each question its answers, best first.

        Raises:
            ValueError: If the model has no processor, a question is empty, or pictures and questions do not pair up.
        """
        if not questions:
            raise ValueError("there is no question; give a text or a list of texts")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, is {top_k}")
        logits = self(self.prepare(images, questions)).logits
        best = logits.topk(min(top_k, logits.shape[1]), dim=1)
        return [
            [Answer(self.config.answers[place], chance) for place, chance in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.sigmoid().tolist(), strict=True)
        ]


def picture_rows(count: int, texts: int, each: int, device: torch.device) -> Tensor | None:
    """For each text the rows of its pictures, where one set of pictures may serve all texts.

    Args:
        count: Sets of pictures.
        texts: How many texts there are.
        each: Pictures in a set.
        device: Of the rows.

    Returns:
        (texts * each,) int64, or None where every text has its own set: then nothing needs to be picked.

    Raises:
        ValueError: If the sets are neither one nor one for each text.
    """
    if count not in (1, texts):
        of = "pictures" if each == 1 else f"sets of {each} pictures"
        raise ValueError(f"{count} {of} do not fit {texts} texts; give one for all texts, or one for each")
    return None if count == texts else torch.arange(each, device=device).repeat(texts)
