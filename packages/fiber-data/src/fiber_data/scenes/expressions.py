"""Referring expressions in three dialects, one for every object of a scene, so that pointing blindly stays at chance.

`refcoco` is terse and may use places, `refcoco+` may not, `refcocog` is a whole noun phrase with a relation. Beyond
`easy`, `refcoco+` also says what an object is not, and the relation of `refcocog` is mostly needed: several things fit
the noun phrase, one of them as it stands to one other object, or between two. In the split of unseen combinations only
the object that is unseen is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import Relation, Scene, SceneObject, between, relations
from fiber_data.scenes.language import agree, name, name_apart, place_words, relation_words
from fiber_data.scenes.levels import EASY, Attributes, Level

DIALECTS = ("refcoco", "refcoco+", "refcocog")
_SLACK = 0.05  # how far every other object must be from fitting the words of a place, in sides


@dataclass(frozen=True)
class Expression:
    """Words that fit exactly one object of a scene.

    Attributes:
        scene: Position of the scene in its split.
        target: Position of the object in the scene.
        dialect: One of `DIALECTS`.
        text: The expression.
        phrase: (start, end) of the words that name the target itself, in characters of `text`.
    """

    scene: int
    target: int
    dialect: str
    text: str
    phrase: tuple[int, int]


_Words = tuple[str, str]  # the expression, and those of its words that name the target
_Form = Callable[[SceneObject, Scene, np.random.Generator, Level], _Words]


def refer(scenes: list[Scene], random: np.random.Generator, level: Level = EASY) -> list[Expression]:
    """Every object of every scene with at least two objects, once in each dialect."""
    simple = level.name == "easy"
    forms: dict[str, _Form] = {
        "refcoco": _placed if simple else _clearly_placed,
        "refcoco+": _attributes if simple else _attributes_or_not,
        "refcocog": _related if simple else _related_apart,
    }
    made = []
    for position, scene in enumerate(scenes):
        if len(scene.objects) < 2:
            continue
        for target, item in enumerate(scene.objects):
            if not level.is_subject(item):
                continue
            for dialect, form in forms.items():
                text, phrase = form(item, scene, random, level)
                start = text.index(phrase)
                made.append(Expression(position, target, dialect, text, (start, start + len(phrase))))
    return made


def _shortest(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> str:
    """The fewest attributes that tell an object from the others, as adjectives and a noun."""
    choices = level.tellings
    order = [choices[i] for i in random.permutation(len(choices)).tolist()]
    for keys in [*sorted(order, key=len), level.all_keys]:
        if sum(agree(item, other, keys) for other in scene.objects) == 1:
            break
    return name({key: getattr(item, key) for key in keys})


def _attributes(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> _Words:
    text = _shortest(item, scene, random, level)
    return text, text


def _placed(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> _Words:
    noun = item.shape if random.random() < 0.5 else "thing"
    rivals = [other for other in scene.objects if noun == "thing" or other.shape == noun]
    extremes = {
        "leftmost": min(rivals, key=lambda other: other.x),
        "rightmost": max(rivals, key=lambda other: other.x),
        "topmost": min(rivals, key=lambda other: other.y),
        "lowest": max(rivals, key=lambda other: other.y),
    }
    fitting = [word for word, other in extremes.items() if other is item and len(rivals) > 1]
    if sum(_is_there(other, item.regions()) for other in rivals) == 1:
        fitting.append(place_words(item))
    if not fitting:
        return _attributes(item, scene, random, level)
    return _with_place(noun, fitting[int(random.integers(len(fitting)))])


def _with_place(noun: str, word: str) -> _Words:
    text = f"{noun} {word}" if " " in word else f"{word} {noun}"
    return text, text


def _is_there(item: SceneObject, regions: tuple[str, ...]) -> bool:
    """Whether words for these regions fit an object: what is in the top left is also at the top."""
    return set(regions) <= set(item.regions()) if regions else not item.regions()


def _related(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> _Words:
    noun = _shortest(item, scene, random, level)
    others = [other for other in scene.objects if other is not item and relations(item, other)]
    if not others:
        return f"the {noun} {place_words(item)} of the {level.image_word}", noun
    other = others[int(random.integers(len(others)))]
    known = relations(item, other)
    words = relation_words(known[int(random.integers(len(known)))], random)
    return f"the {noun} that is {words} the {other.size} {other.color} {other.shape}", noun


# Of `medium` and `hard`: no other object comes near to fitting, and more than attributes is needed.


def _clearly_placed(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> _Words:
    """A place, after a noun, color or texture that several objects have."""
    nouns: list[Attributes] = [(), ("shape",), ("color",), ("texture",)]
    for keys in (nouns[i] for i in random.permutation(len(nouns)).tolist()):
        rivals = [other for other in scene.objects if other is not item and agree(item, other, keys)]
        fitting = [
            word
            for word, axis, sign in _EXTREMES
            if all(sign * (getattr(other, axis) - getattr(item, axis)) > _SLACK for other in rivals)
        ]
        if not any(_may_be_there(other, item.regions()) for other in rivals):
            fitting.append(place_words(item))
        if rivals and fitting:
            noun = name({key: getattr(item, key) for key in keys})
            return _with_place(noun, fitting[int(random.integers(len(fitting)))])
    return _attributes(item, scene, random, level)


_EXTREMES = (("leftmost", "x", 1), ("rightmost", "x", -1), ("topmost", "y", 1), ("lowest", "y", -1))


def _may_be_there(item: SceneObject, regions: tuple[str, ...]) -> bool:
    """Whether somebody might say that an object is in these regions."""
    return set(regions) <= set(item.regions(_SLACK)) if regions else not item.regions(-_SLACK)


def _attributes_or_not(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> _Words:
    """Attributes; or one and another's absence, where that says enough: "the star that is not red"."""
    if random.random() < 0.4:
        fitting = [
            (noun, value)
            for key in ("color", "texture")
            for keys in (("shape",), ())
            for noun, rivals in [({k: getattr(item, k) for k in keys}, _rivals(item, scene, keys))]
            for value in {getattr(other, key) for other in rivals}
            if len({getattr(other, key) for other in rivals}) == 1
            and value != getattr(item, key)
            and (not keys or level.may_pair(value, item.shape) or level.is_unseen)
        ]
        if fitting:
            noun, value = fitting[int(random.integers(len(fitting)))]
            text = f"{name(noun)} that is not {value}"
            return text, text
    return _attributes(item, scene, random, level)


