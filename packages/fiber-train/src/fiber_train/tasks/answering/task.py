"""Visual question answering (VQAv2): one of a fixed set of answers to a question about an image."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from fiber_backbone import FiberBackbone
from fiber_data import AnswerVocabulary, FiberProcessor, QuestionDataset, QuestionSample, Transform, glance, load_image
from fiber_data.formats import Samples, faults_of, read_questions
from fiber_eval import normalize_answer, vqa_accuracy
from fiber_heads import AnsweringConfig, FiberForQuestionAnswering
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric

from fiber_train.classes import Classes
from fiber_train.config import as_share, share_of_lines
from fiber_train.drawing import show_look
from fiber_train.evaluation import Evaluation, LeftOut, Measure
from fiber_train.examples import Example, Said, Shown, show_image, spread
from fiber_train.mixture import at
from fiber_train.tasks.answering.settings import AnsweringSettings
from fiber_train.tasks.answering.splits import SplitPart, split_parts
from fiber_train.tasks.base import NO_ANNOTATIONS, Task

_MEASURED = 300  # questions, for calibration
_QUESTION_TYPE, _ANSWER_TYPE = "type of question", "type of answer"


class Answering(Task[AnsweringSettings]):
    """VQAv2's files or plain ones, the official accuracy, and the file that its server takes."""

    settings_class = AnsweringSettings
    model_class = FiberForQuestionAnswering
    monitor = "overall"
    submission = "vqa"
    training_settings = ("answers", "min_count")
    commands = ("fiber answer {image} {question} --checkpoint {run}",)

    def read(self, split: str) -> Sequence[QuestionSample]:
        """Questions, with answers if the split has them; several splits, or parts of them, are joined by +.

        Such as `train+val[:-1000]`; see `fiber_train.tasks.answering.splits`.
        """
        return _joined([self._read_part(part) for part in split_parts(split)])

    def _read_part(self, part: SplitPart) -> Sequence[QuestionSample]:
        share = share_of_lines(self.config.data)
        found = self.open(read_questions, part.name, hold_out=share)
        return found if part.is_whole else part.take(found, self._read_every(part.name))

    def _read_every(self, split: str) -> Sequence[QuestionSample]:
        """The questions of a split's file, whether or not their images are on disk."""
        share = share_of_lines(self.config.data)
        return self.open(read_questions, split, hold_out=share, check_images=False)

    def _counted(self, samples: Sequence[QuestionSample]) -> Sequence[QuestionSample]:
        """Those by which answers are counted: of the task's own files the whole splits, on disk and held back or not.

        So that the classes do not hang on which images are at hand; train and val of VQAv2 give 3,129.
        """
        data = self.config.data
        sources: list[Any] = [at(self, source) for source in data.sources if source.format is None]
        own = [each for each in sources or [self] if each.config.data.format is None]
        if self.given is not None or as_share(data.eval_split) is not None or (data.sources and not sources):
            return samples
        names = [(each, part.name) for each in own for part in split_parts(each.config.data.train_split)]
        return _joined([each._read_every(name) for each, name in dict.fromkeys(names)]) if own else samples

    def texts(self, samples: Sequence[QuestionSample]) -> Iterator[str]:
        """All questions."""
        return (sample["question"] for sample in glance(samples, "question"))

    def make_model(
        self, backbone: FiberBackbone, samples: Sequence[QuestionSample], processor: FiberProcessor
    ) -> FiberForQuestionAnswering:
        """A fresh model whose answers are those of a file, or the frequent ones of the training questions."""
        if self.settings.answers:
            vocabulary = AnswerVocabulary.load(self.settings.answers)
        else:
            counted: Any = glance(self._counted(samples), "id", "multiple_choice_answer")
            vocabulary = AnswerVocabulary.from_annotations(counted, min_count=self.settings.min_count)
        return FiberForQuestionAnswering(backbone, AnsweringConfig(answers=tuple(vocabulary.answers)))

    def classes(self, model: FiberForQuestionAnswering, samples: Sequence[QuestionSample]) -> Classes:
        """Answers, with the questions to which most people gave them."""
        given = (each.get("multiple_choice_answer") for each in glance(samples, "multiple_choice_answer"))
        counts = Counter(normalize_answer(answer) for answer in given if answer is not None)
        return Classes("answers", "questions", {name: counts[name] for name in model.config.answers})

    def make_dataset(
        self, samples: Sequence[QuestionSample], transform: Transform, training: bool, model: FiberForQuestionAnswering
    ) -> QuestionDataset:
        """Questions; in training with the scores of the model's answers."""
        vocabulary = AnswerVocabulary(model.config.answers) if training else None
        seed = self.config.trainer.seed
        return QuestionDataset(samples, transform, vocabulary, seed=seed, **self.image_options)

    def evaluate(
        self,
        model: FiberForQuestionAnswering,
        samples: Sequence[QuestionSample],
        processor: FiberProcessor,
        fabric: Fabric,
    ) -> Evaluation:
        """The official accuracy, in percent: `overall`, `yes/no` and other types of answer, `type/...` of question.

        The baseline is the most frequent answer to questions of the type, read off these very samples, so the best that
        a guess by type can reach. Predictions are answers.
        """
        answers = self.predict(model, samples, processor, fabric)
        samples, found = self.collect(answers, samples, "questions")
        file = json.dumps([{"question_id": name, "answer": answer} for name, answer in found.outputs.items()])
        found.predictions = self.keep({"predictions.json": file})
        if _is_annotated(samples, self.config.data.eval_split):
            found.counts["num_questions"] = len(samples)
            found.measures += measure_answers(answers, samples)
        else:
            found.left_out += LeftOut.of("questions", list(answers), len(samples), NO_ANNOTATIONS)
        return found

    def preview(self, samples: Sequence[QuestionSample]) -> Evaluation:
        """The accuracies of one question of each type."""
        if not _is_annotated(samples, self.config.data.eval_split):
            ids = [sample["id"] for sample in glance(samples, "id")]
            return Evaluation(left_out=LeftOut.of("questions", ids, len(ids), NO_ANNOTATIONS))
        known = glance(samples, "id", "answers", "question_type", "answer_type")
        some = list({(sample["question_type"], sample["answer_type"]): sample for sample in known}.values())
        blank = {sample["id"]: "" for sample in some}
        return Evaluation(measure_answers(blank, some), counts={"num_questions": len(samples)})

    def check_training(self, samples: Sequence[QuestionSample]) -> None:
        """Questions need answers."""
        if not any(sample.get("answers") for sample in glance(samples, "answers")):
            split = self.config.data.train_split
            raise ValueError(f"{split}: not one of {len(samples)} questions has answers to learn from; give others")

    def predict(
        self,
        model: FiberForQuestionAnswering,
        samples: Sequence[QuestionSample],
        processor: FiberProcessor,
        fabric: Fabric,
    ) -> dict[Any, str]:
        """The best answer to each question, over all processes."""
        answers: dict[Any, str] = {}
        for batch in self.batches(model, samples, processor, fabric):
            best = model(**batch).logits.argmax(dim=1).tolist()
            answers |= {name: model.config.answers[row] for name, row in zip(batch["ids"], best, strict=True)}
        return gather_by_id(answers)

    def show(self, model: FiberForQuestionAnswering, samples: Sequence[QuestionSample], number: int) -> Shown:
        """Questions with the three best answers; right is what at least three of ten people said."""
        shown = Shown(
            note="The three best answers. Right is what at least three people of ten answered. Beside the image where "
            "the question looks for the best answer, by Grad-CAM."
        )
        for place, sample in enumerate(spread(samples, max(number, _MEASURED))):
            image = load_image(sample["image"])
            answers = model.answer(image, sample["question"], top_k=3)[0]
            people = Counter(map(normalize_answer, sample.get("answers", ())))
            known = bool(people)
            said = [Said(each.text, each.probability, people[each.text] >= 3 if known else None) for each in answers]
            if known:
                shown.confidences.setdefault("answers", []).append((answers[0].probability, bool(said[0].right)))
            if place < number:
                truth = ", ".join(f"{text} ({count})" for text, count in people.most_common(3))
                asked = ((sample["question"], None),)
                why = show_look(model, image, sample["question"], target=answers[0].text)
                shown.examples.append(Example((show_image(image), *why), asked, tuple(said), truth))
        return shown

    def describe(self, found: Evaluation) -> str:
        """A line for each type of question."""
        lines = []
        if "overall" in found:
            lines.append(f"{found.counts['num_questions']:,} questions")
            overall = found.find("overall")
            lines.append(f"{'accuracy':24} {overall.value:6.2f}   {overall.baseline_name}")
            lines += [
                f"  {measure.title:22} {measure.value:6.2f}   {measure.baseline:6.2f}"
                for measure in (overall, *(each for each in found.measures if each.group == _QUESTION_TYPE))
            ]
        return "\n".join(lines)


