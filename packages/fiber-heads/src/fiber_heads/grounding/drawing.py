"""Boxes on images: colors that do not contradict the words, legible on any ground."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from itertools import count

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

from fiber_heads.grounding.boxes import outermost_pixels

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# What words of colors look like; a box whose label holds one takes it.
WORDS: dict[str, Color] = {
    "red": (214, 39, 30),
    "orange": (240, 130, 20),
    "brown": (125, 75, 35),
    "yellow": (245, 205, 20),
    "green": (30, 140, 60),
    "turquoise": (20, 150, 160),
    "blue": (40, 95, 220),
    "purple": (130, 55, 190),
    "pink": (235, 95, 165),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "white": (250, 250, 250),
}
_ALSO = {"grey": "gray", "violet": "purple", "magenta": "pink", "teal": "turquoise", "cyan": "turquoise"}
_WORD = re.compile(rf"\b({'|'.join([*WORDS, *_ALSO])})\b", re.IGNORECASE)
_NEAR = 0.05  # of the circle of hues, which look alike
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def label_colors(labels: Sequence[str]) -> list[Color]:
    """A color for each label.

    "A red circle" is boxed in red, "a dog" beside it in a color that no other label names. Several labels of one color
    get darker or lighter shades of it. The color of a label without such a word is that of its place.

    Example:
        >>> label_colors(["a red circle", "a Grey dog", "red"])
        [(214, 39, 30), (128, 128, 128), (150, 27, 21)]
    """
    found = [_WORD.search(label) for label in labels]
    words = [_ALSO.get(each[1].lower(), each[1].lower()) if each else None for each in found]
    taken = [colorsys.rgb_to_hsv(*WORDS[word])[0] for word in set(words) if word]
    colors = []
    for place, word in enumerate(words):
        if word is None:
            colors.append(_color_of_place(place, taken))
        else:
            colors.append(_shade(WORDS[word], words[:place].count(word)))
    return colors


def _color_of_place(place: int, taken: Sequence[float]) -> Color:
    """One that is dark enough for white letters, of a hue that is not taken."""
    hues = ((0.6 + number * 0.618034) % 1 for number in count(place))  # steps of the golden ratio spread evenly
    hue = next(hue for hue in hues if all(min(abs(hue - each), 1 - abs(hue - each)) > _NEAR for each in taken))
    # greens and yellows are bright to the eye
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 0.6 if 0.1 < hue < 0.5 else 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shade(color: Color, number: int) -> Color:
    """The color, and after it such as differ from it, darker ones or, of dark colors, lighter ones."""
    share = 1 - 0.7**number
    goal = 255 if _brightness(color) < 60 else 0
    red, green, blue = (round(part + (goal - part) * share) for part in color)
    return red, green, blue


def edge_color(color: Color) -> Color:
    """Black or white, whichever is legible on a color and sets it off."""
    return BLACK if _brightness(color) > 150 else WHITE


def _brightness(color: Color) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def draw_boxes(
    image: PILImage.Image, boxes: Tensor, titles: Sequence[str], colors: Sequence[Color], font: str | None = None
) -> PILImage.Image:
    """A copy of an image with boxes and what stands over each.

    Args:
        image: RGB.
        boxes: (K, 4) half-open xyxy in its pixels, the most important first: it is drawn last.
        titles: K texts.
        colors: K colors. Around a bright one is a dark edge, around others a light one.
        font: File of a TrueType font; DejaVu Sans where it is installed, or Pillow's own.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    short = min(image.size)
    width, letters = max(2, short // 200), _font(font, max(10, short // 32))
    order = range(len(titles) - 1, -1, -1)
    corners = [tuple(box) for box in outermost_pixels(boxes.cpu()).tolist()]  # the last one included, as Pillow draws
    edges = [edge_color(color) for color in colors]
    for row in order:
        x1, y1, x2, y2 = corners[row]
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=edges[row], width=width + 2)
        draw.rectangle(corners[row], outline=colors[row], width=width)
    for row in order:
        if titles[row]:
            _write(draw, titles[row], corners[row], colors[row], edges[row], letters)
    return drawn


def _write(draw: ImageDraw.ImageDraw, title: str, box: Sequence[float], color: Color, edge: Color, font: Font) -> None:
    """A title on its color over its box, or in it where there is no room, never beyond the image."""
    left, top, right, bottom = draw.textbbox((0, 0), title, font=font)
    wide, high = right - left + 4, bottom - top + 4
    image_wide, image_high = draw.im.size
    x = max(0, min(box[0], image_wide - wide))
    y = box[1] - high if box[1] >= high else max(0, min(box[1], image_high - high))
    draw.rectangle((x, y, x + wide, y + high), fill=color)
    draw.text((x + 2 - left, y + 2 - top), title, fill=edge, font=font)


def _font(name: str | None, size: int) -> Font:
    try:
        return ImageFont.truetype(name or "DejaVuSans.ttf", size)
    except OSError:
        if name is not None:
            raise
        return ImageFont.load_default(size)
