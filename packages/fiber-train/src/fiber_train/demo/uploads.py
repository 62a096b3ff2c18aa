"""Images that people give the page: read within its limits, or refused in one sentence that names no path."""

from __future__ import annotations

from fiber_data import BrokenImageError, load_image
from PIL.Image import DecompressionBombError, UnidentifiedImageError
from torch import Tensor


def read_upload(path: str | None, max_pixels: int) -> Tensor:
    """The pixels (3, H, W) uint8 of a file as it is displayed; of an animation the first image.

    Raises:
        ValueError: There is no file, it is none of an image that can be read, is damaged, or has too many pixels.
    """
    if not path:
        raise ValueError("give an image first: choose an example, or upload one")
    try:
        return load_image(path, max_pixels=max_pixels).as_subclass(Tensor)
    except BrokenImageError as error:
        raise ValueError(_sentence(error, max_pixels)) from error


def _sentence(error: BrokenImageError, max_pixels: int) -> str:
    if isinstance(error.__cause__, DecompressionBombError):
        return f"the image has more than {max_pixels / 1e6:g} million pixels, the most of this page; make it smaller"
    if isinstance(error.__cause__, UnidentifiedImageError):
        return "the file is no image that can be read here; save it as JPEG or PNG (a HEIC photo, too)"
    return "the image is damaged or cut short; upload it again, or save it anew as JPEG or PNG"
