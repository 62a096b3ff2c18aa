"""VQA accuracy, with the official normalization of answers.

The measure is Antol et al., "VQA: Visual Question Answering" (ICCV 2015), for the data of Goyal et al. (CVPR 2017); the
official code is GT-Vision-Lab/VQA, `PythonEvaluationTools/vqaEvaluation/vqaEval.py`. Its quirks are kept, since
published numbers contain them. What differs: people's answers are left out by their index, not by comparing
dictionaries, so equal answers without `answer_id` still count one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from fiber_eval.files import Id, check_entry, naming, read_json, shown
from fiber_eval.samples import MetricOptions, PerSampleMetric, as_numbers, as_tensors

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # the official code passes re.UNICODE, which is 32, where the number of replacements belongs

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}
NUMBERS["none"] = "0"
ARTICLES = {"a", "an", "the"}

# Words that people write without an apostrophe, as they should be.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# Each with any one apostrophe left out; the last is the official table's own slip.
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTED.split() for mark in re.finditer("'", word)
}
CONTRACTIONS["somebody'd"] = "somebodyd"


class VQAResult(TypedDict):
    """The official `accuracy` dictionary: percent (0..100), scalars in float64 on the CPU."""

    overall: Tensor
    perQuestionType: dict[str, Tensor]  # the official spelling
    perAnswerType: dict[str, Tensor]


class VQAAccuracy(PerSampleMetric):
    """VQA accuracy: an answer is right to the degree that people gave it.

    An answer is compared with every set of the people's answers that leaves one out (ten give ten sets of nine): three
    who agree make 1, two 2/3, one 1/3, none 0; the accuracy is the mean over the sets. Answers are normalized by
    `normalize_answer` unless all people wrote the same, in which case the answer must equal theirs, capitals included.

    Ids are question ids; how samples are counted is told at `PerSampleMetric`.

    Args:
        annotations: The entries of the official annotation file: `question_id`, `question_type`, `answer_type` and
            `answers`, a list of objects with `answer`.
        **kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: No annotation, an incomplete one, or two of one question.

    Example:
        >>> from fiber_eval.question_answering import VQAAccuracy
        >>> people = [{"answer": text} for text in ["yes"] * 8 + ["no"] * 2]
        >>> kind = {"question_type": "is the", "answer_type": "yes/no"}
        >>> metric = VQAAccuracy([{"question_id": 7, "answers": people, **kind}])
        >>> metric.update(["No."], ids=[7])
        >>> metric.compute()["overall"].item()
        60.0
    """

    def __init__(self, annotations: Sequence[Mapping[str, Any]], **kwargs: Unpack[MetricOptions]) -> None:
        for index, entry in enumerate(annotations):
            _check_annotation(entry, f"annotation {index}")
        super().__init__([entry["question_id"] for entry in annotations], "question", **kwargs)
        self.people = {entry["question_id"]: [each["answer"] for each in entry["answers"]] for entry in annotations}
        self.question_types = {entry["question_id"]: entry["question_type"] for entry in annotations}
        self.answer_types = {entry["question_id"]: entry["answer_type"] for entry in annotations}

    def update(self, answers: Sequence[str], *, ids: Tensor | Sequence[Id]) -> None:
        """Add answers.

        Args:
            answers: [B] texts, not normalized.
            ids: [B] question ids.

        Raises:
            ValueError: An unknown question, numbers that disagree, an answer that is no text, or an answer of another
                score to a question that came before.
        """
        listed = self.known(ids, answers=answers)
        for question, answer in zip(listed, answers, strict=True):
            if not isinstance(answer, str):
                raise ValueError(f"the answer to question {shown(question)} must be text, but is {shown(answer)}")
        pairs = zip(listed, answers, strict=True)
        self.record(listed, [_agreement(answer, self.people[question]) for question, answer in pairs])

    def compute(self) -> VQAResult:
        """The official `accuracy` dictionary, over all processes.

        Returns:
            Percent (0..100), rounded to two decimals: `overall`, and the dictionaries `perQuestionType` and
            `perAnswerType`; scalars in float64 on the CPU.

        Raises:
            ValueError: A question has no answer.
        """
        scores = self._scores(self.seen())
        return {
            "overall": as_tensors({"overall": _percent(list(scores.values()))})["overall"],
            "perQuestionType": as_tensors(_percent_of_groups(scores, self.question_types)),
            "perAnswerType": as_tensors(_percent_of_groups(scores, self.answer_types)),
        }

    def per_question(self) -> dict[Id, float]:
        """The percent of each question, rounded to two decimals (official: `evalQA`); every process must call it."""
        return {question: _percent([score]) for question, score in self._scores(self.seen_everywhere()).items()}

    def _scores(self, outcomes: Mapping[Id, int]) -> dict[Id, float]:
        return {question: outcome / (3 * len(self.people[question])) for question, outcome in outcomes.items()}


def vqa_accuracy(answers: Mapping[Any, str], annotations: Sequence[Mapping[str, Any]]) -> VQAResult:
    """VQA accuracy of answers by question id; annotations and result as of `VQAAccuracy`.

    Example:
        >>> from fiber_eval.question_answering import vqa_accuracy
        >>> people = [{"answer": text} for text in ["two"] * 2 + ["3"] * 8]
        >>> kind = {"question_type": "how many", "answer_type": "number"}
        >>> result = vqa_accuracy({1: "2"}, [{"question_id": 1, "answers": people, **kind}])
        >>> result["overall"].item(), result["perQuestionType"]["how many"].item()
        (60.0, 60.0)
    """
    metric = VQAAccuracy(annotations, sync_on_compute=False)
    metric.update(list(answers.values()), ids=list(answers))
    return metric.compute()


def score_files(annotations: Path, results: Path, *, per_question: bool = False) -> dict[str, Any]:
    """Score a result file in the official format, with one answer for each annotated question.

    Args:
        annotations: VQAv2's annotations, JSON {annotations: [{question_id, question_type, answer_type, answers:
            [{answer}]}]}
        results: JSON [{question_id, answer}]
        per_question: Whether `perQuestion`, the percent by question id, is wanted too.

    Returns:
        As `vqa_accuracy`, in Python's numbers.

    Raises:
        ValueError: A malformed file, an unknown or repeated question, or one without an answer; names the file.

    Source: Goyal et al. 2017, Making the V in VQA Matter, https://arxiv.org/abs/1612.00837

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.question_answering import score_files
        >>> question = {"question_id": 1, "question_type": "how many", "answer_type": "number"}
        >>> with tempfile.TemporaryDirectory() as name:
        ...     annotations, results = Path(name, "annotations.json"), Path(name, "results.json")
        ...     _ = annotations.write_text(json.dumps({"annotations": [question | {"answers": [{"answer": "2"}] * 4}]}))
        ...     _ = results.write_text(json.dumps([{"question_id": 1, "answer": "2"}]))
        ...     score_files(annotations, results)["perAnswerType"]
        {'number': 100.0}
    """
    content = read_json(annotations)
    with naming(annotations):
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
            raise ValueError("expected a JSON object with a list 'annotations'")
        metric = VQAAccuracy(content["annotations"], sync_on_compute=False)
    entries = read_json(results)
    with naming(results):
        answers = _answers(entries)
        metric.update(list(answers.values()), ids=list(answers))
        result = as_numbers(metric.compute())
    return {**result, "perQuestion": metric.per_question()} if per_question else result


@lru_cache(maxsize=1 << 16)
def normalize_answer(text: str) -> str:
    """An answer as the official code compares it: punctuation, number words, articles and contractions made alike.

    Example:
        >>> from fiber_eval.question_answering import normalize_answer
        >>> normalize_answer("The two-story house, dont you think?")
        "2 story house don't you think"
    """
    words = [NUMBERS.get(word, word) for word in strip_punctuation(_tidy(text)).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def strip_punctuation(text: str) -> str:
    """The official first step: a mark becomes a space, or nothing if `text` has it beside a space or has "1,000"."""
    stripped = text
    has_grouped_digits = DIGIT_COMMA_DIGIT.search(text) is not None
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        stripped = stripped.replace(mark, "" if beside_space or has_grouped_digits else " ")
    return PERIOD.sub("", stripped, count=MOST_PERIODS)


def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _agreement(answer: str, people: Sequence[str]) -> int:
    """Three times the sum, over the sets that leave one person out, of min(1, people who agree / 3)."""
    given, theirs = _tidy(answer), [_tidy(each) for each in people]
    if len(set(theirs)) > 1:
        given, theirs = normalize_answer(given), [normalize_answer(each) for each in theirs]
    agree = theirs.count(given)
    return agree * min(3, agree - 1) + (len(theirs) - agree) * min(3, agree)


def _percent(scores: Sequence[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2)


def _percent_of_groups(scores: Mapping[Id, float], groups: Mapping[Id, str]) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for question, score in scores.items():
        members.setdefault(groups[question], []).append(score)
    return {group: _percent(of_group) for group, of_group in members.items()}


def _check_annotation(annotation: object, name: str) -> None:
    keys = ("question_id", "question_type", "answer_type", "answers")
    entry = check_entry(annotation, keys, name)
    for kind in ("question_type", "answer_type"):
        if not isinstance(entry[kind], str):
            raise ValueError(
                f"{name}, question {shown(entry['question_id'])}: {kind} must be text, but is {shown(entry[kind])}"
            )
    answers = entry["answers"]
    if not isinstance(answers, Sequence) or not answers:
        raise ValueError(f"{name}, question {shown(entry['question_id'])}, must have a list of at least one answer")
    if not all(isinstance(each, Mapping) and isinstance(each.get("answer"), str) for each in answers):
        raise ValueError(
            f"{name}, question {shown(entry['question_id'])}: each of its answers must hold a text 'answer'"
        )


def _answers(entries: object) -> dict[Id, str]:
    if not isinstance(entries, list):
        raise ValueError(f"expected a JSON list of answers, but found {type(entries).__name__}")
    answers: dict[Id, str] = {}
    for index, entry in enumerate(entries):
        check_entry(entry, ("question_id", "answer"), f"entry {index}")
        if entry["question_id"] in answers:
            raise ValueError(
                f"entry {index}: question {shown(entry['question_id'])} came before; keep one answer of each"
            )
        answers[entry["question_id"]] = entry["answer"]
    return answers
