"""Any image that a user may hold, as one kind of tensor: RGB, uint8, as it is displayed or as it is stored.

Pillow decodes and torch resizes. On 640x480 photographs that pair is 1.8 to 2 times as fast as resizing in
Pillow and gives the same pixels within rounding (1 of 255); torchvision's own decoder gains a seventh more, but
has no guard against decompression bombs and knows fewer formats. ``benchmarks/decoding.py`` measures the three.

Where simplejpeg is installed (``pip install "fiber-data[simplejpeg]"``), it decodes JPEGs of three channels that need
no turn: the same pixels (tests allow 1 of 255), sooner. Pillow still opens and checks them, and decodes what
simplejpeg refuses. Where pillow-heif is installed (``pip install "fiber-data[heif]"``), HEIC and HEIF are read.

Files of more pixels than ``max_pixels``, or without it than Pillow's own setting, ``PIL.Image.MAX_IMAGE_PIXELS``
(89,478,485 unless you set it; None is no limit), are refused before they are decoded. Pillow itself warns above its
setting and refuses above twice as many; that warning is silenced.
"""

import io
import os
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from fiber_data.suffixes import HEIF, INSTALL_HEIF, image_formats
from fiber_data.urls import fetch, is_url

try:
    from simplejpeg import decode_jpeg
except ImportError:  # an extra
    decode_jpeg = None

IN_MEMORY = "image in memory"
"""What messages call an image without a name."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation what turns the stored pixels as they are to be displayed."""
_UNDONE_BY = {6: 8, 8: 6}  # the other turns undo themselves


class SupportsRead(Protocol):
    """A file object: anything with ``read``."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes."""


ImageSource = str | Path | bytes | SupportsRead | Mapping[str, Any] | Image.Image | np.ndarray | torch.Tensor
"""What `load_image` takes."""
Orientation = Literal["stored", "displayed"]
"""An image as its file holds it, or turned as EXIF's orientation says that it is to be shown."""


class BrokenImageError(ValueError):
    """An image that is missing or cannot be decoded. The message names the file and the reason."""


def load_image(
    source: ImageSource,
    *,
    size: tuple[int, int] | None = None,
    exif: Orientation | None = None,
    max_pixels: int | None = None,
) -> tv_tensors.Image:
    """Reads one image.

    Args:
        source: A path or an http(s) address; the bytes of a file, or a file object; a dictionary with ``bytes`` or
            ``path``, as `datasets` holds images that it does not decode; a PIL image; an array (H, W, 3) or (H, W), or
            a tensor (3, H, W) or (1, H, W). Arrays and tensors hold uint8 in 0..255 or floats in [0, 1].
        size: The (height, width) in pixels that the image's annotations are for. It tells whether they are for the
            pixels as they are stored, or turned by EXIF's orientation as they are displayed.
        exif: What to give where a size does not tell: the image as "stored" or as "displayed". None is stored where
            there is a size (both are equal then, and boxes mostly come from tools that ignore EXIF), else displayed.
        max_pixels: Most pixels of a file; None is Pillow's setting, see the module. More than that raises Pillow's
            setting too, which is the whole process's.

    Returns:
        uint8 RGB tensor (3, H, W). Gray, palette and CMYK images are converted, gray ones of 16 bits (and of mode "I"
        in 0..65535, of mode "F" in [0, 1]) scaled; transparent parts become white. An EXIF block that is damaged or of
        no orientation counts as none.

    Raises:
        BrokenImageError: The file is missing, truncated, no image or no ordinary file, has more than `max_pixels`, or
            values outside of the range of its mode; the image is of another size than `size`, turned or not; or the
            address gives none, see `fiber_data.urls`.
        TypeError: The source is of no known kind.
        ValueError: An array or tensor has another shape, type or range, or a dictionary neither ``bytes`` nor ``path``.
    """
    if isinstance(source, torch.Tensor | np.ndarray):
        image = _from_array(source)
        _check_size(size, (image.shape[-2], image.shape[-1]), 1, IN_MEMORY)
        return image
    opened, name = _locate(source)
    return _decode(opened, name, _Wanted(size, exif, max_pixels))


