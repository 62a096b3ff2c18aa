"""Words for scenes: phrases that know which objects they name, and captions made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import Relation, Scene, SceneObject, relations

_SIZE_WORDS = {"small": ("small", "small", "little"), "large": ("large", "large", "big")}
_SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "cross": ("cross", "cross", "plus sign"),
}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
_RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
NUMBERS = ("no", "one", "two", "three")


@dataclass(frozen=True)
class Phrase:
    """Words that name objects.

    Attributes:
        text: The words.
        objects: Positions in `Scene.objects`; several for a plural.
    """

    text: str
    objects: tuple[int, ...]


@dataclass(frozen=True)
class Sentence:
    """A text and where in it objects are named.

    Attributes:
        text: The whole text.
        spans: (start, end, objects) in characters of `text`, end exclusive.
    """

    text: str
    spans: tuple[tuple[int, int, tuple[int, ...]], ...]


def compose(parts: Sequence[str | Phrase]) -> Sentence:
    """Joins words and phrases as they stand (parts bring their own blanks)."""
    text, spans = "", []
    for part in parts:
        if isinstance(part, Phrase):
            spans.append((len(text), len(text) + len(part.text), part.objects))
            text += part.text
        else:
            text += part
    return Sentence(text, tuple(spans))


def name_object(item: SceneObject, random: np.random.Generator, *, size: bool = True, color: bool = True) -> str:
    """Adjectives and noun without an article, such as "large red circle"; words vary, attributes do not."""
    words = [str(random.choice(_SIZE_WORDS[item.size]))] if size else []
    words += [item.color] if color else []
    return " ".join([*words, str(random.choice(_SHAPE_WORDS[item.shape]))])


def relation_words(relation: Relation, random: np.random.Generator) -> str:
    """One of the ways to say a relation."""
    return str(random.choice(_RELATION_WORDS[relation]))


def place_words(item: SceneObject) -> str:
    """Where in the image, such as "in the top left" or "in the middle"."""
    regions = item.regions()
    vertical = next((word for word in regions if word in ("top", "bottom")), "")
    horizontal = next((word for word in regions if word in ("left", "right")), "")
    if vertical and horizontal:
        return f"in the {vertical} {horizontal}"
    if vertical or horizontal:
        return f"at the {vertical}" if vertical else f"on the {horizontal}"
    return "in the middle"


def captions(scene: Scene, random: np.random.Generator) -> list[Sentence]:
    """Five captions of different form; each names every object, two of them also say where things are."""
    forms = (_list, _counted, _related, _placed, _shown)
    return [compose(form(scene, random)) for form in forms]


def _phrases(scene: Scene, random: np.random.Generator) -> list[Phrase]:
    """A phrase for each object, in random order; twins that differ in size alone may become one plural."""
    order = random.permutation(len(scene.objects)).tolist()
    phrases: list[Phrase] = []
    while order:
        first = order.pop(0)
        item = scene.objects[first]
        twin = next((i for i in order if _alike(item, scene.objects[i])), None)
        if twin is not None and random.random() < 0.7:
            order.remove(twin)
            phrases.append(Phrase(f"two {item.color} {PLURALS[item.shape]}", (first, twin)))
        else:
            phrases.append(Phrase(f"a {name_object(item, random)}", (first,)))
    return phrases


def _alike(one: SceneObject, other: SceneObject) -> bool:
    return (one.color, one.shape) == (other.color, other.shape)


def _enumerate(phrases: Sequence[Phrase]) -> list[str | Phrase]:
    parts: list[str | Phrase] = []
    for position, phrase in enumerate(phrases):
        if position:
            parts.append(" and " if position == len(phrases) - 1 else ", ")
        parts.append(phrase)
    return parts


def _list(scene: Scene, random: np.random.Generator) -> list[str | Phrase]:
    return _enumerate(_phrases(scene, random))


def _counted(scene: Scene, random: np.random.Generator) -> list[str | Phrase]:
    count = len(scene.objects)
    intro = "one shape: " if count == 1 else f"{NUMBERS[count]} shapes: "
    return [intro, *_enumerate(_phrases(scene, random))]


def _shown(scene: Scene, random: np.random.Generator) -> list[str | Phrase]:
    intro = str(random.choice(["there is ", "a picture of ", "we see "]))
    return [intro, *_enumerate(_phrases(scene, random))]


def _placed(scene: Scene, random: np.random.Generator) -> list[str | Phrase]:
    parts: list[str | Phrase] = []
    order = random.permutation(len(scene.objects)).tolist()
    for position, index in enumerate(order):
        if position:
            parts.append(" and " if position == len(order) - 1 else ", ")
        item = scene.objects[index]
        parts += [Phrase(f"a {name_object(item, random)}", (index,)), f" {place_words(item)}"]
    return parts


def _related(scene: Scene, random: np.random.Generator) -> list[str | Phrase]:
    """The first object in its relation to each other one; listed without, where nothing clear can be said."""
    first, *others = random.permutation(len(scene.objects)).tolist()
    item = scene.objects[first]
    parts: list[str | Phrase] = [Phrase(f"a {name_object(item, random)}", (first,))]
    for position, index in enumerate(others):
        other = scene.objects[index]
        known = relations(item, other)
        link = relation_words(known[int(random.integers(len(known)))], random) if known else "and"
        joint = " and " if position and known else " "
        parts += [f"{joint}{link} ", Phrase(f"a {name_object(other, random)}", (index,))]
    return parts
