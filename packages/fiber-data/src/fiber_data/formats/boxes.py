"""Boxes as annotation files hold them, to corners, with what goes with them: area, crowds, sizes of images."""

from typing import Any

from fiber_data.formats.faults import Faults
from fiber_data.formats.ids import number, shown, whole
from fiber_data.formats.samples import require

Box = tuple[float, float, float, float]
_SLACK = 1.0  # pixels: half-open and inclusive conventions differ by one, and files round
_BOXES = "the boxes"
_LARGEST_SIDE = 2**31  # more than any image format holds
_LARGEST_AREA = 1e30  # below what 32 bits hold


def read_box(entry: dict[str, Any], size: tuple[int, int], where: str, faults: Faults) -> Box | None:
    """The corners (x1, y1, x2, y2) of an annotation's ``[x, y, width, height]``, cut at the border of its image.

    Corners are half-open: a box that covers pixels 3 and 4 goes from 3 to 5, so that x2 - x1 is its width.

    Args:
        entry: The annotation.
        size: (height, width) of the image in pixels.
        where: File and location in it.
        faults: Counts what is cut or left out.

    Returns:
        None for a box that is left out: there is none, as segmentations are exported, or it covers nothing.

    Raises:
        ValueError: It is not a list of four numbers.
    """
    box = entry.get("bbox")
    if box is None or box == []:
        faults.note(_BOXES, "are left out, their annotation having no bbox", where)
        return None
    is_box = isinstance(box, list) and len(box) == 4
    if not is_box or any(isinstance(value, bool) or not isinstance(value, int | float) for value in box):
        raise ValueError(f"{where}: expected bbox as four numbers [x, y, width, height], found {shown(box)}")
    x, y, width, height = map(number, box)
    if x is None or y is None or width is None or height is None:
        faults.note(_BOXES, "are left out, not being finite", where)
        return None
    if width < 0 or height < 0:
        faults.note(_BOXES, "are left out, being of negative size", where)
        return None
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, size[1]), min(y + height, size[0])
    if x2 <= x1 or y2 <= y1:
        faults.note(_BOXES, "are left out, being empty or wholly outside their image", where)
        return None
    if min(x, y) < -_SLACK or x + width > size[1] + _SLACK or y + height > size[0] + _SLACK:
        faults.note(_BOXES, "are cut, for they reach out of their image", where)
    return x1, y1, float(x2), float(y2)


def read_area(entry: dict[str, Any], box: Box, where: str, faults: Faults) -> float:
    """The area of an annotation in square pixels: that of its box where the file says none."""
    given = entry.get("area")
    area = number(given)
    if area is not None and 0 <= area < _LARGEST_AREA:
        return area
    if given is not None:
        faults.note(_BOXES, "take their own area, for that of the file is none", where)
    return (box[2] - box[0]) * (box[3] - box[1])


def read_crowd(entry: dict[str, Any], where: str) -> bool:
    """Whether an annotation is of a crowd: not, where the file does not say so.

    Raises:
        ValueError: It is neither 0 nor 1, false nor true.
    """
    crowd = entry.get("iscrowd")
    if crowd is None or isinstance(crowd, bool):
        return bool(crowd)
    if (found := whole(crowd)) not in (0, 1):
        raise ValueError(f"{where}: expected iscrowd as 0 or 1, found {shown(crowd)}")
    return found == 1


def read_size(entry: Any, where: str) -> tuple[int, int]:
    """The (height, width) of an entry of an image.

    Raises:
        KeyError: It has none.
        ValueError: They are not positive whole numbers.
    """
    given = require(entry, "height", where), require(entry, "width", where)
    height, width = map(whole, given)
    if height is None or width is None or not (0 < height < _LARGEST_SIDE and 0 < width < _LARGEST_SIDE):
        raise ValueError(f"{where}: expected height and width as positive whole numbers, found {shown(given)}")
    return height, width