def image_sizes(path: str | os.PathLike) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) in pixels as stored and as displayed, from the header of a file.

    Raises:
        BrokenImageError: The file is missing, no image or no ordinary file.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=image_formats()) as image:
            size, orientation = (image.height, image.width), _orientation(image)
            is_turned = image.format == "TIFF"  # see `_orient`
    except Exception as error:  # as in `_decode`
        raise BrokenImageError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
    other = size[::-1] if orientation >= 5 else size
    return (other, size) if is_turned else (size, other)


def _locate(source: Any) -> tuple[Any, str]:
    """What Pillow can open, or has opened, and what to call it."""
    if isinstance(source, Image.Image):
        return source, str(getattr(source, "filename", "") or IN_MEMORY)
    if isinstance(source, Mapping):  # of `datasets`
        if source.get("bytes") is not None:
            return io.BytesIO(source["bytes"]), str(source.get("path") or IN_MEMORY)
        if not source.get("path"):
            keys = ", ".join(map(repr, source))
            raise ValueError(f"an image given as a dictionary needs 'bytes' or 'path', but has {keys}")
        return _locate(source["path"])
    if is_url(source):
        try:
            return io.BytesIO(fetch(source)), source
        except OSError as error:
            raise BrokenImageError(f"{source}: {error}") from error
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), IN_MEMORY
    if isinstance(source, str | os.PathLike):
        _check_file(source)
        return source, str(source)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else IN_MEMORY
        return source if hasattr(source, "seek") else _read(source, name), name
    raise TypeError(
        f"an image must be a path, URL, bytes, file object, PIL image, array or tensor, not {type(source).__name__}"
    )


def _read(source: SupportsRead, name: str) -> io.BytesIO:
    """All of a file object that cannot be read in parts, such as one of a shard or a connection."""
    try:
        return io.BytesIO(source.read())
    except (OSError, ImportError, ValueError) as error:
        reason = str(error)  # which mostly names the file
        raise BrokenImageError(reason if name.split(": ")[0] in reason else f"{name}: {reason}") from error


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


class _Wanted(NamedTuple):
    """See `load_image`."""

    size: tuple[int, int] | None
    exif: Orientation | None
    max_pixels: int | None


