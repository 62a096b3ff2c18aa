"""Boxes as annotation files hold them to corners, and one warning for all that is wrong with them."""

import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from fiber_data.formats.samples import require

Box = tuple[float, float, float, float]
_SLACK = 1.0  # pixels: half-open and inclusive conventions differ by one, and files round


class BoxReader:
    """Turns COCO's ``[x, y, width, height]`` to corners (x1, y1, x2, y2), and counts what had to be mended.

    Corners are half-open: a box that covers pixels 3 and 4 goes from 3 to 5, so that x2 - x1 is its width.

    Args:
        source: The annotation file, for the messages.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._faults: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def corners(self, box: Any, size: tuple[int, int], where: str) -> Box | None:
        """The corners of one box, cut at the border of its image; None for a box that has to be left out.

        Args:
            box: What the file holds.
            size: (height, width) of the image in pixels.
            where: File and location in it.

        Raises:
            ValueError: It is not a list of four numbers.
        """
        is_box = isinstance(box, list) and len(box) == 4
        if not is_box or any(isinstance(value, bool) or not isinstance(value, int | float) for value in box):
            raise ValueError(f"{where}: expected bbox as four numbers [x, y, width, height], found {box!r}")
        x, y, width, height = box
        if not all(map(math.isfinite, box)):
            self.note("left out, not being finite", where)
            return None
        if width < 0 or height < 0:
            self.note("left out, being of negative size", where)
            return None
        x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, size[1]), min(y + height, size[0])
        if x2 <= x1 or y2 <= y1:
            self.note("left out, being empty or wholly outside their image", where)
            return None
        if min(x, y) < -_SLACK or x + width > size[1] + _SLACK or y + height > size[0] + _SLACK:
            self.note("cut, for they reach out of their image", where)
        return float(x1), float(y1), float(x2), float(y2)

    def note(self, fault: str, where: str) -> None:
        """Counts a box with a fault, which reads on after "of the boxes 3 are"."""
        self._faults[fault] += 1
        self._first.setdefault(fault, where.removeprefix(f"{self.source}: "))

    def report(self) -> None:
        """Warns once of all that was found, if anything was."""
        if self._faults:
            parts = [f"{count} are {fault} (the first: {self._first[fault]})" for fault, count in self._faults.items()]
            warnings.warn(f"{self.source}: of the boxes {'; '.join(parts)}", stacklevel=4)


def image_size(entry: Any, where: str) -> tuple[int, int]:
    """The (height, width) of an entry of an image.

    Raises:
        KeyError: It has none.
        ValueError: They are not positive whole numbers.
    """
    size = require(entry, "height", where), require(entry, "width", where)
    if not all(isinstance(side, int | float) and side == int(side) > 0 for side in size):
        raise ValueError(f"{where}: expected height and width as positive whole numbers, found {size}")
    return int(size[0]), int(size[1])
