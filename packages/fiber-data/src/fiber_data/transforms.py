"""The image transforms of both stages, as torchvision v2 transforms: squares for the coarse, any size for the fine.

They take what v2 takes: an image alone (PIL or uint8 tensor), or a dict such as ``{"image": ..., "text":
...}`` whose images are transformed, whose boxes (`torchvision.tv_tensors.BoundingBoxes`) follow, and whose
other entries pass through. Randomness comes from torch's global generator, as everywhere in v2; the data sets of
this package seed it per sample.

With ``normalize=False`` they end in uint8, a quarter of the bytes for worker processes to write and for a device to
receive; `normalize_images` does the rest for a whole batch there.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from fiber_data.randaugment import RandAugment

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_SIDES = re.compile(r"left|right|clockwise|[左右]")
_WORD = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")  # between the words of "turnLeft"
_OTHER_WORDS = re.compile(  # what words of another meaning begin with, or are
    r"^(cleft|leftover|leftis[tm]|(eye|over)?bright|(af|stage)?fright|(cart|mill|play|ship|wain|wheel)?wright|spright"
    r"|copyright|birthright|forthright|outright|right(ed|ing|ly|eous|eously|ful|fully)$|al?right$)"
)


def build_evaluation_transform(
    size: int,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    normalize: bool = True,
) -> v2.Compose:
    """The whole image, squeezed to a square: evaluation, and pre-training in the original.

    Args:
        size: Side of the square in pixels.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.
        normalize: False gives uint8 in 0..255 instead, for `normalize_images`.

    Returns:
        A transform from images of any size to float32 (3, size, size): bicubic antialiased resize, [0, 1],
        normalized.
    """
    resize = v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    return v2.Compose([v2.ToImage(), resize, *_normalization(mean, std, normalize)])


def build_training_transform(
    size: int,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    crop_scale: tuple[float, float] = (0.5, 1.0),
    flip_probability: float = 0.5,
    num_operations: int = 2,
    magnitude: float = 7,
    normalize: bool = True,
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
        normalize: False gives uint8 in 0..255 instead, for `normalize_images`.

    Returns:
        A random transform from images of any size to float32 (3, size, size).
    """
    crop = _ResizedCrop((size, size), scale=crop_scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    augment = [FlipUnlessSided(flip_probability), RandAugment(num_operations, magnitude)]
    return v2.Compose([v2.ToImage(), crop, *augment, *_normalization(mean, std, normalize)])


class _ResizedCrop(v2.RandomResizedCrop):
    """torchvision's with a cut-out that keeps the colors of a pixel together, as decoders give them.

    Its own cut-out is a view that torch resizes in half the speed, and hands on plane by plane.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cuts and resizes one image or its boxes (torchvision's hook)."""
        cut = F.crop(inpt, params["top"], params["left"], params["height"], params["width"])
        if isinstance(cut, Tensor) and cut.ndim == 3:
            together = cut.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            cut = tv_tensors.wrap(together, like=cut) if isinstance(cut, tv_tensors.TVTensor) else together
        return F.resize(cut, self.size, interpolation=self.interpolation, antialias=self.antialias)


def build_detection_evaluation_transform(
    shorter: int = 800,
    longest: int = 1333,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    normalize: bool = True,
    mirror: bool = False,
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
        normalize: False gives uint8 in 0..255 instead, for `normalize_images`.
        mirror: Whether the image is flipped from left to right, whatever its text says: a view of a test.

    Returns:
        A transform from images of any size to float32 (3, H, W), H and W by `fit_size`; antialiased bilinear
        resize, [0, 1], normalized.
    """
    look = [ResizeShorterSide(shorter, longest), *([v2.RandomHorizontalFlip(1.0)] if mirror else [])]
    return v2.Compose([v2.ToImage(), *look, *_normalization(mean, std, normalize)])


def build_detection_training_transform(
    shorter: int | Sequence[int] = (480, 560, 640, 720, 800),
    longest: int = 1333,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    flip_probability: float = 0.5,
    normalize: bool = True,
) -> v2.Compose:
    """The augmentation of the fine stage: one of several sizes, and a flip that keeps texts true.

    Args:
        shorter: Lengths of the shorter side in pixels, of which one is drawn.
        longest: As of `build_detection_evaluation_transform`.
        mean: Mean of each color channel (R, G, B), on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.
        flip_probability: Chance of a horizontal flip; a text that names a side is never flipped.
        normalize: False gives uint8 in 0..255 instead, for `normalize_images`.

    Returns:
        A random transform from images of any size, with their boxes, to float32 (3, H, W).
    """
    augment = [ResizeShorterSide(shorter, longest), FlipUnlessSided(flip_probability)]
    return v2.Compose([v2.ToImage(), *augment, *_normalization(mean, std, normalize)])


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


def _normalization(mean: tuple[float, ...], std: tuple[float, ...], normalize: bool) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))] if normalize else []


def normalize_images(
    pixel_values: Tensor,
    image_sizes: Tensor,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """The last step of the transforms for a batch, on the device where it is: the same numbers, on the CPU to the bit.

    Args:
        pixel_values: uint8 images (B, 3, H, W), or pairs (B, 2, 3, H, W), as `fiber_data.ImageTextCollator` makes them
            of transforms with ``normalize=False``.
        image_sizes: (B, 2), the (height, width) of each before padding.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.

    Returns:
        float32 of the same shape; padding is 0.
    """
    images = F.normalize(F.to_dtype(pixel_values, torch.float32, scale=True), list(mean), list(std), inplace=True)
    sides = zip(images.shape[-2:], image_sizes.unbind(-1), strict=True)
    rows, columns = (torch.arange(most, device=images.device) >= own[:, None] for most, own in sides)
    padding = rows[:, :, None] | columns[:, None, :]  # (B, H, W)
    return images.masked_fill_(padding[(slice(None), *[None] * (images.ndim - 3))], 0)


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
