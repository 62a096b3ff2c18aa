"""Can the tasks be solved without looking, or without reading? An audit of a generated data set.

Questions and sentences are answered from their words alone by a naive Bayes classifier over words and pairs of words,
fitted on one split and measured on another. Expressions are ignored: simple rules point at an object of the scene
(the largest, the leftmost, the one whose looks were most often meant before), and the best rule counts.

Measured with 2000 scenes of training and 500 of each other split, seed 0 (blind / chance):

easy:   color 0.16 / 0.17, exist 0.54 / 0.50, count 0.33 / 0.33, pair 0.50 / 0.50, expressions 0.39 / 0.39
medium: color 0.14 / 0.12, exist 0.52 / 0.50, count 0.16 / 0.17, pair 0.50 / 0.50, expressions 0.25 / 0.25
hard:   color 0.13 / 0.12, exist 0.51 / 0.50, count 0.16 / 0.17, pair 0.50 / 0.50, expressions 0.20 / 0.20

In the split of unseen combinations a guess by training is worse than chance where color and shape go together.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

_DIALECTS = ("refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True)
class Finding:
    """How far one gets blindly in one kind of task.

    Attributes:
        kind: Such as ``"question/colour"``, ``"pair"`` or ``"expression/refcoco"``.
        accuracy: Share of the measured split that is right without looking (or reading).
        chance: What guessing evenly among the answers in use (or the objects of the scene) gives.
        number: Tasks measured.
    """

    kind: str
    accuracy: float
    chance: float
    number: int

    @property
    def margin(self) -> float:
        """Three standard deviations of a blind guess, in shares: what may still be luck."""
        return 3 * float(np.sqrt(self.chance * (1 - self.chance) / max(1, self.number)))

    @property
    def leaks(self) -> bool:
        """Whether more than luck and two hundredths are gained blindly."""
        return self.accuracy > self.chance + self.margin + 0.02


def audit_scenes(root: str | Path, *, fit: str = "train", measure: str = "val") -> list[Finding]:
    """Measures every kind of task of a folder written by `generate_scenes`.

    Args:
        root: The folder.
        fit: The split that a blind guesser learns from.
        measure: The split that it is measured on.

    Returns:
        A finding for each kind that both splits have.
    """
    folder = Path(root)
    known, asked = (_questions(folder, split) for split in (fit, measure))
    findings = [
        _words_alone(f"question/{kind}", known[kind], rows) for kind, rows in sorted(asked.items()) if known[kind]
    ]
    findings.append(_words_alone("pair", _pairs(folder, fit), _pairs(folder, measure)))
    return findings + [_point_blindly(folder, dialect, fit, measure) for dialect in _DIALECTS]


_Labeled = list[tuple[str, str]]


def _questions(folder: Path, split: str) -> dict[str, _Labeled]:
    questions = json.loads((folder / "annotations" / f"v2_OpenEnded_scenes_{split}_questions.json").read_text())
    answers = json.loads((folder / "annotations" / f"v2_scenes_{split}_annotations.json").read_text())
    by_kind: dict[str, _Labeled] = defaultdict(list)
    for question, answer in zip(questions["questions"], answers["annotations"], strict=True):
        by_kind[answer["question_type"]].append((question["question"], answer["multiple_choice_answer"]))
    return by_kind


def _pairs(folder: Path, split: str) -> _Labeled:
    lines = (folder / "nlvr2" / f"{split}.json").read_text().splitlines()
    return [(row["sentence"], row["label"]) for row in map(json.loads, lines)]


def _features(text: str) -> list[str]:
    words = text.rstrip("?.").split()
    return [*words, *map(" ".join, pairwise(words)), text]


def _words_alone(kind: str, known: _Labeled, asked: _Labeled) -> Finding:
    answers = sorted({answer for _, answer in known})
    counts: dict[str, Counter[str]] = {answer: Counter() for answer in answers}
    frequency = Counter(answer for _, answer in known)
    for text, answer in known:
        counts[answer].update(_features(text))
    vocabulary = {feature for counter in counts.values() for feature in counter}
    totals = {answer: counts[answer].total() + len(vocabulary) for answer in answers}

    def guess(text: str) -> str:
        features = [feature for feature in _features(text) if feature in vocabulary]
        return max(
            answers,
            key=lambda answer: (
                np.log(frequency[answer])
                + sum(np.log((counts[answer][feature] + 1) / totals[answer]) for feature in features)
            ),
        )

    accuracy = float(np.mean([guess(text) == answer for text, answer in asked]))
    return Finding(kind, accuracy, 1 / len(answers), len(asked))


def _point_blindly(folder: Path, dialect: str, fit: str, measure: str) -> Finding:
    looks: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {}
    for split in (fit, measure):
        instances = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        boxes: dict[int, list[Sequence[float]]] = defaultdict(list)
        shapes: dict[int, list[int]] = defaultdict(list)
        for row in instances["annotations"]:
            boxes[row["image_id"]].append(row["bbox"])
            shapes[row["image_id"]].append(row["category_id"])
        meant = json.loads((folder / "annotations" / f"finetune_{dialect}_{split}.json").read_text())
        looks[split] = [
            (
                np.array(boxes[image["original_id"]]),
                np.array(shapes[image["original_id"]]),
                boxes[image["original_id"]].index(row["bbox"]),
            )
            for image, row in zip(meant["images"], meant["annotations"], strict=True)
        ]
    often = Counter(int(shapes[target]) for _, shapes, target in looks[fit])
    seen = Counter(int(shape) for _, shapes, _ in looks[fit] for shape in shapes)
    rules = {
        "first": lambda boxes, _: 0,
        "largest": lambda boxes, _: int(boxes[:, 2:].prod(1).argmax()),
        "smallest": lambda boxes, _: int(boxes[:, 2:].prod(1).argmin()),
        "leftmost": lambda boxes, _: int(boxes[:, 0].argmin()),
        "topmost": lambda boxes, _: int(boxes[:, 1].argmin()),
        "often meant": lambda _, shapes: int(np.argmax([often[int(s)] / max(1, seen[int(s)]) for s in shapes])),
    }
    measured = looks[measure]
    accuracy = max(
        float(np.mean([rule(boxes, shapes) == target for boxes, shapes, target in measured])) for rule in rules.values()
    )
    chance = float(np.mean([1 / len(boxes) for boxes, _, _ in measured]))
    return Finding(f"expression/{dialect}", accuracy, chance, len(measured))
