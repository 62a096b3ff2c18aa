"""How results show themselves: in a terminal by `str`, in a notebook with their images, in JSON by `to_dict`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from io import BytesIO
from operator import is_
from textwrap import indent
from typing import Any, TypeVar

from PIL import Image as PILImage

from fiber_heads.processing import Image, image_name, open_image

Found = TypeVar("Found")
SIDE = 320  # pixels of an image in a page
# Colors that are given are seen on light and on dark; all others are the page's.
_BAR = "background:linear-gradient(90deg,rgba(80,140,230,.4) {share:.0%},transparent 0)"
_BLOCK = "display:flex;flex-wrap:wrap;gap:.6em 1em;align-items:flex-start;margin:.4em 0 1em"


@dataclass(frozen=True)
class Result:
    """What one question found: a few plain values, such as a text and its probability."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return asdict(self)

    def show(self) -> None:
        """Prints it."""
        print(self)  # noqa: T201 -- showing is what was asked for

    def row(self) -> dict[str, Any]:
        """What people read of it, by the head of its column."""
        return self.to_dict()

    def _repr_html_(self) -> str:
        return _table([self.row()], [""])


class Results(list[Found]):
    """A list of results, one for each question or image, that prints and, in a notebook, shows itself.

    Args:
        found: Results, lists of them, or whatever else shows itself.
        titles: Of each what was asked, if it does not say so itself.
        images: Of each the images that it is about, if it does not show them itself.
    """

    def __init__(
        self, found: Iterable[Found] = (), *, titles: Sequence[str] = (), images: Sequence[Sequence[Image]] = ()
    ) -> None:
        super().__init__(found)
        self.titles, self.images = list(titles), [tuple(each) for each in images]

    def __str__(self) -> str:
        if len(self) < 2 or not self.titles:
            return "\n".join(map(str, self))
        pairs = zip(self.titles, self, strict=False)
        return "\n".join(f"{title}\n{indent(str(each), '  ')}" for title, each in pairs)

    def show(self) -> None:
        """Prints all of it."""
        print(self)  # noqa: T201 -- showing is what was asked for

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # IPython's console

    def _repr_html_(self) -> str:
        rows = [each.row() for each in self if isinstance(each, Result)]
        images = list(map(self._images, range(len(self))))
        if not self:
            return "<p>nothing found</p>"
        if len(rows) == len(self):
            return _table(rows, images)
        blocks = (f"{image}<div>{self._titled(place)}</div>" for place, image in enumerate(images))
        return "".join(f'<div style="{_BLOCK}">{block}</div>' for block in blocks)

    def _images(self, place: int) -> str:
        """The images of one result; they are not repeated where the one before has the same."""
        images, before = ((*self.images, *[()] * len(self))[each] for each in (place, place - 1))
        same = place > 0 and len(images) == len(before) and all(map(is_, images, before))
        return "" if same else "".join(map(as_image, images))

    def _titled(self, place: int) -> str:
        found: Any = self[place]
        own = found._repr_html_() if hasattr(found, "_repr_html_") else escape(str(found))
        return (f"<b>{escape(self.titles[place])}</b>" if place < len(self.titles) else "") + own


def as_image(image: Image) -> str:
    """An image as an HTML element that holds it, shrunken; its name where it can no longer be opened."""
    name = escape(image_name(image))
    try:
        address = data_address(open_image(image))
    except (OSError, ValueError):
        return f"<em>{name or 'an image that cannot be shown'}</em>"
    return f'<img src="{address}" alt="{name}" title="{name}" style="min-height:96px;max-height:180px">'


def data_address(image: PILImage.Image, side: int = SIDE) -> str:
    """The address by which a page holds an image in itself, at most `side` pixels wide and high."""
    small = image.copy()
    small.thumbnail((side, side))
    kind = "PNG" if image.width * image.height <= 128 * 128 else "JPEG"
    file = BytesIO()
    small.save(file, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"


def _table(rows: Sequence[dict[str, Any]], images: Sequence[str]) -> str:
    """Plain values as an HTML table, each row behind its images, with bars behind probabilities."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    head = ["", *names] if any(images) else names
    lines = [
        (f"<td>{image}</td>" if any(images) else "") + "".join(_cell(name, row[name]) for name in names)
        for row, image in zip(rows, images, strict=True)
    ]
    top = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in head)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(name: str, value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    style = f' style="{_BAR.format(share=value)}"' if name == "probability" else ""
    return f"<td{style}>{escape(text)}</td>"
