"""Questions with ten answers each, such that the question alone does not give the answer away.

Yes and no, and the sizes, are equally likely for every wording because a coin decides them and attributes are uniform;
the answers of counting questions are made equally frequent over the whole split. In the split of unseen combinations
questions are about what is unseen, there or not there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import OPPOSITE, Relation, Scene, SceneObject
from fiber_data.scenes.language import a, agree, name, relation_words
from fiber_data.scenes.levels import EASY, Attributes, Level

_TOTAL = "how many things are there?"
_SYNONYMS = {"circle": "disc", "cross": "plus sign", "large": "big", "small": "little"}
_YES_NO = frozenset({"exist", "relation", "negation", "between", "front"})


@dataclass(frozen=True)
class Question:
    """A question about one scene.

    Attributes:
        scene: Position of the scene in its split.
        kind: `"count"`, `"total"` or one of the level's `questions`. What is written to files keeps its spelling
            (`"colour"`), so that `easy` stays what it was.
        text: The question.
        answer: The right answer.
        answers: Ten answers as people might give them; at least seven are right.
    """

    scene: int
    kind: str
    text: str
    answer: str
    answers: tuple[str, ...]

    @property
    def answer_type(self) -> str:
        """VQAv2's type of the answer: "yes/no", "number" or "other"."""
        return "yes/no" if self.kind in _YES_NO else "number" if self.kind in ("count", "total") else "other"


_Made = tuple[str, str] | None  # question and answer
_Form = Callable[[Scene, np.random.Generator, Level], _Made]


def ask(scenes: list[Scene], random: np.random.Generator, level: Level = EASY) -> list[Question]:
    """Questions about every scene of a split: one of each kind that the scene allows, counting ones after balancing."""
    questions: list[Question] = []
    for position, scene in enumerate(scenes):
        questions += [
            Question(position, kind, *made, answers=_crowd(made[1], kind, random, level))
            for kind in level.questions
            if (made := _FORMS[kind](scene, random, level)) is not None
        ]
    questions = _even(questions, random)
    for position, text, answer in _balanced_counts(scenes, random, level):
        kind = "total" if text == _TOTAL else "count"
        questions.append(Question(position, kind, text, answer, _crowd(answer, kind, random, level)))
    return sorted(questions, key=lambda question: question.scene)


def _even(questions: list[Question], random: np.random.Generator) -> list[Question]:
    """Leaves out some questions of negation, so that each wording is answered with yes as often as with no."""
    pools: dict[str, dict[str, list[int]]] = defaultdict(lambda: {"yes": [], "no": []})
    for position, question in enumerate(questions):
        if question.kind == "negation":
            pools[" ".join(question.text.split()[:2])][question.answer].append(position)
    dropped: set[int] = set()
    for pool in pools.values():
        least = min(map(len, pool.values()))
        for positions in pool.values():
            dropped.update(positions[i] for i in random.permutation(len(positions))[least:].tolist())
    return [question for position, question in enumerate(questions) if position not in dropped]