def _joined(parts: Sequence[Sequence[QuestionSample]]) -> Sequence[QuestionSample]:
    """The questions of all parts, with what was wrong with their files."""
    if len(parts) == 1:
        return parts[0]
    return Samples(chain.from_iterable(parts), chain.from_iterable(map(faults_of, parts)))


def _is_annotated(samples: Sequence[QuestionSample], split: str) -> bool:
    """Whether the questions have answers and what accuracy needs beside them; all must, or none."""
    bare = []
    for sample in glance(samples, "id", "answers", "question_type", "answer_type"):
        if not sample.get("answers"):
            bare.append(sample["id"])
        elif lacking := [key for key in ("question_type", "answer_type") if sample.get(key) is None]:
            raise ValueError(f"{split}: question {sample['id']!r} has answers but no {lacking[0]}; give it one")
    if bare and len(bare) < len(samples):
        raise ValueError(
            f"{split}: {len(bare)} of {len(samples)} questions have no answers, the first: {bare[0]!r}; make one set "
            "of these, another of the rest"
        )
    return not bare


def measure_answers(answers: dict[Any, str], samples: Sequence[Any]) -> list[Measure]:
    """The official accuracy of answers by question id, overall and by types of answer and question."""
    known = list(glance(samples, "id", "answers", "question_type", "answer_type"))
    annotations = [annotation(sample) for sample in known]
    found, guessed = (vqa_accuracy(given, annotations) for given in (answers, most_frequent(known)))
    name = "most frequent answers"
    measures = [Measure("overall", float(found["overall"]), float(guessed["overall"]), name, unit="%", title="all")]
    measures += [
        Measure(kind, float(value), unit="%", title=kind, group=_ANSWER_TYPE)
        for kind, value in found["perAnswerType"].items()
    ]
    baselines = {kind: float(value) for kind, value in guessed["perQuestionType"].items()}
    return measures + [
        Measure(f"type/{kind}", float(value), baselines[kind], name, True, "%", kind, _QUESTION_TYPE)
        for kind, value in found["perQuestionType"].items()
    ]


def annotation(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What the metric takes."""
    return {
        "question_id": sample["id"],
        "answers": [{"answer": answer} for answer in sample["answers"]],
        "question_type": sample["question_type"],
        "answer_type": sample["answer_type"],
    }


def most_frequent(samples: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """For every question the answer that most people gave to questions of its type."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        counts[sample["question_type"]].update(map(normalize_answer, sample["answers"]))
    best = {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}
    return {sample["id"]: best[sample["question_type"]] for sample in samples}
