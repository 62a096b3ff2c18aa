"""Sentences about two images, each true of one pair and false of another, so that a sentence alone tells nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import COLORS, SHAPES, Scene

_TRIES = 2000


@dataclass(frozen=True)
class Pair:
    """One sentence about two scenes.

    Attributes:
        left: Position of the left scene in its split.
        right: Position of the right scene.
        sentence: The sentence; its partner in the list shares it.
        label: Whether it is true.
    """

    left: int
    right: int
    sentence: str
    label: bool


_Claim = tuple[str, Callable[[Scene, Scene], bool]]


def pair_up(scenes: list[Scene], number: int, random: np.random.Generator) -> list[Pair]:
    """`number` pairs, rounded up to an even one: a true and a false pair in turn for every sentence."""
    made: list[Pair] = []
    while len(made) < number:
        sentence, holds = _claim(random)
        found: dict[bool, Pair] = {}
        for _ in range(_TRIES):
            left, right = random.integers(len(scenes), size=2).tolist()
            truth = holds(scenes[left], scenes[right])
            if left != right and truth not in found:
                found[truth] = Pair(left, right, sentence, truth)
            if len(found) == 2:
                made += [found[True], found[False]]
                break
    return made


def _claim(random: np.random.Generator) -> _Claim:
    color, shape = str(random.choice(COLORS)), str(random.choice(SHAPES))
    text, fits = [
        (f"a {color} thing", lambda item: item.color == color),
        (f"a {shape}", lambda item: item.shape == shape),
        (f"a {color} {shape}", lambda item: (item.color, item.shape) == (color, shape)),
    ][int(random.integers(3))]

    def has(scene: Scene) -> bool:
        return any(fits(item) for item in scene.objects)

    def size(scene: Scene) -> int:
        return len(scene.objects)

    claims: list[_Claim] = [
        (f"both pictures show {text}.", lambda left, right: has(left) and has(right)),
        (f"only one of the pictures shows {text}.", lambda left, right: has(left) != has(right)),
        (f"neither picture shows {text}.", lambda left, right: not has(left) and not has(right)),
        (f"the left picture shows {text} and the right one does not.", lambda left, right: has(left) > has(right)),
        ("the left picture holds more things than the right one.", lambda left, right: size(left) > size(right)),
        ("the two pictures hold equally many things.", lambda left, right: size(left) == size(right)),
    ]
    return claims[int(random.integers(len(claims)))]