def _rivals(item: SceneObject, scene: Scene, keys: Attributes) -> list[SceneObject]:
    return [other for other in scene.objects if other is not item and agree(item, other, keys)]


def _related_apart(item: SceneObject, scene: Scene, random: np.random.Generator, level: Level) -> _Words:
    """A noun phrase that fits several objects, and a relation that only one of them has; or else any true relation."""
    nouns: list[Attributes] = [("shape",), ("color", "shape"), ("texture", "shape"), ("color",), ("texture",)]
    for keys in (nouns[i] for i in random.permutation(len(nouns)).tolist()):
        rivals = _rivals(item, scene, keys)
        endings = _endings(item, rivals, scene) if rivals else []
        if endings:
            noun = name({key: getattr(item, key) for key in keys})
            return _say(noun, endings[int(random.integers(len(endings)))], scene, random)
    noun = _shortest(item, scene, random, level)
    endings = _endings(item, [], scene)
    if endings:
        return _say(noun, endings[int(random.integers(len(endings)))], scene, random)
    return f"the {noun} {place_words(item)} of the {level.image_word}", noun


_Ending = tuple[Relation | None, tuple[SceneObject, ...]]  # None: between


def _endings(item: SceneObject, rivals: list[SceneObject], scene: Scene) -> list[_Ending]:
    """What is true of an object and clearly of none of its rivals; an object is no landmark for itself."""
    found: list[_Ending] = [
        (relation, (other,))
        for other in scene.objects
        if other is not item
        for relation in scene.known(item, other)
        if not any(rival is not other and _may_stand(rival, other, relation, scene) for rival in rivals)
    ]
    position = scene.objects.index(item)
    for middle, one, other in scene.middles:
        ends = scene.objects[one], scene.objects[other]
        others = [rival for rival in rivals if rival not in ends]
        if middle == position and all(between(rival, *ends) is False for rival in others):
            found += [(None, ends), (None, ends[::-1])]
    return found


def _may_stand(one: SceneObject, other: SceneObject, relation: Relation, scene: Scene) -> bool:
    if relation in ("in front of", "behind"):
        return _touch(one, other)
    return relation in relations(one, other, 0.0)


def _touch(one: SceneObject, other: SceneObject) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) < 0.55 * (one.diameter + other.diameter)


def _say(noun: str, ending: _Ending, scene: Scene, random: np.random.Generator) -> _Words:
    relation, objects = ending
    names = [f"the {name_apart(other, scene, random)}" for other in objects]
    if relation is None:
        return f"the {noun} between {names[0]} and {names[1]}", noun
    return f"the {noun} that is {relation_words(relation, random)} {names[0]}", noun
