"""Sentences about two images, each true of one pair and false of another, so that a sentence alone tells nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fiber_data.scenes.graph import Scene
from fiber_data.scenes.language import NUMBERS, a, name
from fiber_data.scenes.levels import EASY, Level

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


def pair_up(scenes: list[Scene], number: int, random: np.random.Generator, level: Level = EASY) -> list[Pair]:
    """`number` pairs, rounded up to an even one: a true and a false pair in turn for every sentence."""
    made: list[Pair] = []
    while len(made) < number:
        sentence, holds = _claim(random, level)
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


def _claim(random: np.random.Generator, level: Level) -> _Claim:
    key, pair = _looks(random, level)
    looks = [{key: pair[key]}, {"shape": pair["shape"]}, pair][2 if level.is_unseen else int(random.integers(3))]
    one, many, image = a(name(looks)), name(looks, plural=True), level.image_word

    def has(scene: Scene) -> bool:
        return any(item.has(**looks) for item in scene.objects)

    def count(scene: Scene) -> int:
        return sum(item.has(**looks) for item in scene.objects)

    form = level.claims[int(random.integers(len(level.claims)))]
    number = int(random.integers(1, 6)) if form == "together" else 0
    are = f"is exactly one {name(looks)}" if number == 1 else f"are exactly {NUMBERS[number]} {many}"
    claims: dict[str, _Claim] = {
        "both": (f"both {image}s show {one}.", lambda left, right: has(left) and has(right)),
        "only one": (f"only one of the {image}s shows {one}.", lambda left, right: has(left) != has(right)),
        "neither": (f"neither {image} shows {one}.", lambda left, right: not has(left) and not has(right)),
        "left alone": (
            f"the left {image} shows {one} and the right one does not.",
            lambda left, right: has(left) > has(right),
        ),
        "more": (
            f"the left {image} holds more things than the right one.",
            lambda left, right: len(left.objects) > len(right.objects),
        ),
        "equal": (
            f"the two {image}s hold equally many things.",
            lambda left, right: len(left.objects) == len(right.objects),
        ),
        "more of": (
            f"the left {image} shows more {many} than the right one.",
            lambda left, right: count(left) > count(right),
        ),
        "together": (
            f"there {are} in the two {image}s together.",
            lambda left, right: count(left) + count(right) == number,
        ),
        "at least": (
            f"each {image} shows at least two {many}.",
            lambda left, right: min(count(left), count(right)) > 1,
        ),
        "not": (
            f"both {image}s show {a(pair['shape'])} that is not {pair[key]}.",
            lambda left, right: _has_another(left, pair) and _has_another(right, pair),
        ),
    }
    return claims[form]


def _has_another(scene: Scene, pair: dict[str, str]) -> bool:
    """Whether a scene holds the shape of a pair without its color or texture."""
    return any(item.shape == pair["shape"] and not item.has(**pair) for item in scene.objects)


def _looks(random: np.random.Generator, level: Level) -> tuple[str, dict[str, str]]:
    """A color or texture and a shape that this split may name together, and which of the two it is."""
    key = level.pair_keys[int(random.integers(len(level.pair_keys)))]
    while True:
        value, shape = str(random.choice(level.values(key))), str(random.choice(level.shapes))
        if level.may_pair(value, shape):
            return key, {key: value, "shape": shape}