def _decode(source: Any, name: str, wanted: _Wanted) -> tv_tensors.Image:
    """The pixels of a PIL image, or of a file that Pillow opens."""
    try:
        if isinstance(source, Image.Image):
            return F.to_image(_to_rgb(_orient(source, name, wanted)))
        limit = _set_limit(wanted.max_pixels)
        with Image.open(source, formats=image_formats()) as image:
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, at most {limit:,}")
            if (pixels := _decode_jpeg(image)) is not None:
                _check_size(wanted.size, pixels.shape[:2], 1, name)
                return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
            return F.to_image(_to_rgb(_orient(image, name, wanted)))
    except BrokenImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImageError(
            f"{name}: too many pixels for safety ({error}); make it smaller or, if you trust it, raise max_pixels "
            "(data.max_pixels of a run) or PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # a damaged file makes Pillow's many decoders raise almost anything
        ending = Path(name).suffix.lower()
        hint = f"; files of {ending} need more: {INSTALL_HEIF}" if ending in HEIF else ""
        reason = f"{type(error).__name__}: {error}"
        raise BrokenImageError(f"{name}: cannot be read as an image ({reason}){hint}") from error


def _decode_jpeg(image: Image.Image) -> np.ndarray | None:
    """The pixels (H, W, 3) of a file by simplejpeg, or None for Pillow to decode it, or to say what is wrong."""
    file = getattr(image, "fp", None)
    if decode_jpeg is None or (image.format, image.mode) != ("JPEG", "RGB") or file is None or _orientation(image) != 1:
        return None
    file.seek(0)
    try:
        return decode_jpeg(file.read())
    except ValueError:
        return None


def _set_limit(max_pixels: int | None) -> int | None:
    """The limit of pixels, which Pillow then lets pass without a word."""
    # Not `warnings.catch_warnings`: it would let every warning of the process that is shown once be shown again.
    if warnings.filters[:1] != [("ignore", None, Image.DecompressionBombWarning, None, 0)]:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    limit = Image.MAX_IMAGE_PIXELS
    if max_pixels is not None and limit is not None and max_pixels > limit:
        Image.MAX_IMAGE_PIXELS = max_pixels
    return limit if max_pixels is None else max_pixels


def _orient(image: Image.Image, name: str, wanted: _Wanted) -> Image.Image:
    """The decoded image, stored or displayed."""
    is_turned = image.format == "TIFF"  # Pillow turns TIFFs while it decodes them, and forgets how
    orientation = _orientation(image) if is_turned else 1
    image.load()
    if 0 in image.size:
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    orientation = orientation if is_turned else _orientation(image)
    size = image.height, image.width
    stored = size[::-1] if is_turned and orientation >= 5 else size
    _check_size(wanted.size, stored, orientation, name)
    displays = (wanted.exif or ("stored" if wanted.size else "displayed")) == "displayed"
    if wanted.size is not None and orientation >= 5 and stored[0] != stored[1]:
        displays = tuple(wanted.size) != stored
    if displays == is_turned or orientation == 1:
        return image
    return image.transpose(_TURNS[_UNDONE_BY.get(orientation, orientation) if is_turned else orientation])


def _orientation(image: Image.Image) -> int:
    """That of EXIF, 1 to 8."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as `_decode`; damaged EXIF costs itself, not the image
        return 1
    return orientation if orientation in _TURNS else 1


def _check_size(wanted: tuple[int, int] | None, stored: tuple[int, int], orientation: int, name: str) -> None:
    """Refuses an image that has a wanted size neither as it is stored nor as it is displayed."""
    displayed = stored[::-1] if orientation >= 5 else stored
    if wanted is None or tuple(wanted) in (stored, displayed):
        return
    found = f"{stored[0]} x {stored[1]} pixels (height x width)"
    if orientation >= 5:
        found += f" as stored, {displayed[0]} x {displayed[1]} as displayed (EXIF orientation {orientation})"
    raise BrokenImageError(f"{name}: the image is {found}, but its annotations are for {wanted[0]} x {wanted[1]}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_gray(image)
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_gray(image: Image.Image) -> Image.Image:
    """Gray values of more than 8 bits scaled to 0..255, where Pillow would clip them; a transparent one is white."""
    values = np.asarray(image)
    whole = image.mode != "F"
    if not ((values >= 0) & (values <= (65535 if whole else 1))).all():  # NaN fails too
        raise ValueError(
            f"values of mode {image.mode!r} go from {values.min()} to {values.max()}; expected "
            f"{'0 to 65535' if whole else '0 to 1'}"
        )
    gray = (values >> 8 if whole else (values * 255).round()).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        gray[values == transparent] = 255
    return Image.fromarray(gray)


def _from_array(source: np.ndarray | torch.Tensor) -> tv_tensors.Image:
    given = f"{tuple(source.shape)} of {source.dtype}"
    if isinstance(source, np.ndarray):
        expected = "(H, W, 3) or (H, W)"
        array: Any = source[..., None] if source.ndim == 2 else source
        array = array.transpose(2, 0, 1) if array.ndim == 3 else array
        is_float = array.dtype.kind == "f"
        if is_float:  # whatever its precision and the order of its bytes
            array = array.astype(np.float32 if array.itemsize <= 4 else np.float64, copy=False)
    else:
        expected = "(3, H, W) or (1, H, W)"
        array = source.detach().cpu()
        is_float = array.is_floating_point()
    if array.ndim != 3 or array.shape[0] not in (1, 3) or 0 in array.shape:
        raise ValueError(f"an image given as {type(source).__name__} must have shape {expected}, not {given}")
    if not is_float and array.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"an image must hold uint8 in 0..255 or floats in [0, 1], not {given}")
    tensor = torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array
    if is_float:
        tensor = tensor.float() if tensor.itemsize < 4 else tensor  # halves cannot tell 255 steps apart
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):  # NaN fails too
            raise ValueError(
                f"an image of floats must lie in [0, 1]; {given} goes from {tensor.min()} to {tensor.max()}"
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    return tv_tensors.Image(tensor.expand(3, -1, -1))
