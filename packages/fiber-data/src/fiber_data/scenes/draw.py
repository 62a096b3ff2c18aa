"""A scene to pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fiber_data.scenes.graph import BACKGROUNDS, Scene

RGB = {
    "red": (214, 40, 40),
    "green": (46, 150, 62),
    "blue": (38, 96, 200),
    "yellow": (247, 206, 48),
    "purple": (146, 62, 180),
    "black": (38, 38, 42),
}
_OVERSAMPLING = 4


def draw_scene(scene: Scene, size: int) -> Image.Image:
    """Draws filled, outlined shapes on a softly shaded and grainy ground.

    Args:
        scene: What to draw.
        size: Side of the image in pixels.

    Returns:
        An RGB image (size, size), the same for the same scene.
    """
    side = size * _OVERSAMPLING
    large = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    shapes = Image.new("L", (side, side), 0)
    for item in scene.objects:
        corners = [tuple(corner) for corner in (item.outline() * side).tolist()]
        fill = RGB[item.color]
        edge = tuple(round(channel * 0.62) for channel in fill)
        ImageDraw.Draw(large).polygon(corners, fill=fill, outline=edge, width=max(1, round(side * 0.012)))
        ImageDraw.Draw(shapes).polygon(corners, fill=255)
    image = np.asarray(large.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    inside = np.asarray(shapes.resize((size, size), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255
    random = np.random.default_rng(scene.texture_seed)
    slope = random.uniform(-14, 14, 2)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    shade = slope[0] * axis[None, :, None] + slope[1] * axis[:, None, None]
    grain = random.normal(0, 3, (size, size, 1)).astype(np.float32)
    image = image + (shade + grain) * (1 - 0.7 * inside)
    return Image.fromarray(image.round().clip(0, 255).astype(np.uint8))
