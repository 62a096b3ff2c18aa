"""Boxes on images."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fiber_data import ImageSource, load_image
from fiber_heads.grounding.boxes import outermost_pixels
from matplotlib import colormaps
from matplotlib.font_manager import findfont
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes


def label_colors(count: int) -> list[tuple[int, int, int]]:
    """So many RGB colors that differ well, each dark enough for white letters; the first ones are the same always."""
    hues = [(0.6 + place * 0.618034) % 1 for place in range(count)]  # steps of the golden ratio spread evenly
    # greens and yellows are bright to the eye
    channels = (colorsys.hsv_to_rgb(hue, 0.9, 0.6 if 0.1 < hue < 0.5 else 0.8) for hue in hues)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in channels]


def draw_heat(image: Tensor, heat: Tensor) -> Image.Image:
    """An image (3, H, W) uint8, gray, with a map (h, w) in [0, 1] over all of it in color: the brighter, the more."""
    size = (image.shape[1], image.shape[2])
    grown = interpolate(heat[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).numpy()
    color = colormaps["inferno"](grown)[..., :3]
    gray = np.asarray(to_pil_image(image).convert("L"), dtype=float)[..., None] / 255
    strength = 0.15 + 0.65 * grown[..., None]
    return Image.fromarray(((gray * (1 - strength) + color * strength) * 255).round().astype("uint8"))


def draw_detections(image: ImageSource, detections: Mapping[str, Any]) -> Image.Image:
    """An image with the boxes that a model found.

    Args:
        image: The image, as `fiber_data.load_image` takes it.
        detections: As `fiber_heads.FiberForGrounding.detect` gives them: `boxes` (K, 4) xyxy in the image's pixels,
            `scores` (K,), `labels` (K,) and `text_labels`.

    Returns:
        A copy, each label in a color of its own with its name and score.
    """
    pixels = load_image(image).as_subclass(Tensor)
    labels: Sequence[int] = detections["labels"].tolist()
    if not labels:
        return to_pil_image(pixels)
    palette = label_colors(max(labels) + 1)
    colors = [palette[label] for label in labels]
    scores = detections["scores"].tolist()
    names = [f"{name} {score:.2f}" for name, score in zip(detections["text_labels"], scores, strict=True)]
    short = min(pixels.shape[1:])
    width = max(1, short // 200)
    boxes = outermost_pixels(torch.as_tensor(detections["boxes"]).cpu())  # as Pillow draws: the last one included
    around = boxes + torch.tensor([-1, -1, 1, 1])  # a light edge shows a box on a ground of its own color
    drawn = draw_bounding_boxes(pixels, around, colors="white", width=width + 2)
    drawn = draw_bounding_boxes(
        drawn,
        boxes,
        labels=names,
        colors=colors,
        width=width,
        font=findfont("DejaVu Sans"),
        font_size=max(10, short // 32),
        label_colors=["white"] * len(labels),
        fill_labels=True,
    )
    return to_pil_image(drawn)
