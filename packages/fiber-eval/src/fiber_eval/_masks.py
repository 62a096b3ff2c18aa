"""Masks of detection as run lengths, checked before they come to pycocotools, whose C code trusts what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_ops

from fiber_eval.files import holds_boolean, shown

MOST_PIXELS = 1 << 31  # of an image: C counts them in 32 bits
FARTHEST = 100_000  # a corner from the image's: C takes memory in proportion to a polygon's length
_LONGEST = 7  # characters of a number in compressed run lengths, of five bits each


def run_lengths(shape: Any, image: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A mask as compressed run lengths of its image's size.

    Args:
        shape: Polygons, or run lengths, compressed or not.
        image: Its `id`, `height` and `width`.
        where: What errors call the entry.

    Raises:
        ValueError: The shape is none of these, or of another size.
    """
    size: list[Any] = [image.get("height"), image.get("width")]
    if not all(type(side) is int and 0 < side < MOST_PIXELS for side in size) or size[0] * size[1] >= MOST_PIXELS:
        raise ValueError(
            f"{where}: masks need the height and width of image {image['id']}, but they are {shown(size[0])} and "
            f"{shown(size[1])}; add them to the image as whole numbers of pixels"
        )
    try:
        if isinstance(shape, list):
            return rle_ops.merge(rle_ops.frPyObjects([_corners(polygon) for polygon in shape], *size))
        given, counts = list(shape["size"]), shape["counts"]
        runs = _unpacked(counts) if isinstance(counts, str | bytes) else _whole(counts)
    except Exception as error:  # the C code raises plain ones
        raise ValueError(f"{where}: segmentation must be polygons or run lengths, but is {shown(shape)}") from error
    if given != size:
        raise ValueError(f"{where}: the mask is of size {shown(given)}, but its image {image['id']} of {size}")
    if (runs < 0).any() or (runs >= MOST_PIXELS).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(
            f"{where}: run lengths must be 0 or more and add up to {size[0] * size[1]}, the pixels of image "
            f"{image['id']}, but are {shown(runs.tolist())}; write the mask anew, for instance with pycocotools"
        )
    rle = {"size": size, "counts": counts}
    return rle if isinstance(counts, str | bytes) else rle_ops.frPyObjects(rle, *size)


def _corners(polygon: Any) -> list[float]:
    """A polygon; ValueError unless it is x, y, x, y and so on, near an image."""
    corners = np.array(polygon)
    if corners.dtype.kind not in "iuf" or corners.ndim != 1 or len(corners) < 4 or len(corners) % 2:
        raise ValueError("no pairs of numbers")
    if not (abs(corners.astype(np.float64)) <= FARTHEST).all():
        raise ValueError("too far away")
    return corners.tolist()


def _whole(counts: Any) -> NDArray[np.int64]:
    """[N] run lengths from a list of whole numbers."""
    runs = np.array(counts)
    if runs.dtype.kind not in "iuf" or runs.ndim != 1 or (runs != np.floor(runs)).any() or holds_boolean(counts):
        raise ValueError("no whole numbers")
    return np.clip(runs, -1, MOST_PIXELS).astype(np.int64)


def _unpacked(counts: str | bytes) -> NDArray[np.int64]:
    """[N] run lengths from COCO's compressed form, as `rleFrString` in the C code reads it.

    Each character holds five bits of a number, the lowest first, and says whether more follow; from the fourth number
    on they are differences to the last number but one.
    """
    characters = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8)
    codes = characters.astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("no compressed run lengths, or cut off")
    ends = np.flatnonzero(codes & 32 == 0) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    if lengths.max() > _LONGEST:
        raise ValueError("too long a run")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << 5 * places, starts)
    runs -= np.where(codes[ends - 1] & 16, 1 << 5 * lengths, 0)  # negative
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return runs
