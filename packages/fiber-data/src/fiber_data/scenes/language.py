"""Words for scenes: names of objects, relations and places, and sentences that know which objects they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import Relation, Scene, SceneObject

_SIZE_WORDS = {"small": ("small", "small", "little"), "large": ("large", "large", "big")}
_SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc"),
    "cross": ("cross", "cross", "plus sign"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "crescent": ("crescent", "crescent", "moon"),
}
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
    "star": "stars",
    "diamond": "diamonds",
    "heart": "hearts",
    "crescent": "crescents",
}
_RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "in front of": ("in front of", "partly covering"),
    "behind": ("behind", "partly covered by"),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


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
    keys = [key for key, said in (("size", size), ("color", color)) if said]
    return _vary(item, [*keys, "shape"], random)


def name_apart(item: SceneObject, scene: Scene, random: np.random.Generator) -> str:
    """Color and shape of an object with so much of texture and size that the words fit no other of the scene."""
    keys = {"color", "shape"}
    keys |= {"texture"} if random.random() < 0.5 else set()
    keys |= {"size"} if random.random() < 0.25 else set()
    for key in ("texture", "size"):
        if sum(agree(item, other, keys) for other in scene.objects) > 1:
            keys.add(key)
    return _vary(item, keys, random)


def _vary(item: SceneObject, keys: Sequence[str] | set[str], random: np.random.Generator) -> str:
    words = [str(random.choice(_SIZE_WORDS[item.size]))] if "size" in keys else []
    words += [getattr(item, key) for key in ("texture", "color") if key in keys]
    return " ".join([*words, str(random.choice(_SHAPE_WORDS.get(item.shape, (item.shape,))))])


def name(attributes: Mapping[str, str], *, plural: bool = False) -> str:
    """Plain words for some attributes, such as "large striped thing" or "red stars"; the same for the same."""
    adjectives = [attributes[key] for key in ("size", "texture", "color") if key in attributes]
    noun = attributes.get("shape", "thing")
    return " ".join([*adjectives, PLURALS.get(noun, "things") if plural else noun])


def a(words: str) -> str:
    """Words with their indefinite article."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def agree(one: SceneObject, other: SceneObject, keys: Sequence[str] | set[str]) -> bool:
    """Whether two objects have these attributes in common."""
    return all(getattr(one, key) == getattr(other, key) for key in keys)


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


def join(phrases: Sequence[Phrase]) -> list[str | Phrase]:
    """Phrases as a list of a sentence: commas, and "and" before the last."""
    parts: list[str | Phrase] = []
    for position, phrase in enumerate(phrases):
        if position:
            parts.append(" and " if position == len(phrases) - 1 else ", ")
        parts.append(phrase)
    return parts
