"""Any picture that a user may hold, as one kind of tensor: RGB, uint8, upright.

Pillow decodes and torch resizes. On 640x480 photographs that pair is 1.8 to 2 times as fast as resizing in
Pillow and gives the same pixels within rounding (1 of 255); torchvision's own decoder gains a seventh more, but
has no guard against decompression bombs and knows fewer formats. ``benchmarks/decoding.py`` measures the three.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

ImageSource = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor


class BrokenImageError(ValueError):
    """A picture that is missing or cannot be decoded. The message names the file and the reason."""


def load_image(source: ImageSource) -> tv_tensors.Image:
    """Reads one picture.

    Args:
        source: A path, the bytes of a file, a PIL picture, an array (H, W, 3) or (H, W), or a tensor (3, H,
            W) or (1, H, W). Arrays and tensors hold uint8 in 0..255 or floats in [0, 1].

    Returns:
        uint8 RGB tensor (3, H, W). EXIF orientation is applied; greyscale, palette and CMYK pictures are
        converted; transparent parts become white.

    Raises:
        BrokenImageError: The file is missing, truncated, no picture, or larger than Pillow's limit on pixels.
        TypeError: The source is of no known kind.
        ValueError: An array or tensor has another shape, type or range.
    """
    if isinstance(source, torch.Tensor | np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return F.to_image(_to_rgb(source))
    if not isinstance(source, str | Path | bytes):
        raise TypeError(f"a picture must be a path, bytes, PIL image, array or tensor, not {type(source).__name__}")
    name = "picture in memory" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return F.to_image(_to_rgb(image))
    except FileNotFoundError as error:
        raise BrokenImageError(f"{name}: no such file") from error
    except Exception as error:  # a damaged file makes Pillow's many decoders raise almost anything
        raise BrokenImageError(f"{name}: cannot be read as a picture ({type(error).__name__}: {error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # exif_transpose copies upright pictures too
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to 255 instead of scaling it
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(source: np.ndarray | torch.Tensor) -> tv_tensors.Image:
    given = f"{tuple(source.shape)} of {source.dtype}"
    if isinstance(source, np.ndarray):
        expected = "(H, W, 3) or (H, W)"
        tensor = torch.from_numpy(np.ascontiguousarray(source[..., None] if source.ndim == 2 else source))
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
    else:
        expected = "(3, H, W) or (1, H, W)"
        tensor = source.detach().cpu()
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
        raise ValueError(f"a picture given as {type(source).__name__} must have shape {expected}, not {given}")
    if tensor.is_floating_point():
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):  # NaN fails too
            raise ValueError(
                f"a picture of floats must lie in [0, 1]; {given} goes from {tensor.min()} to {tensor.max()}"
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise ValueError(f"a picture must hold uint8 in 0..255 or floats in [0, 1], not {given}")
    return tv_tensors.Image(tensor.expand(3, -1, -1))
