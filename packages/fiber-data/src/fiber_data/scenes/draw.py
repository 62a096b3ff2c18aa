"""A scene to pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from fiber_data.scenes.graph import BACKGROUNDS, Scene, SceneObject
from fiber_data.scenes.levels import EASY

RGB = {
    "red": (214, 40, 40),
    "green": (46, 150, 62),
    "blue": (38, 96, 200),
    "yellow": (247, 206, 48),
    "purple": (146, 62, 180),
    "black": (38, 38, 42),
    "orange": (243, 128, 28),
    "pink": (244, 150, 190),
}
_BRIGHT = 140  # mean of the channels from which a texture's second color is darker than the first


def draw_scene(scene: Scene, size: int, *, oversampling: int = EASY.oversampling) -> Image.Image:
    """Draws filled, outlined shapes, later ones over earlier ones, on a softly shaded and grainy ground.

    Args:
        scene: What to draw.
        size: Side of the image in pixels.
        oversampling: Times larger, in each direction, that it is drawn before it is averaged.

    Returns:
        An RGB image (size, size), the same for the same scene.
    """
    side = size * oversampling
    large = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    shapes = Image.new("L", (side, side), 0)
    for item in scene.objects:
        outline = item.outline() * side
        corners = [tuple(corner) for corner in outline.tolist()]
        fill = RGB[item.color]
        edge = tuple(round(channel * 0.62) for channel in fill)
        width = max(1, round(side * 0.012))
        if item.texture == "plain":
            ImageDraw.Draw(large).polygon(corners, fill=fill, outline=edge, width=width)
        else:
            ImageDraw.Draw(large).polygon(corners, fill=fill)
            _lay_texture(large, item, outline)
            ImageDraw.Draw(large).polygon(corners, outline=edge, width=width)
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


def shown_pixels(scene: Scene, index: int, size: int) -> np.ndarray:
    """Where an object is drawn and nothing covers it: a mask (size, size)."""
    mask = Image.new("L", (size, size), 0)
    for position, item in enumerate(scene.objects[index:]):
        corners = [tuple(corner) for corner in (item.outline() * size - 0.5).tolist()]  # pixel 0 has its center at 0.5
        ImageDraw.Draw(mask).polygon(corners, fill=position == 0)
    return np.asarray(mask) > 0


def second_color(color: str) -> tuple[int, int, int]:
    """The color of a texture's marks: a light tint of a dark color, a dark shade of a bright one."""
    red, green, blue = RGB[color]
    if (red + green + blue) / 3 > _BRIGHT:
        return round(red * 0.45), round(green * 0.45), round(blue * 0.45)
    return tuple(round(channel + (255 - channel) * 0.72) for channel in (red, green, blue))  # type: ignore[return-value]


def _lay_texture(large: Image.Image, item: SceneObject, outline: np.ndarray) -> None:
    """Marks a filled shape with its texture, in the part of the image that the shape takes."""
    left, top = np.floor(outline.min(0)).astype(int).tolist()
    right, bottom = np.ceil(outline.max(0)).astype(int).tolist()
    size = (right - left, bottom - top)
    shape = Image.new("L", size, 0)
    ImageDraw.Draw(shape).polygon([tuple(corner) for corner in (outline - (left, top)).tolist()], fill=255)
    marks = _pattern(item.texture, large.width).crop((0, 0, *size))
    large.paste(second_color(item.color), (left, top), ImageChops.multiply(shape, marks))


@lru_cache(maxsize=16)
def _pattern(texture: str, side: int) -> Image.Image:
    """Where a texture's marks are: 255, or 0 between them. A period is one twentieth of the image's side."""
    y, x = np.mgrid[:side, :side] * (20 / side)
    marks = {
        "striped": (x + y) % 1.4 < 0.7,
        "dotted": (x % 1.2 - 0.6) ** 2 + (y % 1.2 - 0.6) ** 2 < 0.16,
        "checkered": (x % 2 < 1) ^ (y % 2 < 1),
    }[texture]
    return Image.fromarray(marks.astype(np.uint8) * 255)
