"""Visual question answering (VQAv2): one of a fixed set of answers to a question about a picture."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from fiber_backbone import FiberBackbone
from fiber_data import AnswerVocabulary, FiberProcessor, QuestionDataset, QuestionSample, read_vqav2
from fiber_eval import VQAAccuracy, normalise_answer, vqa_accuracy
from fiber_heads import AnsweringConfig, FiberForQuestionAnswering
from lightning_fabric import Fabric

from fiber_train.tasks.base import Evaluation, Task, gather


class Answering(Task):
    """VQAv2's files, the official accuracy, and the file that its server takes."""

    model_class = FiberForQuestionAnswering
    monitor = "overall"

    def read(self, split: str) -> list[QuestionSample]:
        """Questions, with answers if the split has them; several splits are joined by +, such as train+val."""
        root = self.config.data.root
        return [sample for part in split.split("+") for sample in read_vqav2(root, split=part)]

    def texts(self, samples: list[QuestionSample]) -> Iterator[str]:
        """All questions."""
        return (sample["question"] for sample in samples)

    def make_model(
        self, backbone: FiberBackbone, samples: list[QuestionSample], processor: FiberProcessor
    ) -> FiberForQuestionAnswering:
        """A fresh model whose answers are those of a file, or the frequent ones of the training questions."""
        settings = self.config.answering
        vocabulary = (
            AnswerVocabulary.load(settings.answers)
            if settings.answers
            else AnswerVocabulary.from_annotations(samples, settings.min_count)
        )
        return FiberForQuestionAnswering(backbone, AnsweringConfig(answers=tuple(vocabulary.answers)))

    def make_dataset(
        self, samples: list[QuestionSample], transform: Any, training: bool, model: Any
    ) -> QuestionDataset:
        """Questions; in training with the scores of the model's answers."""
        vocabulary = AnswerVocabulary(model.config.answers) if training else None
        return QuestionDataset(samples, transform, vocabulary, seed=self.config.trainer.seed)

    def evaluate(
        self, model: Any, samples: list[QuestionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """The official accuracy, in percent: `overall`, `yes/no` and other types of answer, `type/...` of question.

        Beside them `constant/...`: that of the most frequent answer to questions of the type, read off these very
        samples, so the best that a guess by type can reach.
        """
        answers = self.predict(model, samples, processor, fabric)
        predictions = json.dumps([{"question_id": name, "answer": answer} for name, answer in answers.items()])
        if "answers" not in samples[0]:
            return Evaluation({"num_questions": len(samples)}, {"predictions.json": predictions})
        annotations = [annotation(sample) for sample in samples]
        metric = VQAAccuracy(annotations)
        metric.update(list(answers), list(answers.values()))
        found = metric.result()
        guessed = vqa_accuracy(annotations, most_frequent(samples))
        numbers: dict[str, float] = {"num_questions": len(samples), "overall": found["overall"]}
        numbers |= found["perAnswerType"]
        numbers |= {f"type/{name}": value for name, value in found["perQuestionType"].items()}
        numbers["constant/overall"] = guessed["overall"]
        numbers |= {f"constant/{name}": value for name, value in guessed["perQuestionType"].items()}
        return Evaluation(numbers, {"predictions.json": predictions})

    def predict(
        self, model: Any, samples: list[QuestionSample], processor: FiberProcessor, fabric: Fabric
    ) -> dict[Any, str]:
        """The best answer to each question, over all processes."""
        answers: dict[Any, str] = {}
        for batch in self.batches(model, samples, processor, fabric):
            best = model(batch).logits.argmax(dim=1).tolist()
            answers |= {name: model.config.answers[row] for name, row in zip(batch["ids"], best, strict=True)}
        return gather(answers)

    def describe(self, numbers: dict[str, float]) -> str:
        """A line for each type of question."""
        lines = [f"{int(numbers['num_questions']):,} questions"]
        if "overall" in numbers:
            lines.append(f"{'accuracy':24} {numbers['overall']:6.2f}   most frequent answers")
            rows = {"all": "overall"} | {name: f"type/{name}" for name in _types(numbers)}
            for title, name in rows.items():
                guessed = numbers[f"constant/{name.removeprefix('type/')}"]
                lines.append(f"  {title:22} {numbers[name]:6.2f}   {guessed:6.2f}")
        return "\n".join(lines)


def annotation(sample: QuestionSample) -> dict[str, Any]:
    """What the metric takes."""
    return {
        "question_id": sample["id"],
        "answers": [{"answer": answer} for answer in sample["answers"]],
        "question_type": sample["question_type"],
        "answer_type": sample["answer_type"],
    }


def most_frequent(samples: list[QuestionSample]) -> dict[Any, str]:
    """For every question the answer that most people gave to questions of its type."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        counts[sample["question_type"]].update(map(normalise_answer, sample["answers"]))
    best = {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}
    return {sample["id"]: best[sample["question_type"]] for sample in samples}


def _types(numbers: dict[str, float]) -> list[str]:
    return [name.removeprefix("type/") for name in numbers if name.startswith("type/")]
