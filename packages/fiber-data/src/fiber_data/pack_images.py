"""Image files as they go into a shard: as they are, or resized, with the boxes that were drawn on them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torchvision.transforms.v2 import functional as F

from fiber_data.formats.shard_index import ShardImage
from fiber_data.formats.shard_records import known_keys
from fiber_data.images import load_image
from fiber_data.suffixes import image_suffixes
from fiber_data.urls import fetch, is_url

_QUALITY = 95  # of JPEG
Size = tuple[int, int]


class Encoded(NamedTuple):
    """An image file.

    Attributes:
        ending: Of its name, with the dot.
        content: Its bytes.
        resized: Height and width before and after, if they were changed.
    """

    ending: str
    content: bytes
    resized: tuple[Size, Size] | None = None


def encode(source: Any, max_side: int | None, size: Size | None) -> Encoded:
    """The file of an image.

    Args:
        source: What `fiber_data.load_image` takes.
        max_side: A longer side is reduced to this many pixels; None leaves every file as it is.
        size: The (height, width) that boxes are for.

    Raises:
        BrokenImageError: It cannot be decoded, or is of another size.
    """
    image = load_image(source, size=size)  # also where the file is kept: what cannot be decoded is found here, once
    old: Size = image.shape[-2], image.shape[-1]
    is_large = max_side is not None and max(old) > max_side
    if not is_large and (original := _file_of(source)) is not None:
        return original
    buffer = io.BytesIO()
    if max_side is None:
        F.to_pil_image(image).save(buffer, "PNG")
        return Encoded(".png", buffer.getvalue())
    new: Size = old
    if is_large:
        new = max(1, round(old[0] * max_side / max(old))), max(1, round(old[1] * max_side / max(old)))
        image = F.resize(image, list(new), antialias=True)
    F.to_pil_image(image).save(buffer, "JPEG", quality=_QUALITY)
    return Encoded(".jpg", buffer.getvalue(), (old, new) if is_large else None)


def check_scalable(sample: Mapping[str, Any]) -> None:
    """Refuses a sample whose numbers cannot follow when its image is resized.

    Raises:
        ValueError: It has boxes, and no size that they are for, or keys that nobody here knows.
    """
    if "boxes" not in sample:
        return
    known = {*known_keys(sample), "image", "images", "boxes", "size", "area", "id"}
    wrong = [f"no 'size' (height, width) that its boxes are for, only {', '.join(map(repr, sample))}"]
    wrong = wrong if "size" not in sample else [f"{key!r}, which may count pixels too" for key in sample.keys() - known]
    if wrong or "images" in sample:
        what = wrong[0] if wrong else "boxes and several images"
        raise ValueError(f"sample {sample['id']!r}: has {what}; pack it without resizing (max_side, --max-side)")


def scale(sample: Mapping[str, Any], old: Size, new: Size) -> dict[str, Any]:
    """A sample whose image was resized: its size, boxes (x1, y1, x2, y2) and areas in the new pixels."""
    scaled = dict(sample)
    y, x = new[0] / old[0], new[1] / old[1]
    if "size" in sample:
        scaled["size"] = new
    if "boxes" in sample:
        scaled["boxes"] = [(x1 * x, y1 * y, x2 * x, y2 * y) for x1, y1, x2, y2 in sample["boxes"]]
    if "area" in sample:
        scaled["area"] = [area * x * y for area in sample["area"]]
    return scaled


def _file_of(source: Any) -> Encoded | None:
    """The file of an image, if it has one."""
    if isinstance(source, ShardImage):
        return Encoded(f".{source.member.rpartition('.')[2].lower()}", source.read())
    if is_url(source):
        content, name = fetch(source), source.partition("?")[0]
    elif isinstance(source, str | Path):
        content, name = Path(source).read_bytes(), str(source)
    elif isinstance(source, bytes):
        content, name = source, ""
    else:
        return None
    ending = f".{name.rpartition('.')[2].lower()}"
    if ending not in image_suffixes():
        with Image.open(io.BytesIO(content)) as opened:
            ending = f".{(opened.format or 'png').lower()}"
    return Encoded(ending, content)
