"""Captions of scenes. The forms of `easy` name every object by all that it looks like, the others so that it is told
from the rest: whatever a phrase fits is what it names. Nothing is named that is not there, but by "no" or "none".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from fiber_data.scenes.graph import Scene, relations
from fiber_data.scenes.language import (
    NUMBERS,
    PLURALS,
    Phrase,
    Sentence,
    a,
    agree,
    compose,
    join,
    name,
    name_apart,
    name_object,
    place_words,
    relation_words,
)
from fiber_data.scenes.levels import EASY, Level

_Parts = list[str | Phrase]
_Form = Callable[[Scene, np.random.Generator, Level], _Parts]


def captions(scene: Scene, random: np.random.Generator, level: Level = EASY) -> list[Sentence]:
    """Five captions of different form, each of which names every object."""
    return [compose(_FORMS[form](scene, random, level)) for form in level.captions]


def _phrases(scene: Scene, random: np.random.Generator) -> list[Phrase]:
    """A phrase for each object, in random order; twins that differ in size alone may become one plural."""
    order = random.permutation(len(scene.objects)).tolist()
    phrases: list[Phrase] = []
    while order:
        first = order.pop(0)
        item = scene.objects[first]
        twin = next((i for i in order if agree(item, scene.objects[i], ("color", "shape"))), None)
        if twin is not None and random.random() < 0.7:
            order.remove(twin)
            phrases.append(Phrase(f"two {item.color} {PLURALS[item.shape]}", (first, twin)))
        else:
            phrases.append(Phrase(f"a {name_object(item, random)}", (first,)))
    return phrases


def _list(scene: Scene, random: np.random.Generator, _: Level) -> _Parts:
    return join(_phrases(scene, random))


def _counted(scene: Scene, random: np.random.Generator, _: Level) -> _Parts:
    count = len(scene.objects)
    intro = "one shape: " if count == 1 else f"{NUMBERS[count]} shapes: "
    return [intro, *join(_phrases(scene, random))]


def _shown(scene: Scene, random: np.random.Generator, level: Level) -> _Parts:
    intro = str(random.choice(["there is ", f"a {level.image_word} of ", "we see "]))
    return [intro, *join(_phrases(scene, random))]


def _placed(scene: Scene, random: np.random.Generator, _: Level) -> _Parts:
    parts: _Parts = []
    order = random.permutation(len(scene.objects)).tolist()
    for position, index in enumerate(order):
        if position:
            parts.append(" and " if position == len(order) - 1 else ", ")
        item = scene.objects[index]
        parts += [Phrase(f"a {name_object(item, random)}", (index,)), f" {place_words(item)}"]
    return parts


def _related(scene: Scene, random: np.random.Generator, _: Level) -> _Parts:
    """The first object in its relation to each other one; listed without, where nothing clear can be said."""
    first, *others = random.permutation(len(scene.objects)).tolist()
    item = scene.objects[first]
    parts: _Parts = [Phrase(f"a {name_object(item, random)}", (first,))]
    for position, index in enumerate(others):
        other = scene.objects[index]
        known = relations(item, other)
        link = relation_words(known[int(random.integers(len(known)))], random) if known else "and"
        joint = " and " if position and known else " "
        parts += [f"{joint}{link} ", Phrase(f"a {name_object(other, random)}", (index,))]
    return parts


# Of `medium` and `hard`.


def _apart(scene: Scene, random: np.random.Generator, left: Iterable[int]) -> list[Phrase]:
    """Phrases for some objects in random order; all of a color and shape may become one plural."""
    order = [index for index in random.permutation(len(scene.objects)).tolist() if index in set(left)]
    phrases: list[Phrase] = []
    while order:
        item = scene.objects[order[0]]
        twins = [i for i, other in enumerate(scene.objects) if agree(item, other, ("color", "shape"))]
        if len(twins) > 1 and set(twins) <= set(order) and random.random() < 0.7:
            words = name({"color": item.color, "shape": item.shape}, plural=True)
            phrases.append(Phrase(f"{NUMBERS[len(twins)]} {words}", tuple(twins)))
        else:
            twins = order[:1]
            phrases.append(_one(scene, order[0], random))
        order = [index for index in order if index not in twins]
    return phrases


def _one(scene: Scene, index: int, random: np.random.Generator) -> Phrase:
    return Phrase(a(name_apart(scene.objects[index], scene, random)), (index,))


def _others(scene: Scene, random: np.random.Generator, *said: int) -> _Parts:
    left = set(range(len(scene.objects))) - set(said)
    return ["; also ", *join(_apart(scene, random, left))] if left else []


def _alike(scene: Scene, random: np.random.Generator, level: Level) -> _Parts:
    intro = str(random.choice(["", f"an {level.image_word} of ", "we see "]))
    return [intro, *join(_apart(scene, random, range(len(scene.objects))))]


def _grouped(scene: Scene, random: np.random.Generator, _: Level) -> _Parts:
    """How many there are of each color, texture or shape, such as "four things: three stars and a heart"."""
    key = ("color", "texture", "shape")[int(random.integers(3))]
    groups: dict[str, list[int]] = {}
    for index in random.permutation(len(scene.objects)).tolist():
        groups.setdefault(getattr(scene.objects[index], key), []).append(index)
    phrases = [
        Phrase(
            a(name({key: value})) if len(group) == 1 else f"{NUMBERS[len(group)]} {name({key: value}, plural=True)}",
            tuple(sorted(group)),
        )
        for value, group in groups.items()
    ]
    return [f"{NUMBERS[len(scene.objects)]} things: ", *join(phrases)]


def _pick(scene: Scene, random: np.random.Generator, level: Level) -> int:
    """An object to speak of first: in the unseen split the one that is unseen."""
    told = [index for index, item in enumerate(scene.objects) if level.is_subject(item)]
    return told[int(random.integers(len(told)))]


def _beside(scene: Scene, random: np.random.Generator, level: Level) -> _Parts:
    """How one object stands to another."""
    first = _pick(scene, random, level)
    item = scene.objects[first]
    known = [(i, word) for i, other in enumerate(scene.objects) if i != first for word in scene.known(item, other)]
    if not known:
        return _alike(scene, random, level)
    second, relation = known[int(random.integers(len(known)))]
    link = relation_words(relation, random)
    return [
        _one(scene, first, random),
        f" {link} ",
        _one(scene, second, random),
        *_others(scene, random, first, second),
    ]


def _between(scene: Scene, random: np.random.Generator, level: Level) -> _Parts:
    """What is between two others; or else where one object is."""
    known = [found for found in scene.middles if any(level.is_subject(scene.objects[i]) for i in found)]
    if not known:
        first = _pick(scene, random, level)
        return [
            _one(scene, first, random),
            f" {place_words(scene.objects[first])}",
            *_others(scene, random, first),
        ]
    middle, one, other = known[int(random.integers(len(known)))]
    ends = [_one(scene, index, random) for index in (one, other)]
    return [
        _one(scene, middle, random),
        " between ",
        ends[0],
        " and ",
        ends[1],
        *_others(scene, random, middle, one, other),
    ]


def _without(scene: Scene, random: np.random.Generator, level: Level) -> _Parts:
    """All objects, and what is not there though something like it is."""
    parts: _Parts = [*join(_apart(scene, random, range(len(scene.objects))))]
    key = level.pair_keys[int(random.integers(len(level.pair_keys)))]
    present = {(getattr(item, key), item.shape) for item in scene.objects}
    shape = scene.objects[_pick(scene, random, level)].shape
    values = [value for value in level.values(key) if (value, shape) not in present and level.may_pair(value, shape)]
    if values and random.random() < 0.6:
        value = values[int(random.integers(len(values)))]
        words = name({key: value, "shape": shape}, plural=random.random() < 0.5)
        return [*parts, f", but no {words}"]
    gone = [value for value in level.values(key) if value not in {value for value, _ in present}]
    return [*parts, f", none of them {gone[int(random.integers(len(gone)))]}"] if gone else parts


_FORMS: dict[str, _Form] = {
    "list": _list,
    "counted": _counted,
    "related": _related,
    "placed": _placed,
    "shown": _shown,
    "alike": _alike,
    "grouped": _grouped,
    "beside": _beside,
    "between": _between,
    "without": _without,
}