def _exist(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    keys = [key for key in level.pair_keys if any(level.is_told(item, key) for item in scene.objects)]
    key = keys[int(random.integers(len(keys)))]
    if random.random() < 0.5:
        items = [item for item in scene.objects if level.is_told(item, key)]
        item = items[int(random.integers(len(items)))]
        return f"is there {a(name({key: getattr(item, key), 'shape': item.shape}))}?", "yes"
    near = _absent(scene, key, level)
    value, shape = near[int(random.integers(len(near)))]
    return f"is there {a(name({key: value, 'shape': shape}))}?", "no"


def _absent(scene: Scene, key: str, level: Level) -> list[tuple[str, str]]:
    """Pairs that are not there, but share an attribute with what is: seeing one word's worth is not enough."""
    present = {(getattr(item, key), item.shape) for item in scene.objects}
    absent = [
        (value, shape)
        for value in level.values(key)
        for shape in level.shapes
        if (value, shape) not in present and level.may_pair(value, shape)
    ]
    values, shapes = {value for value, _ in present}, {shape for _, shape in present}
    return [pair for pair in absent if pair[0] in values or pair[1] in shapes] or absent


def _negation(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    """Something that is not, nothing that is, or all that are of one color or texture."""
    form, is_true = int(random.integers(len(_NEGATIONS))), random.random() < 0.5
    keys = [key for key in level.pair_keys if any(level.is_told(item, key) for item in scene.objects)]
    key = keys[int(random.integers(len(keys)))]
    items = [(getattr(item, key), item.shape) for item in scene.objects]
    values, shapes = {value for value, _ in items}, [shape for _, shape in items]
    pairs = {(value, shape) for value in values for shape in shapes if level.may_pair(value, shape)}
    have = {pair: items.count(pair) for pair in sorted(pairs)}
    if form == 0:  # no red stars
        found = _absent(scene, key, level) if is_true else [pair for pair, number in have.items() if number]
    elif form == 1:  # some star is not red
        found = [pair for pair, number in have.items() if (number < shapes.count(pair[1])) is is_true]
    else:  # all stars are red
        several = {pair: number for pair, number in have.items() if shapes.count(pair[1]) > 1}
        found = [pair for pair, number in several.items() if (number == shapes.count(pair[1])) is is_true]
    if not found:
        return None
    value, shape = found[int(random.integers(len(found)))]
    words = {"pair": name({key: value, "shape": shape}, plural=True), "value": value}
    text = _NEGATIONS[form].format(**words, one=a(shape), several=name({"shape": shape}, plural=True))
    return text, "yes" if is_true else "no"


_NEGATIONS = ("are there no {pair}?", "is there {one} that is not {value}?", "are all {several} {value}?")


def _unique(scene: Scene, random: np.random.Generator, level: Level, *attributes: str) -> SceneObject | None:
    """An object that these attributes tell from all others, or none."""
    alone = [
        item
        for item in scene.objects
        if sum(agree(item, other, attributes) for other in scene.objects) == 1 and level.is_subject(item)
    ]
    return alone[int(random.integers(len(alone)))] if alone else None


def _told(scene: Scene, random: np.random.Generator, level: Level, *keys: Attributes) -> tuple[SceneObject, str] | None:
    """An object and its name by the first of some attributes, in random order, that tell it from all others."""
    for chosen in (keys[i] for i in random.permutation(len(keys)).tolist()):
        if (item := _unique(scene, random, level, *chosen)) is not None:
            return item, name({key: getattr(item, key) for key in chosen})
    return None


def _colour(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    item = _unique(scene, random, level, "size", "shape")
    return None if item is None else (f"what colour is the {item.size} {item.shape}?", item.color)


def _color(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    told = _told(scene, random, level, ("size", "shape"), ("texture", "shape"), ("size", "texture"))
    return told and (f"what color is the {told[1]}?", told[0].color)


def _shape(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    told = _told(scene, random, level, ("size", "color"))
    return told and (f"what shape is the {told[1]}?", told[0].shape)


def _texture(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    told = _told(scene, random, level, ("size", "color"))  # a shape would tell which texture it never has in training
    return told and (
        f"is the {told[1]} {', '.join(level.textures[:-1])} or {level.textures[-1]}?",
        told[0].texture,
    )


def _size(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    item = _unique(scene, random, level, "color", "shape")
    return None if item is None else (f"is the {item.color} {item.shape} large or small?", item.size)


def _pairs(scene: Scene, level: Level) -> list[tuple[SceneObject, SceneObject, Relation]]:
    """Objects that color and shape tell from all others, and how they stand to each other."""
    only = [item for item in scene.objects if _is_only(item, scene)]
    return [
        (one, other, relation)
        for one in only
        for other in only
        if one is not other and (level.is_subject(one) or level.is_subject(other))
        for relation in scene.known(one, other)
    ]


def _relation(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    return _stand([pair for pair in _pairs(scene, level) if pair[2] not in ("in front of", "behind")], random)


def _front(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    return _stand([pair for pair in _pairs(scene, level) if pair[2] in ("in front of", "behind")], random)


def _stand(pairs: list[tuple[SceneObject, SceneObject, Relation]], random: np.random.Generator) -> _Made:
    if not pairs:
        return None
    one, other, relation = pairs[int(random.integers(len(pairs)))]
    answer = "yes" if random.random() < 0.5 else "no"
    words = relation_words(relation if answer == "yes" else OPPOSITE[relation], random)
    return f"is the {one.color} {one.shape} {words} the {other.color} {other.shape}?", answer


def _is_only(item: SceneObject, scene: Scene) -> bool:
    return sum(agree(item, other, ("color", "shape")) for other in scene.objects) == 1


def _between(scene: Scene, random: np.random.Generator, level: Level) -> _Made:
    """Of three objects in a line: whether the middle one, or else an outer one, is between the others."""
    found = [[scene.objects[i] for i in indices] for indices in scene.middles]
    known = [
        items for items in found if all(_is_only(i, scene) for i in items) and any(level.is_subject(i) for i in items)
    ]
    if not known:
        return None
    middle, *ends = known[int(random.integers(len(known)))]
    first = int(random.integers(2))
    one, other = ends[first], ends[1 - first]
    answer = "yes" if random.random() < 0.5 else "no"
    asked = (middle, one, other) if answer == "yes" else (one, middle, other)
    names = [f"the {item.color} {item.shape}" for item in asked]
    return f"is {names[0]} between {names[1]} and {names[2]}?", answer


def _balanced_counts(scenes: list[Scene], random: np.random.Generator, level: Level) -> list[tuple[int, str, str]]:
    """Of every family (how many things, red things, circles, ...) equally many for each answer."""
    candidates: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    for position, scene in enumerate(scenes):
        for family in level.counted:
            key = family.removeprefix("not ")
            values = ("",) if family == "all" else level.values(key)
            value = values[int(random.integers(len(values)))]
            if key in ("color", "shape", "texture") and random.random() < 0.8:  # else most would be 0
                value = getattr(scene.objects[int(random.integers(len(scene.objects)))], key)
            number = sum(family == "all" or getattr(item, key) == value for item in scene.objects)
            if key != family:
                number = len(scene.objects) - number
                text = f"how many things are not {value}?"
            else:
                text = _TOTAL if family == "all" else f"how many {name({key: value}, plural=True)} are there?"
            candidates[family, str(number)].append((position, text, str(number)))
    chosen = []
    for family, answers in level.counted.items():
        pools = [candidates[family, answer] for answer in answers]
        least = min(map(len, pools))
        for pool in pools:
            chosen += [pool[i] for i in random.permutation(len(pool))[:least].tolist()]
    return chosen


def _crowd(answer: str, kind: str, random: np.random.Generator, level: Level) -> tuple[str, ...]:
    """Ten people: seven to ten right, the others a synonym or a slip.

    Few of them slip, and where there are but two answers half of those are unsure: each slip is credit for the wrong
    answer, and would make a coin look good.
    """
    slips: tuple[str, ...]
    if kind in _YES_NO:
        slips = ("yes", "no", "unsure")
    elif kind in ("count", "total"):
        most = max(max(answers) for answers in level.counted.values())
        slips = tuple(str(n) for n in range(kind == "total", int(most) + 1 + (kind == "total")))
    else:
        slips = (*level.values("color" if kind == "colour" else kind), *(("unsure",) if kind == "size" else ()))
    others = [_SYNONYMS[answer]] if answer in _SYNONYMS else []
    others += [slip for slip in slips if slip != answer]
    wrong = int(random.choice(4, p=(0.7, 0.15, 0.1, 0.05)))
    crowd = [answer] * (10 - wrong) + [others[int(random.integers(len(others)))] for _ in range(wrong)]
    return tuple(crowd[i] for i in random.permutation(10).tolist())


_FORMS: dict[str, _Form] = {
    "exist": _exist,
    "negation": _negation,
    "colour": _colour,
    "color": _color,
    "shape": _shape,
    "size": _size,
    "texture": _texture,
    "relation": _relation,
    "between": _between,
    "front": _front,
}
