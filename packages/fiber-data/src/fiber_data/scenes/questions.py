"""Questions with ten answers each, such that the question alone does not give the answer away.

Yes and no, and the sizes, are equally likely for every wording because a coin decides them and attributes are uniform;
the answers of counting questions are made equally frequent over the whole split.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import COLORS, OPPOSITE, SHAPES, SIZES, Scene, SceneObject, relations
from fiber_data.scenes.language import PLURALS, relation_words

# What is written to files keeps its spelling ("colour"), so that a version of the data set stays what it was.
_TOTAL = "how many things are there?"
_SYNONYMS = {"circle": "disc", "cross": "plus sign", "large": "big", "small": "little"}
_COUNT_FAMILIES = ("all", "color", "shape", "size")  # all things, or those of one color, shape or size


@dataclass(frozen=True)
class Question:
    """A question about one scene.

    Attributes:
        scene: Position of the scene in its split.
        kind: `"exist"`, `"count"`, `"total"`, `"colour"`, `"shape"`, `"size"` or `"relation"`.
        text: The question.
        answer: The right answer.
        answers: Ten answers as people might give them; at least seven are right.
    """

    scene: int
    kind: str
    text: str
    answer: str
    answers: tuple[str, ...]


def ask(scenes: list[Scene], random: np.random.Generator) -> list[Question]:
    """Questions about every scene of a split: one of each kind that the scene allows, counting ones after balancing."""
    questions: list[Question] = []
    for position, scene in enumerate(scenes):
        for kind, form in (("exist", _exist), ("colour", _color), ("shape", _shape), ("size", _size)):
            if (made := form(scene, random)) is not None:
                questions.append(Question(position, kind, *made, answers=_crowd(made[1], kind, random)))
        if (made := _relation(scene, random)) is not None:
            questions.append(Question(position, "relation", *made, answers=_crowd(made[1], "relation", random)))
    for position, text, answer in _balanced_counts(scenes, random):
        kind = "total" if text == _TOTAL else "count"
        questions.append(Question(position, kind, text, answer, _crowd(answer, kind, random)))
    return sorted(questions, key=lambda question: question.scene)


def _exist(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    present = {(item.color, item.shape) for item in scene.objects}
    if random.random() < 0.5:
        item = scene.objects[int(random.integers(len(scene.objects)))]
        return f"is there a {item.color} {item.shape}?", "yes"
    absent = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in present]
    near = [pair for pair in absent if any(pair[0] == item.color or pair[1] == item.shape for item in scene.objects)]
    color, shape = near[int(random.integers(len(near)))]  # shares an attribute: seeing one word's worth is not enough
    return f"is there a {color} {shape}?", "no"


def _unique(scene: Scene, random: np.random.Generator, *attributes: str) -> SceneObject | None:
    """An object that these attributes tell from all others, or none."""
    names = [tuple(getattr(item, key) for key in attributes) for item in scene.objects]
    alone = [item for item, name in zip(scene.objects, names, strict=True) if names.count(name) == 1]
    return alone[int(random.integers(len(alone)))] if alone else None


def _color(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    item = _unique(scene, random, "size", "shape")
    return None if item is None else (f"what colour is the {item.size} {item.shape}?", item.color)


def _shape(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    item = _unique(scene, random, "size", "color")
    return None if item is None else (f"what shape is the {item.size} {item.color} thing?", item.shape)


def _size(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    item = _unique(scene, random, "color", "shape")
    return None if item is None else (f"is the {item.color} {item.shape} large or small?", item.size)


def _relation(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    pairs = [
        (one, other, relation)
        for one in scene.objects
        for other in scene.objects
        if (one.color, one.shape) != (other.color, other.shape)
        for relation in relations(one, other)
    ]
    pairs = [pair for pair in pairs if all(_is_only(item, scene) for item in pair[:2])]
    if not pairs:
        return None
    one, other, relation = pairs[int(random.integers(len(pairs)))]
    answer = "yes" if random.random() < 0.5 else "no"
    words = relation_words(relation if answer == "yes" else OPPOSITE[relation], random)
    return f"is the {one.color} {one.shape} {words} the {other.color} {other.shape}?", answer


def _is_only(item: SceneObject, scene: Scene) -> bool:
    return sum((other.color, other.shape) == (item.color, item.shape) for other in scene.objects) == 1


def _balanced_counts(scenes: list[Scene], random: np.random.Generator) -> list[tuple[int, str, str]]:
    """Of every family (how many things, red things, circles, large things) equally many for each answer."""
    candidates: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    for position, scene in enumerate(scenes):
        for family in _COUNT_FAMILIES:
            values = {"all": ("",), "color": COLORS, "shape": SHAPES, "size": SIZES}[family]
            value = values[int(random.integers(len(values)))]
            if family in ("color", "shape") and random.random() < 0.8:  # else nearly all answers would be 0
                value = getattr(scene.objects[int(random.integers(len(scene.objects)))], family)
            number = sum(family == "all" or getattr(item, family) == value for item in scene.objects)
            noun = PLURALS[value] if family == "shape" else f"{value} things"
            text = _TOTAL if family == "all" else f"how many {noun} are there?"
            candidates[family, str(number)].append((position, text, str(number)))
    answers = {"all": "123", "color": "012", "shape": "012", "size": "012"}
    chosen = []
    for family in _COUNT_FAMILIES:
        pools = [candidates[family, answer] for answer in answers[family]]
        least = min(map(len, pools))
        for pool in pools:
            chosen += [pool[i] for i in random.permutation(len(pool))[:least].tolist()]
    return chosen


def _crowd(answer: str, kind: str, random: np.random.Generator) -> tuple[str, ...]:
    """Ten people: seven to ten right, the others a synonym or a slip.

    Few of them slip, and where there are but two answers half of those are unsure: each slip is credit for the wrong
    answer, and would make a coin look good.
    """
    slips = {
        "exist": ("yes", "no", "unsure"),
        "relation": ("yes", "no", "unsure"),
        "count": ("0", "1", "2", "3"),
        "total": ("1", "2", "3", "4"),
        "colour": COLORS,
        "shape": SHAPES,
        "size": (*SIZES, "unsure"),
    }[kind]
    others = [_SYNONYMS[answer]] if answer in _SYNONYMS else []
    others += [slip for slip in slips if slip != answer]
    wrong = int(random.choice(4, p=(0.7, 0.15, 0.1, 0.05)))
    crowd = [answer] * (10 - wrong) + [others[int(random.integers(len(others)))] for _ in range(wrong)]
    return tuple(crowd[i] for i in random.permutation(10).tolist())
