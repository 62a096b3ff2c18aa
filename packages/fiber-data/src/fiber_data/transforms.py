"""The image transforms of both stages, as torchvision v2 transforms: squares for the coarse, any size for the fine.

They take what v2 takes: an image alone (PIL or uint8 tensor), or a dict such as ``{"image": ..., "text":
...}`` whose images are transformed, whose boxes (`torchvision.tv_tensors.BoundingBoxes`) follow, and whose
other entries pass through. Randomness comes from torch's global generator, as everywhere in v2; the data sets of
this package seed it per sample.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_SIDES = re.compile(r"left|right|clockwise|[左右]")
_WORD = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")  # between the words of "turnLeft"
_OTHER_WORDS = re.compile(  # what words of another meaning begin with, or are
    r"^(cleft|leftover|leftis[tm]|(eye|over)?bright|(af|stage)?fright|(cart|mill|play|ship|wain|wheel)?wright|spright"
    r"|copyright|birthright|forthright|outright|right(ed|ing|ly|eous|eously|ful|fully)$|al?right$)"
)
_GRAY = 128  # what moves into the image from outside
_MAX_MAGNITUDE = 10


def build_evaluation_transform(
    size: int,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> v2.Compose:
    """The whole image, squeezed to a square: evaluation, and pre-training in the original.

    Args:
        size: Side of the square in pixels.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.

    Returns:
        A transform from images of any size to float32 (3, size, size): bicubic antialiased resize, [0, 1],
        normalized.
    """
    resize = v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    return v2.Compose([v2.ToImage(), resize, *_normalization(mean, std)])


def build_training_transform(
    size: int,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    flip_probability: float = 0.5,
    num_operations: int = 2,
    magnitude: float = 7,
) -> v2.Compose:
    """The augmentation of the fine-tuning recipes: random resized crop, flip, RandAugment, normalization.

    Args:
        size: Side of the square in pixels.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.
        crop_scale: Range of the crop's share of the image's area.
        flip_probability: Chance of a horizontal flip; a text that names a side is never flipped.
        num_operations: Operations of `RandAugment`; 0 turns it off.
        magnitude: Strength of these operations, 0 to 10.

    Returns:
        A random transform from images of any size to float32 (3, size, size).
    """
    crop = v2.RandomResizedCrop(
        (size, size), scale=crop_scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    augment = [FlipUnlessSided(flip_probability), RandAugment(num_operations, magnitude)]
    return v2.Compose([v2.ToImage(), crop, *augment, *_normalization(mean, std)])


def build_detection_evaluation_transform(
    shorter: int = 800,
    longest: int = 1333,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> v2.Compose:
    """The whole image at its own aspect ratio, for boxes.

    Channels stay red, green, blue. The original's detector reads them as BGR on 0..255, normalized by (103.53, 116.28,
    123.675) and (57.375, 57.12, 58.395): ImageNet's numbers on another scale, in another order. A loader of its
    weights has to reverse the input channels of the patch embedding, as fiber-backbone's does.

    Args:
        shorter: Length of the shorter side in pixels.
        longest: Bound of the longer side in pixels, which shrinks the shorter where it binds.
        mean: Mean of each color channel (R, G, B), on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.

    Returns:
        A transform from images of any size to float32 (3, H, W), H and W by `fit_size`; antialiased bilinear
        resize, [0, 1], normalized.
    """
    return v2.Compose([v2.ToImage(), ResizeShorterSide(shorter, longest), *_normalization(mean, std)])


def build_detection_training_transform(
    shorter: int | Sequence[int] = (480, 560, 640, 720, 800),
    longest: int = 1333,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    flip_probability: float = 0.5,
) -> v2.Compose:
    """The augmentation of the fine stage: one of several sizes, and a flip that keeps texts true.

    Args:
        shorter: Lengths of the shorter side in pixels, of which one is drawn.
        longest: As of `build_detection_evaluation_transform`.
        mean: Mean of each color channel (R, G, B), on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.
        flip_probability: Chance of a horizontal flip; a text that names a side is never flipped.

    Returns:
        A random transform from images of any size, with their boxes, to float32 (3, H, W).
    """
    augment = [ResizeShorterSide(shorter, longest), FlipUnlessSided(flip_probability)]
    return v2.Compose([v2.ToImage(), *augment, *_normalization(mean, std)])


def fit_size(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """The size to which an image is scaled for detection, rounded as the original does.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        shorter: Length that the shorter side gets, unless the longer would exceed `longest`.
        longest: Bound of the longer side.

    Returns:
        (height, width).

    Example:
        >>> fit_size(480, 640, 800, 1333), fit_size(1080, 1920, 800, 1333)
        ((800, 1066), (750, 1333))
    """
    short, long = sorted((height, width))
    if long / short * shorter > longest:
        shorter = max(1, round(longest * short / long))
    other = min(longest, int(shorter * long / short))
    return (shorter, other) if height <= width else (other, shorter)


class ResizeShorterSide(v2.Transform):
    """Scales an image with its boxes so that the shorter side has a length, drawn from several if wanted.

    Args:
        shorter: The length in pixels, or several, of which each is as likely.
        longest: Bound of the longer side, see `fit_size`.

    Raises:
        ValueError: A length is not positive.
    """

    def __init__(self, shorter: int | Sequence[int], longest: int) -> None:
        super().__init__()
        self.shorter = (shorter,) if isinstance(shorter, int) else tuple(shorter)
        self.longest = longest
        if not self.shorter or min(*self.shorter, longest) < 1:
            raise ValueError(f"sides must have a positive length, not shorter={shorter}, longest={longest}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the length and finds the size (torchvision's hook)."""
        height, width = F.get_size(flat_inputs[0])
        shorter = self.shorter[int(torch.randint(len(self.shorter), ()))]
        return {"size": list(fit_size(height, width, shorter, self.longest))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Scales one image or its boxes (torchvision's hook)."""
        return F.resize(inpt, params["size"], interpolation=v2.InterpolationMode.BILINEAR, antialias=True)


def _normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def mentions_side(text: str) -> bool:
    """Whether a mirrored image could make a text false: whether a word of it names a side.

    Such are 左, 右, and "left", "right" and "clockwise" in any writing ("rightmost", "left-hand", "turnLeft",
    "top_left2", "upperleft"). In doubt a word counts, as in "she left" or "upright": that costs an augmentation, a
    word overlooked makes a lie. Only words that are surely others ("bright", "cleft", "leftovers", "copyright") do not.
    Other languages are not read; set the chance of a flip to 0 for them.
    """
    words = _WORD.findall(_HUMP.sub(" ", unicodedata.normalize("NFKC", text)))
    return any(_SIDES.search(_OTHER_WORDS.sub("", word.lower())) for word in words)


class FlipUnlessSided(v2.Transform):
    """Horizontal flip that keeps texts true: a sample with a text that names a side stays as it is.

    The words are not exchanged instead: "left alone" and "right next to" name no side, and a swap would break
    them.

    Args:
        probability: Chance of the flip for a sample that names no side.
    """

    _transformed_types = (torch.Tensor, Image.Image, str)  # torchvision shows only these to make_params

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = probability

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Decides for the whole sample (torchvision's hook)."""
        sided = any(isinstance(leaf, str) and mentions_side(leaf) for leaf in flat_inputs)
        return {"flip": bool(torch.rand(()) < self.probability) and not sided}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Flips one image or its boxes, and leaves texts alone (torchvision's hook)."""
        return F.horizontal_flip(inpt) if params["flip"] and not isinstance(inpt, str) else inpt


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


_Operation = Callable[[Any, float], Any]  # (image, strength in [-1, 1]) -> image
_COLOR_OPERATIONS: tuple[_Operation, ...] = (
    lambda image, _: image,
    lambda image, _: F.autocontrast(image),
    lambda image, _: F.equalize(image),
    lambda image, strength: F.adjust_brightness(image, _enhancement(strength)),
    lambda image, strength: F.adjust_sharpness(image, _enhancement(strength)),
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
        is_image = isinstance(inpt, tv_tensors.Image) or type(inpt) is torch.Tensor
        for choice, strength in params["operations"]:
            if is_image or choice >= len(_COLOR_OPERATIONS):
                inpt = _OPERATIONS[choice](inpt, strength)
        return inpt
