"""What is in a scene: a few shapes of different looks, and how they stand to each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fiber_data.scenes.outlines import OUTLINES

Relation = Literal["left of", "right of", "above", "below", "in front of", "behind"]
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
}
CLEARLY = 0.15  # how much two centers must differ, in sides, for a relation to hold
BACKGROUNDS = ((244, 243, 238), (226, 233, 240), (236, 226, 214), (224, 236, 224))

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """One shape. Lengths are shares of the image's side, angles degrees.

    Attributes:
        color: One of the level's.
        shape: One of the level's.
        size: "small" or "large".
        x: Center of the whole shape, from the left.
        y: Center, from the top.
        diameter: Side of the square that the upright shape fills.
        angle: Rotation.
        texture: One of the level's.
        shown: Share of the shape that nothing covers.
        shown_box: The smallest (x1, y1, x2, y2) around what is shown, where something covers it; else None.
    """

    color: str
    shape: str
    size: str
    x: float
    y: float
    diameter: float
    angle: float
    texture: str = "plain"
    shown: float = 1.0
    shown_box: Box | None = None

    def outline(self) -> np.ndarray:
        """Corners (N, 2) of the whole shape as (x, y); not to be written to."""
        return self._outline

    @cached_property
    def _outline(self) -> np.ndarray:
        turn = np.deg2rad(self.angle)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        return OUTLINES[self.shape] @ rotation * self.diameter + (self.x, self.y)

    def box(self) -> Box:
        """The smallest (x1, y1, x2, y2) around what is shown of the shape."""
        if self.shown_box is not None:
            return self.shown_box
        corners = self.outline()
        return (*corners.min(0).tolist(), *corners.max(0).tolist())

    def regions(self, slack: float = 0.0) -> tuple[str, ...]:
        """Where it is, in words that hold for certain: some of "left", "right", "top", "bottom".

        Args:
            slack: How far from certain words may be, in sides.
        """
        low, high = 0.4 + slack, 0.6 - slack
        sides = [("left", self.x < low), ("right", self.x > high), ("top", self.y < low), ("bottom", self.y > high)]
        return tuple(name for name, holds in sides if holds)

    def has(self, **attributes: str) -> bool:
        """Whether its attributes are these, such as ``color="red", shape="star"``."""
        return all(getattr(self, key) == value for key, value in attributes.items())


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn.

    Attributes:
        objects: Shapes that all differ in (color, shape, size, texture), in random order; a later one may cover earlier
            ones.
        background: Index of the background's color.
        texture_seed: Seed of the background's noise.
        covers: Positions (front, back) of objects of which the first visibly covers a part of the second.
    """

    objects: tuple[SceneObject, ...]
    background: int
    texture_seed: int
    covers: tuple[tuple[int, int], ...] = ()

    @cached_property
    def middles(self) -> tuple[tuple[int, int, int], ...]:
        """Positions (middle, one, other) of objects of which the first is between the others; one < other."""
        items = list(enumerate(self.objects))
        return tuple(
            (middle, one, other)
            for middle, item in items
            for one, first in items
            for other, second in items[one + 1 :]
            if middle not in (one, other) and between(item, first, second)
        )

    def known(self, one: SceneObject, other: SceneObject) -> list[Relation]:
        """All `relations` of two of its objects, and which of them is in front."""
        found = relations(one, other)
        if self.covers:
            first, second = self.objects.index(one), self.objects.index(other)
            found += ["in front of"] if (first, second) in self.covers else []
            found += ["behind"] if (second, first) in self.covers else []
        return found


def relations(one: SceneObject, other: SceneObject, clearly: float = CLEARLY) -> list[Relation]:
    """How one object clearly stands to another; may be none or two."""
    found: list[tuple[Relation, bool]] = [
        ("left of", one.x < other.x - clearly),
        ("right of", one.x > other.x + clearly),
        ("above", one.y < other.y - clearly),
        ("below", one.y > other.y + clearly),
    ]
    return [relation for relation, holds in found if holds]


def between(middle: SceneObject, one: SceneObject, other: SceneObject) -> bool | None:
    """Whether an object is between two others: near the line from one to the other, and far from its ends.

    Returns:
        True or False where people would agree, None where they might not.
    """
    across, down = other.x - one.x, other.y - one.y
    right, below = middle.x - one.x, middle.y - one.y
    length = math.hypot(across, down) or 1e-9
    along = (right * across + below * down) / length**2
    aside = abs(across * below - down * right) / length
    if length > 0.35 and 0.25 < along < 0.75 and aside < 0.12 * length:
        return True
    return False if not 0 < along < 1 or aside > 0.22 else None
