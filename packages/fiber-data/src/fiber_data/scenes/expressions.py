"""Referring expressions in three dialects, one for every object of a scene, so that pointing blindly stays at chance.

`refcoco` is terse and may use places, `refcoco+` may not, `refcocog` is a whole noun phrase with a relation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import Scene, SceneObject, relations
from fiber_data.scenes.language import place_words, relation_words

DIALECTS = ("refcoco", "refcoco+", "refcocog")


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


def refer(scenes: list[Scene], random: np.random.Generator) -> list[Expression]:
    """Every object of every scene with at least two objects, once in each dialect."""
    forms = {"refcoco": _placed, "refcoco+": _attributes, "refcocog": _related}
    made = []
    for position, scene in enumerate(scenes):
        if len(scene.objects) < 2:
            continue
        for target, item in enumerate(scene.objects):
            for dialect, form in forms.items():
                text, phrase = form(item, scene, random)
                start = text.index(phrase)
                made.append(Expression(position, target, dialect, text, (start, start + len(phrase))))
    return made


def _agree(one: SceneObject, other: SceneObject, keys: tuple[str, ...]) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def _shortest(item: SceneObject, scene: Scene, random: np.random.Generator) -> tuple[tuple[str, ...], str]:
    """The fewest attributes that tell an object from the others, as adjectives and a noun."""
    choices = [("shape",), ("color",), ("color", "shape"), ("size", "shape"), ("size", "color")]
    order = [choices[i] for i in random.permutation(len(choices)).tolist()]
    for keys in [*sorted(order, key=len), ("size", "color", "shape")]:
        if sum(_agree(item, other, keys) for other in scene.objects) == 1:
            break
    adjectives = tuple(getattr(item, key) for key in ("size", "color") if key in keys)
    return adjectives, item.shape if "shape" in keys else "thing"


def _attributes(item: SceneObject, scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    adjectives, noun = _shortest(item, scene, random)
    text = " ".join([*adjectives, noun])
    return text, text


def _placed(item: SceneObject, scene: Scene, random: np.random.Generator) -> tuple[str, str]:
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
        return _attributes(item, scene, random)
    word = fitting[int(random.integers(len(fitting)))]
    text = f"{noun} {word}" if " " in word else f"{word} {noun}"
    return text, text


def _is_there(item: SceneObject, regions: tuple[str, ...]) -> bool:
    """Whether words for these regions fit an object: what is in the top left is also at the top."""
    return set(regions) <= set(item.regions()) if regions else not item.regions()


def _related(item: SceneObject, scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    adjectives, noun = _shortest(item, scene, random)
    name = " ".join([*adjectives, noun])
    others = [other for other in scene.objects if other is not item and relations(item, other)]
    if not others:
        return f"the {name} {place_words(item)} of the picture", name
    other = others[int(random.integers(len(others)))]
    known = relations(item, other)
    words = relation_words(known[int(random.integers(len(known)))], random)
    return f"the {name} that is {words} the {other.size} {other.color} {other.shape}", name
