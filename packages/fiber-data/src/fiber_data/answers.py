"""Answers as classes: which answers a model chooses from, and how right people's answers make each of them.

The rules are those that VQA models share since Anderson et al., "Bottom-Up and Top-Down Attention" (CVPR 2018):
the classes are the answers that most people gave to at least nine questions (3,129 on VQAv2), and a class is right
to 0.3, 0.6, 0.9 or 1 if one, two, three, or more people gave it. Answers are compared in the official normal form.
What differs: people's answers are normalized too before they are counted. The original counts them as written, so
that "2" misses those who wrote "two"; ``normalize=False`` does the same.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fiber_data.formats.samples import list_some, read_json
from fiber_data.formats.vqav2 import QuestionSample

_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)  # by the number of people, the last for all greater numbers

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # official: the flag re.UNICODE stands where the number of replacements belongs
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = (
    {  # written with any one apostrophe missing -> as it should be
        word[: mark.start()] + word[mark.end() :]: word
        for word in _CONTRACTED.split()
        for mark in re.finditer("'", word)
    }
    | {"somebody'd": "somebodyd"}
)  # the official table's own slip


@lru_cache(maxsize=1 << 16)
def normalize_answer(answer: str) -> str:
    """The normal form in which the official VQA evaluation compares answers.

    Args:
        answer: An answer as written.

    Returns:
        Lower case, without punctuation and articles, number words up to ten as digits, apostrophes restored. It may
        be empty ("the").
    """
    tidy = answer.replace("\n", " ").replace("\t", " ").strip()
    has_grouped_digits = re.search(r"\d,\d", tidy) is not None  # "1,000": marks vanish; else they become spaces
    text = tidy
    for mark in _MARKS:
        vanishes = has_grouped_digits or f"{mark} " in tidy or f" {mark}" in tidy
        text = text.replace(mark, "" if vanishes else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", text, count=_MOST_PERIODS).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_scores(answers: Sequence[str], *, normalize: bool = True) -> dict[str, float]:
    """How right each answer is that people gave to one question.

    Args:
        answers: What people answered, ten texts in VQAv2.
        normalize: Whether to count answers in their normal form; False counts them as written, as the original
            does.

    Returns:
        For every different answer 0.3, 0.6, 0.9 or 1.0, as one, two, three, or more people gave it.
    """
    counts = Counter(map(normalize_answer, answers) if normalize else answers)
    return {answer: _SCORES[min(count, len(_SCORES) - 1)] for answer, count in counts.items()}


@dataclass(frozen=True)
class AnswerVocabulary:
    """The answers that a model chooses from; the position of an answer is its class. Belongs with the weights.

    Args:
        answers: Different texts, in the order of the classes.

    Raises:
        ValueError: There is no answer, one is no text, or some occur twice.
    """

    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.answers or not all(isinstance(answer, str) for answer in self.answers):
            raise ValueError("a vocabulary of answers needs at least one answer, and texts only")
        if len(self._positions) < len(self.answers):
            repeated = [answer for answer, count in Counter(self.answers).items() if count > 1]
            raise ValueError(f"these answers occur more than once: {list_some(repeated)}; keep one of each")

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {answer: position for position, answer in enumerate(self.answers)}

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.answers)

    def __getitem__(self, position: int) -> str:
        """The answer of a class."""
        return self.answers[position]

    def __contains__(self, answer: object) -> bool:
        return answer in self._positions

    def index(self, answer: str) -> int:
        """The class of an answer.

        Raises:
            ValueError: It is not among the answers.
        """
        if answer not in self:
            raise ValueError(f"{answer!r} is not among the {len(self)} answers; they are in normal form")
        return self._positions[answer]

    def encode(self, answers: Sequence[str], *, normalize: bool = True) -> Tensor:
        """The target of one question.

        Args:
            answers: What people answered.
            normalize: See `soft_scores`.

        Returns:
            float32 (A,): the score of each of the A classes, all zero if nobody gave one of these answers.
        """
        target = torch.zeros(len(self))
        for answer, score in soft_scores(answers, normalize=normalize).items():
            if answer in self:
                target[self._positions[answer]] = score
        return target

    @classmethod
    def from_annotations(cls, samples: Iterable[QuestionSample], *, min_count: int = 9) -> "AnswerVocabulary":
        """The answers that most people gave to at least `min_count` questions.

        Args:
            samples: Annotated samples of `fiber_data.read_vqav2`. Read them with ``check_images=False``, so that
                the classes do not depend on the images at hand; train and val of VQAv2 together give 3,129.
            min_count: Least number of questions.

        Returns:
            The normalized answers in the order in which the samples first bring them.

        Raises:
            ValueError: A sample has no answers, or no answer is frequent enough.
        """
        counts: Counter[str] = Counter()
        for sample in samples:
            if "multiple_choice_answer" not in sample:
                raise ValueError(f"question {sample['id']!r} has no answer: read the split with its annotations")
            counts[normalize_answer(sample["multiple_choice_answer"])] += 1
        frequent = tuple(answer for answer, count in counts.items() if count >= min_count)
        if not frequent:
            raise ValueError(
                f"no answer occurs {min_count} times among those to {counts.total()} questions; lower min_count"
            )
        return cls(frequent)

    def save(self, path: str | Path) -> None:
        """Writes the answers as a JSON list."""
        Path(path).write_text(json.dumps(list(self.answers), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "AnswerVocabulary":
        """Reads what `save` wrote, or any other JSON list of answers.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a JSON list of different texts.
        """
        content = read_json(Path(path))
        if not isinstance(content, list):
            raise ValueError(f"{path}: expected a list of answers, found {type(content).__name__}")
        try:
            return cls(tuple(content))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
