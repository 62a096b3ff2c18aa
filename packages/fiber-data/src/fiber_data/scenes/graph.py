"""What is in a scene: a few shapes of different color and size that do not touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

COLORS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
DIAMETERS = {"small": 0.24, "large": 0.37}  # of the image's side; 15 and 24 pixels of 64
NUM_OBJECTS = (1, 2, 3)
NUM_OBJECTS_WEIGHTS = (0.2, 0.35, 0.45)

Relation = Literal["left of", "right of", "above", "below"]
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
_CLEARLY = 0.15  # how much two centers must differ, in sides, for a relation to hold
_GAP = 0.03


@dataclass(frozen=True)
class SceneObject:
    """One shape. Lengths are shares of the image's side, angles degrees.

    Attributes:
        color: One of `COLORS`.
        shape: One of `SHAPES`.
        size: One of `SIZES`.
        x: Center, from the left.
        y: Center, from the top.
        diameter: Side of the square that the upright shape fills.
        angle: Rotation.
    """

    color: str
    shape: str
    size: str
    x: float
    y: float
    diameter: float
    angle: float

    def outline(self) -> np.ndarray:
        """Corners (N, 2) of the shape as (x, y)."""
        turn = np.deg2rad(self.angle)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        return _OUTLINES[self.shape] @ rotation * self.diameter + (self.x, self.y)

    def box(self) -> tuple[float, float, float, float]:
        """The smallest (x1, y1, x2, y2) around the shape."""
        corners = self.outline()
        return (*corners.min(0).tolist(), *corners.max(0).tolist())

    def regions(self) -> tuple[str, ...]:
        """Where it is, in words that hold for certain: some of "left", "right", "top", "bottom"."""
        sides = [("left", self.x < 0.4), ("right", self.x > 0.6), ("top", self.y < 0.4), ("bottom", self.y > 0.6)]
        return tuple(name for name, holds in sides if holds)


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn.

    Attributes:
        objects: Shapes that all differ in (color, shape, size), in random order.
        background: Index of the background's color.
        texture_seed: Seed of the background's noise.
    """

    objects: tuple[SceneObject, ...]
    background: int
    texture_seed: int


def relations(one: SceneObject, other: SceneObject) -> list[Relation]:
    """How one object clearly stands to another; may be none or two."""
    found: list[tuple[Relation, bool]] = [
        ("left of", one.x < other.x - _CLEARLY),
        ("right of", one.x > other.x + _CLEARLY),
        ("above", one.y < other.y - _CLEARLY),
        ("below", one.y > other.y + _CLEARLY),
    ]
    return [relation for relation, holds in found if holds]


def sample_scene(random: np.random.Generator) -> Scene:
    """Draws a scene. Color, shape and size are uniform and independent, so that none tells another."""
    count = int(random.choice(NUM_OBJECTS, p=NUM_OBJECTS_WEIGHTS))
    kinds = random.choice(len(COLORS) * len(SHAPES) * len(SIZES), size=count, replace=False)
    while (placed := _place(kinds.tolist(), random)) is None:
        pass
    return Scene(tuple(placed), int(random.integers(len(BACKGROUNDS))), int(random.integers(2**31)))


def _place(kinds: list[int], random: np.random.Generator) -> list[SceneObject] | None:
    """Puts shapes at random positions where they touch neither each other nor the border; None if that fails."""
    placed: list[SceneObject] = []
    for kind in kinds:
        color, rest = divmod(kind, len(SHAPES) * len(SIZES))
        shape, size = divmod(rest, len(SIZES))
        diameter = DIAMETERS[SIZES[size]] * random.uniform(0.94, 1.06)
        angle = random.uniform(-12, 12)
        for _ in range(20):
            x, y = random.uniform(diameter / 2 + 0.04, 1 - diameter / 2 - 0.04, 2)
            if all(_apart(x, y, diameter, old) for old in placed):
                placed.append(
                    SceneObject(COLORS[color], SHAPES[shape], SIZES[size], float(x), float(y), diameter, angle)
                )
                break
        else:
            return None
    return placed


def _apart(x: float, y: float, diameter: float, other: SceneObject) -> bool:
    """Whether the boxes of two shapes keep a gap; a shape that is turned a little is up to 6 % wider than upright."""
    return max(abs(x - other.x), abs(y - other.y)) > 1.06 * (diameter + other.diameter) / 2 + _GAP


def _circle(corners: int = 48) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2


_ARM = 0.17  # half the width of a cross's arm
_OUTLINES = {
    "circle": _circle(),
    "square": np.array([[-0.44, -0.44], [0.44, -0.44], [0.44, 0.44], [-0.44, 0.44]]),
    "triangle": np.array([[0.0, -0.46], [0.5, 0.42], [-0.5, 0.42]]),
    "cross": np.array(
        [
            [-_ARM, -0.5],
            [_ARM, -0.5],
            [_ARM, -_ARM],
            [0.5, -_ARM],
            [0.5, _ARM],
            [_ARM, _ARM],
            [_ARM, 0.5],
            [-_ARM, 0.5],
            [-_ARM, _ARM],
            [-0.5, _ARM],
            [-0.5, -_ARM],
            [-_ARM, -_ARM],
        ]
    ),
}
BACKGROUNDS = ((244, 243, 238), (226, 233, 240), (236, 226, 214), (224, 236, 224))
