"""Heat over an image: where a word looks."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from fiber_heads import TaskModel, look
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import to_pil_image

from fiber_train.examples import ShownImage, show_image


def draw_heat(image: Tensor, heat: Tensor) -> Image.Image:
    """An image (3, H, W) uint8, gray, with a map (h, w) in [0, 1] over all of it in color: the brighter, the more."""
    size = (image.shape[1], image.shape[2])
    grown = interpolate(heat[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).numpy()
    color = colormaps["inferno"](grown)[..., :3]
    gray = np.asarray(to_pil_image(image).convert("L"), dtype=float)[..., None] / 255
    strength = 0.15 + 0.65 * grown[..., None]
    return Image.fromarray(((gray * (1 - strength) + color * strength) * 255).round().astype("uint8"))


def show_look(model: TaskModel, image: Tensor, text: str, **options: Any) -> list[ShownImage]:
    """Where a text looks, for a report; nothing where there is none to see, as with another fusion or a word cut off.

    Args:
        model: As of `fiber_heads.look`.
        image: (3, H, W) uint8.
        text: What the model reads.
        **options: Of `fiber_heads.look`.
    """
    with suppress(ValueError):
        return [show_image(draw_heat(image.as_subclass(Tensor), look(model, image, text, **options)[0]))]
    return []
