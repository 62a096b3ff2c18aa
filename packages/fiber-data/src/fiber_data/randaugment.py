"""RandAugment with the operations that leave colors nameable, and boxes that follow."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

_GRAY = 128  # what moves into the image from outside
_MAX_MAGNITUDE = 10


def _enhancement(strength: float) -> float:
    return 0.1 + 1.8 * abs(strength)


def _move(inpt: Any, x: float = 0.0, y: float = 0.0) -> Any:
    height, width = F.get_size(inpt)
    offset = [round(x * width), round(y * height)]
    return F.affine(inpt, angle=0.0, translate=offset, scale=1.0, shear=[0.0, 0.0], fill=_GRAY)


def _shear(inpt: Any, x: float = 0.0, y: float = 0.0) -> Any:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return F.affine(
        inpt,
        angle=0.0,
        translate=[0, 0],
        scale=1.0,
        shear=degrees,
        center=[0.0, 0.0],
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=_GRAY,
    )


def _sharpen(image: Image.Image, factor: float) -> Image.Image:
    """The pixels of `PIL.ImageEnhance.Sharpness`, in half of its time: a blend with the smoothed image."""
    pixels, step = np.asarray(image), len(image.getbands())
    rows = pixels.reshape(image.height, -1).astype(np.uint16)  # numpy is slow on an axis of three; neighbors are a step
    columns = rows[:-2] + rows[1:-1]  # apart. In place from here on: fresh memory costs more than the sums.
    columns += rows[2:]
    smooth = columns[:, : -2 * step] + columns[:, step:-step]
    smooth += columns[:, 2 * step :]
    center = rows[1:-1, step:-step]
    smooth += 4 * center + 6
    smooth //= 13  # nine pixels, of which the middle counts five times, rounded
    change = np.subtract(center, smooth, dtype=np.float32)
    change *= factor
    change += smooth
    center[:] = np.clip(change, 0, 255, out=change)
    return Image.fromarray(rows.astype(np.uint8).reshape(pixels.shape))


_Operation = Callable[[Any, float], Any]  # (image, strength in [-1, 1]) -> image
_COLOR_OPERATIONS: tuple[_Operation, ...] = (
    lambda image, _: image,
    lambda image, _: F.autocontrast(image),
    lambda image, _: F.equalize(image),
    lambda image, strength: F.adjust_brightness(image, _enhancement(strength)),
    lambda image, strength: _sharpen(image, _enhancement(strength)),
)
_SHAPE_OPERATIONS: tuple[_Operation, ...] = (
    lambda inpt, strength: _shear(inpt, x=0.3 * strength),
    lambda inpt, strength: _shear(inpt, y=0.3 * strength),
    lambda inpt, strength: _move(inpt, x=10 / 384 * strength),
    lambda inpt, strength: _move(inpt, y=10 / 384 * strength),
    lambda inpt, strength: F.rotate(inpt, 30 * strength, v2.InterpolationMode.BILINEAR, fill=_GRAY),
)
_OPERATIONS = _COLOR_OPERATIONS + _SHAPE_OPERATIONS


class RandAugment(v2.Transform):
    """RandAugment (Cubuk et al., 2020) with the ten operations that leave colors nameable.

    Identity, auto-contrast, equalize, brightness, sharpness, shear x/y, translate x/y, rotate: no hue,
    solarise or posterise, which would contradict the words of a caption. Strengths follow ALBEF's variant,
    which the original FIBER uses: at magnitude m (0 to 10), factor 0.1 + 0.18 m for brightness and sharpness,
    shear 0.03 m, rotation 3 m degrees, and a translation of m pixels at 384 (here as a share of the side, so
    that it suits any size); shape operations take a random sign. torchvision's own class has other operations
    and strengths.

    The pixels are those of Pillow's operations, which on the CPU are several times as fast as torchvision's on tensors.

    Args:
        num_operations: Operations drawn, with repetition, for a sample.
        magnitude: Strength, 0 to 10.
        probability: Chance that a drawn operation is applied.

    Raises:
        ValueError: The magnitude is outside 0..10.
    """

    def __init__(self, num_operations: int = 2, magnitude: float = 7, *, probability: float = 0.5) -> None:
        super().__init__()
        if not 0 <= magnitude <= _MAX_MAGNITUDE:
            raise ValueError(f"the magnitude of RandAugment goes from 0 to {_MAX_MAGNITUDE}, not {magnitude}")
        self.num_operations = num_operations
        self.magnitude = magnitude
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the operations and signs (torchvision's hook)."""
        strength = self.magnitude / _MAX_MAGNITUDE
        operations = []
        for _ in range(self.num_operations):
            applied = torch.rand(()) < self.probability
            choice = int(torch.randint(len(_OPERATIONS), ()))
            sign = 1 if torch.rand(()) < 0.5 else -1
            if applied:
                operations.append((choice, sign * strength))
        return {"operations": operations}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Applies them to one image, and those that move pixels to its boxes (torchvision's hook)."""
        operations = params["operations"]
        if isinstance(inpt, tv_tensors.Image) or type(inpt) is torch.Tensor:
            if not operations:
                return inpt
            augmented = F.to_image(self.transform(F.to_pil_image(inpt), params))
            return augmented if isinstance(inpt, tv_tensors.Image) else augmented.as_subclass(torch.Tensor)
        for choice, strength in operations:
            if isinstance(inpt, Image.Image) or choice >= len(_COLOR_OPERATIONS):
                inpt = _OPERATIONS[choice](inpt, strength)
        return inpt
