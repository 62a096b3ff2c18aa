"""Boxes, areas, colors and textures of the levels against the pixels of their images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fiber_data.scenes import LEVELS, Scene, SceneObject, draw_scene, generate_scenes
from fiber_data.scenes.draw import RGB, second_color
from fiber_data.scenes.write import sample_scenes


def silhouette(item: SceneObject, side: int = 100) -> np.ndarray:
    """Which points of a grid are within an object's outline: a ray to the right crosses it an odd number of times."""
    axis = (np.arange(side) + 0.5) / side
    x, y = axis[None, :, None], axis[:, None, None]
    (x1, y1), (x2, y2) = item.outline().T, np.roll(item.outline(), -1, axis=0).T
    spans = (y1 > y) != (y2 > y)
    return (spans & (x < x1 + (y - y1) * (x2 - x1) / np.where(y2 == y1, 1, y2 - y1))).sum(-1) % 2 == 1


@pytest.mark.parametrize("level", ["medium", "hard"])
def test_boxes_and_looks_are_those_of_the_image(level: str) -> None:
    """An object is what its absence changes in the image."""
    size, made = 192, LEVELS[level]
    hidden = 0
    for scene in sample_scenes(made, 30, seed=8, number=0):
        whole = np.asarray(draw_scene(scene, size, oversampling=made.oversampling)).astype(int)
        for index, item in enumerate(scene.objects):
            rest = Scene(scene.objects[:index] + scene.objects[index + 1 :], scene.background, scene.texture_seed)
            alone = Scene((item,), scene.background, scene.texture_seed)
            empty = Scene((), scene.background, scene.texture_seed)
            without, single, ground = (
                np.asarray(draw_scene(other, size, oversampling=made.oversampling)).astype(int)
                for other in (rest, alone, empty)
            )
            changed, drawn = np.abs(whole - without).max(-1) > 30, np.abs(single - ground).max(-1) > 30
            near = np.minimum(*(np.abs(whole - color).max(-1) for color in (RGB[item.color], second_color(item.color))))
            assert (near[changed] < 60).mean() > 0.3, "the rest is outline"
            fill = (np.abs(single - RGB[item.color]).max(-1) < 60)[drawn].mean()
            assert item.texture == "plain" or fill < 0.85
            rows, columns = drawn.any(1).nonzero()[0], drawn.any(0).nonzero()[0]
            if item.shown == 1:
                assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == pytest.approx([size * v for v in item.box()], abs=1.5)  # fmt: skip
            else:
                later = np.any([silhouette(other, size) for other in scene.objects[index + 1 :]], axis=0)
                seen = silhouette(item, size) & ~later
                rows, columns = seen.any(1).nonzero()[0], seen.any(0).nonzero()[0]
                assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == pytest.approx([size * v for v in item.box()], abs=2)  # fmt: skip
                assert item.shown == pytest.approx(seen.sum() / silhouette(item, size).sum(), abs=0.06)
                assert (changed & ~later).sum() == pytest.approx(seen.sum(), rel=0.25)
                assert item.shown >= 0.65, "what is mostly hidden could not be named"
                hidden += 1
    assert (hidden > 20) == (level == "hard")


def test_regions_of_covered_things_are_those_that_are_shown(tmp_path: Path) -> None:
    folder = generate_scenes(tmp_path / "set", {"train": 80}, level="hard", image_size=128, progress=False)
    rows = json.loads((folder / "annotations" / "instances_train.json").read_text())["annotations"]
    covered = [row for row in rows if isinstance(row["segmentation"], dict)]
    assert len(covered) > 60
    for row in covered:
        counts, size = row["segmentation"]["counts"], row["segmentation"]["size"]
        assert sum(counts) == size[0] * size[1] == 128 * 128
        mask = np.repeat(np.arange(len(counts)) % 2, counts).reshape(128, 128).T
        columns, lines = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
        x, y, width, height = row["bbox"]
        assert (columns[0], lines[0], columns[-1] + 1, lines[-1] + 1) == pytest.approx((x, y, x + width, y + height), abs=2.5)  # fmt: skip
        assert mask.sum() == pytest.approx(row["area"], rel=0.2, abs=16)
