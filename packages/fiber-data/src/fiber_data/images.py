"""Any image that a user may hold, as one kind of tensor: RGB, uint8, upright.

Pillow decodes and torch resizes. On 640x480 photographs that pair is 1.8 to 2 times as fast as resizing in
Pillow and gives the same pixels within rounding (1 of 255); torchvision's own decoder gains a seventh more, but
has no guard against decompression bombs and knows fewer formats. ``benchmarks/decoding.py`` measures the three.

Files of more pixels than Pillow's own setting, ``PIL.Image.MAX_IMAGE_PIXELS`` (89,478,485 unless you set it; None is
no limit), are refused before they are decoded. Pillow itself warns above it and refuses above twice as many.
"""

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from fiber_data.urls import fetch, is_url

_IN_MEMORY = "image in memory"


class SupportsRead(Protocol):
    """A file object: anything with ``read``."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes."""


ImageSource = str | Path | bytes | SupportsRead | Mapping[str, Any] | Image.Image | np.ndarray | torch.Tensor
"""What `load_image` takes."""


class BrokenImageError(ValueError):
    """An image that is missing or cannot be decoded. The message names the file and the reason."""


def load_image(source: ImageSource) -> tv_tensors.Image:
    """Reads one image.

    Args:
        source: A path or an http(s) address; the bytes of a file, or a file object; a dictionary with ``bytes`` or
            ``path``, as `datasets` holds images that it does not decode; a PIL image; an array (H, W, 3) or (H, W), or
            a tensor (3, H, W) or (1, H, W). Arrays and tensors hold uint8 in 0..255 or floats in [0, 1].

    Returns:
        uint8 RGB tensor (3, H, W). EXIF orientation is applied; gray, palette and CMYK images are converted, gray ones
        of 16 bits (and of mode "I" in 0..65535, of mode "F" in [0, 1]) scaled; transparent parts become white.

    Raises:
        BrokenImageError: The file is missing, truncated, no image or no ordinary file, has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``, or values outside of the range of its mode; or the address gives none, see
            `fiber_data.urls`.
        TypeError: The source is of no known kind.
        ValueError: An array or tensor has another shape, type or range, or a dictionary neither ``bytes`` nor ``path``.
    """
    if isinstance(source, torch.Tensor | np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, str(getattr(source, "filename", "") or _IN_MEMORY))
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if is_url(source):
        try:
            return _decode(io.BytesIO(fetch(source)), source)
        except OSError as error:
            raise BrokenImageError(f"{source}: {error}") from error
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), _IN_MEMORY)
    if isinstance(source, str | os.PathLike):
        _check_file(source)
        return _decode(source, str(source))
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return _decode(source, name if isinstance(name, str) else _IN_MEMORY)
    raise TypeError(
        f"an image must be a path, URL, bytes, file object, PIL image, array or tensor, not {type(source).__name__}"
    )


def _from_mapping(source: Mapping[str, Any]) -> tv_tensors.Image:
    """What `datasets` holds: ``bytes``, or else ``path``."""
    if source.get("bytes") is not None:
        return _decode(io.BytesIO(source["bytes"]), str(source.get("path") or _IN_MEMORY))
    if not source.get("path"):
        raise ValueError(
            f"an image given as a dictionary needs 'bytes' or 'path', but has {', '.join(map(repr, source))}"
        )
    return load_image(source["path"])


def _check_file(path: str | os.PathLike) -> None:
    """Refuses what to open would block or fail: folders, pipes, devices."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError as error:
        raise BrokenImageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # the latter: a zero byte in the name
        raise BrokenImageError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise BrokenImageError(f"{path}: is {kind}; expected an image file")


def _decode(source: Any, name: str) -> tv_tensors.Image:
    """The pixels of a PIL image, or of a file that Pillow opens."""
    try:
        if isinstance(source, Image.Image):
            return F.to_image(_to_rgb(source))
        with Image.open(source) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, at most {limit:,}")
            return F.to_image(_to_rgb(image))
    except Image.DecompressionBombError as error:
        raise BrokenImageError(
            f"{name}: too many pixels for safety ({error}); set PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except Exception as error:  # a damaged file makes Pillow's many decoders raise almost anything
        raise BrokenImageError(f"{name}: cannot be read as an image ({type(error).__name__}: {error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # exif_transpose copies upright images too
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_gray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_gray(image: Image.Image) -> Image.Image:
    """Gray values of more than 8 bits scaled to 0..255, where Pillow would clip them."""
    values = np.asarray(image)
    whole = image.mode != "F"
    if not ((values >= 0) & (values <= (65535 if whole else 1))).all():  # NaN fails too
        raise ValueError(
            f"values of mode {image.mode!r} go from {values.min()} to {values.max()}; expected "
            f"{'0 to 65535' if whole else '0 to 1'}"
        )
    return Image.fromarray((values >> 8 if whole else (values * 255).round()).astype(np.uint8))


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
        raise ValueError(f"an image given as {type(source).__name__} must have shape {expected}, not {given}")
    if tensor.is_floating_point():
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):  # NaN fails too
            raise ValueError(
                f"an image of floats must lie in [0, 1]; {given} goes from {tensor.min()} to {tensor.max()}"
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise ValueError(f"an image must hold uint8 in 0..255 or floats in [0, 1], not {given}")
    return tv_tensors.Image(tensor.expand(3, -1, -1))
