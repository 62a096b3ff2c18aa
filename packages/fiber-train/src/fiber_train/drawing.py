"""Heat over an image: where a word looks."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import to_pil_image


def draw_heat(image: Tensor, heat: Tensor) -> Image.Image:
    """An image (3, H, W) uint8, gray, with a map (h, w) in [0, 1] over all of it in color: the brighter, the more."""
    size = (image.shape[1], image.shape[2])
    grown = interpolate(heat[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).numpy()
    color = colormaps["inferno"](grown)[..., :3]
    gray = np.asarray(to_pil_image(image).convert("L"), dtype=float)[..., None] / 255
    strength = 0.15 + 0.65 * grown[..., None]
    return Image.fromarray(((gray * (1 - strength) + color * strength) * 255).round().astype("uint8"))
