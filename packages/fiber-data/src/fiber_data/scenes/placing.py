"""Draws what is in a scene and where: apart from each other, or covering others in part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from fiber_data.scenes.graph import BACKGROUNDS, Scene, SceneObject
from fiber_data.scenes.levels import EASY, Level

LEAST_SHOWN = 0.65  # share of a shape that is always shown, so that all that is drawn can be named
_CLEARLY_COVERED = 0.08  # share of a shape that another must cover to be called in front of it
_GAP = 0.03
_GRID = 512  # pixels of the image's side in which areas are counted

_Kind = tuple[str, str, str, str]


def sample_scene(random: np.random.Generator, level: Level = EASY) -> Scene:
    """Draws a scene. Color, shape, size and texture are uniform and independent, so that none tells another.

    Only held-out combinations are left out, or are the looks of one object if the level is that of the unseen split.
    """
    count = int(random.choice(level.num_objects, p=level.num_objects_weights))
    if level.themed:
        kinds = _themed_kinds(count, random, level)
    else:
        drawn = random.choice(len(level.kinds), size=count, replace=False)
        kinds = [level.kinds[i] for i in drawn.tolist()]
    covers: tuple[tuple[int, int], ...] = ()
    while True:
        if level.overlaps:
            placed, covers = _cover(_place_overlapping(kinds, random, level))
        else:
            placed = _place(kinds, random, level)
        if placed is not None:
            return Scene(tuple(placed), int(random.integers(len(BACKGROUNDS))), int(random.integers(2**31)), covers)


def _themed_kinds(count: int, random: np.random.Generator, level: Level) -> list[_Kind]:
    """Looks of which several may have one attribute in common; in random order."""
    position = int(random.integers(4))
    kinds: list[_Kind] = []
    if level.is_unseen:
        shape = level.shapes[int(random.integers(len(level.shapes)))]  # first, so that none is seen more than others
        fitting = [kind for kind in level.held_out_kinds if kind[1] == shape]
        kinds.append(fitting[int(random.integers(len(fitting)))])
    alike = int(random.integers(2, count + 1)) if random.random() < level.themed else 0
    value = kinds[0][position] if kinds else level.kinds[int(random.integers(len(level.kinds)))][position]
    while len(kinds) < count:
        kind = level.kinds[int(random.integers(len(level.kinds)))]
        if kind not in kinds and (not alike or (kind[position] == value) is (len(kinds) < alike)):
            kinds.append(kind)
    return [kinds[i] for i in random.permutation(count).tolist()]


def _make(kind: _Kind, random: np.random.Generator, level: Level) -> SceneObject:
    color, shape, size, texture = kind
    diameter = level.diameters[size] * random.uniform(0.94, 1.06)
    return SceneObject(color, shape, size, 0.5, 0.5, diameter, random.uniform(-12, 12), texture)


def _anywhere(item: SceneObject, random: np.random.Generator) -> tuple[float, float]:
    x, y = random.uniform(item.diameter / 2 + 0.04, 1 - item.diameter / 2 - 0.04, 2)
    return float(x), float(y)


def _place(kinds: list[_Kind], random: np.random.Generator, level: Level) -> list[SceneObject] | None:
    """Puts shapes at random positions where they touch neither each other nor the border; None if that fails."""
    placed: list[SceneObject] = []
    for kind in kinds:
        item = _make(kind, random, level)
        for _ in range(20):
            x, y = _anywhere(item, random)
            if all(_apart(x, y, item.diameter, old) for old in placed):
                placed.append(replace(item, x=x, y=y))
                break
        else:
            return None
    return placed


def _apart(x: float, y: float, diameter: float, other: SceneObject) -> bool:
    """Whether the boxes of two shapes keep a gap; a shape that is turned a little is up to 6 % wider than upright."""
    return max(abs(x - other.x), abs(y - other.y)) > 1.06 * (diameter + other.diameter) / 2 + _GAP


def _place_overlapping(kinds: list[_Kind], random: np.random.Generator, level: Level) -> list[SceneObject]:
    """Puts about half of the shapes near others, where they may cover them."""
    placed: list[SceneObject] = []
    for kind in kinds:
        item = _make(kind, random, level)
        x, y = _anywhere(item, random)
        if placed and random.random() < 0.5:
            other = placed[int(random.integers(len(placed)))]
            turn, distance = random.uniform(0, 2 * np.pi), random.uniform(0.3, 0.5) * (item.diameter + other.diameter)
            reach = 0.5 - item.diameter / 2 - 0.04
            x = float(np.clip(other.x + distance * np.cos(turn), 0.5 - reach, 0.5 + reach))
            y = float(np.clip(other.y + distance * np.sin(turn), 0.5 - reach, 0.5 + reach))
        placed.append(replace(item, x=x, y=y))
    return placed


def _cover(placed: list[SceneObject]) -> tuple[list[SceneObject] | None, tuple[tuple[int, int], ...]]:
    """Shapes that know what is shown of them, and which covers which; None if one is covered too much."""
    shown: list[SceneObject] = []
    covers: list[tuple[int, int]] = []
    for back in range(len(placed)):
        item, fronts = _show(placed, back)
        if item.shown < LEAST_SHOWN:
            return None, ()
        shown.append(item)
        covers += [(front, back) for front in fronts]
    return shown, tuple(covers)


def _near(placed: list[SceneObject], back: int) -> list[int]:
    """The positions of shapes in front of another that may cover it, the foremost first."""
    one = placed[back]
    return [
        front
        for front in range(len(placed) - 1, back, -1)
        if max(abs(one.x - placed[front].x), abs(one.y - placed[front].y))
        < 0.55 * (one.diameter + placed[front].diameter)
    ]


def _show(placed: list[SceneObject], back: int) -> tuple[SceneObject, list[int]]:
    """An object that knows how much of it is shown, and where; and what clearly covers a part of it."""
    item = placed[back]
    near = _near(placed, back)
    if not near:
        return item, []
    corners = item.outline() * _GRID
    start = np.floor(corners.min(0)).astype(int) - 1
    mask = Image.new("L", tuple((np.ceil(corners.max(0)).astype(int) + 2 - start).tolist()), 0)
    draw = ImageDraw.Draw(mask)
    draw.polygon((corners - start).ravel().tolist(), fill=1)
    whole = left = mask.histogram()[1]
    clearly: list[int] = []
    for front in near:
        draw.polygon((placed[front].outline() * _GRID - start).ravel().tolist(), fill=0)
        rest = mask.histogram()[1]
        clearly += [front] if left - rest > _CLEARLY_COVERED * whole else []
        left = rest
    if left in (0, whole):
        return replace(item, shown=left / whole), []
    x1, y1, x2, y2 = item.box()
    low, high = np.reshape(np.array(mask.getbbox()), (2, 2)) + start
    box = np.concatenate([np.maximum((x1, y1), low / _GRID), np.minimum((x2, y2), high / _GRID)])
    return replace(item, shown=left / whole, shown_box=tuple(box.tolist())), clearly
