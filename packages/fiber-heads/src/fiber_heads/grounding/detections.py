"""What was found in an image: a dictionary that prints, draws and shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image as PILImage
from torch import Tensor
from transformers.utils.generic import ModelOutput

from fiber_heads.grounding.drawing import Color, draw_boxes, label_colors
from fiber_heads.processing import Image, image_name, open_image
from fiber_heads.results import data_address
from fiber_heads.task import NONE

LEAST_SIDE, SIDE = 320, 640  # pixels of an image in a page


@dataclass
class Detections(ModelOutput):
    """The boxes of one image, best first: dictionary, tuple and attributes at once.

    `supervision.Detections.from_transformers(found, id2label=...)` takes it as it is.

    Attributes:
        boxes: (K, 4) corners x1, y1, x2, y2 in the pixels of the image as it came; half-open, x2 - x1 is the width.
        scores: (K,) in [0, 1], descending.
        labels: (K,) int64, index into the categories or among the sentence's phrases.
        text_labels: The K categories or phrases themselves.
        image: The image as it was given, to draw on; no key of the dictionary.
        names: All categories or phrases that were asked, which `labels` are indices of; no key either.
    """

    boxes: Tensor
    scores: Tensor = NONE
    labels: Tensor = NONE
    text_labels: list[str] = NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image: Image | None = None
        self.names: Sequence[str] = ()

    def __str__(self) -> str:
        if not len(self.boxes):
            return "nothing found"
        lines = [f"{'score':>6}  {'label':24}  {'x1':>7}  {'y1':>7}  {'x2':>7}  {'y2':>7}"]
        lines += [
            f"{score:6.3f}  {name:24}  {'  '.join(f'{side:7.1f}' for side in box)}" for score, name, box in self.rows()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        squares = [f'<span style="color:rgb{color}">&#9632;</span> ' for color in self._colors()]
        head = "".join(f"<th>{name}</th>" for name in ("label", "score", "x1", "y1", "x2", "y2"))
        lines = [
            f"<td>{square}{escape(name)}</td><td>{score:.3f}</td>" + "".join(f"<td>{side:.1f}</td>" for side in box)
            for square, (score, name, box) in zip(squares, self.rows(), strict=True)
        ]
        table = f"<table>{''.join(f'<tr>{line}</tr>' for line in (head, *lines))}</table>"
        return f"{self._drawn()}{table if lines else '<p>nothing found</p>'}"

    def _drawn(self) -> str:
        """The image with the boxes, as HTML; its name if it cannot be opened any more."""
        if self.image is None:
            return ""
        name = escape(image_name(self.image))
        try:
            opened = open_image(self.image)
        except (OSError, ValueError):
            return f"<em>{name or 'an image that cannot be shown'}</em>"
        longest = max(opened.size)  # boxes are drawn at the size of the page, where their labels have room
        address = data_address(self._draw_on(opened, min(SIDE, max(LEAST_SIDE, longest)) / longest), SIDE)
        return f'<img src="{address}" alt="{name}" title="{name}">'

    def best(self, count: int) -> Detections:
        """The first so many."""
        kept = Detections(self.boxes[:count], self.scores[:count], self.labels[:count], self.text_labels[:count])
        kept.image, kept.names = self.image, self.names
        return kept

    def rows(self) -> list[tuple[float, str, list[float]]]:
        """Score, label and corners of each box."""
        return list(zip(self.scores.tolist(), self.text_labels, self.boxes.tolist(), strict=True))

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain values under the same keys, for JSON."""
        return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in self.items()}

    def draw(self, image: Image | None = None, *, font: str | None = None) -> PILImage.Image:
        """The image with its boxes, each with label and score, in a color for each label, see `label_colors`.

        Args:
            image: What to draw on; by default the image that was asked about.
            font: File of a TrueType font for the labels.

        Raises:
            ValueError: If there is no image, or it is of no kind that can be opened.
        """
        return self._draw_on(open_image(self.image if image is None else image), font=font)

    def show(self) -> None:
        """Opens the drawn image in a viewer."""
        self.draw().show()

    def _draw_on(self, image: PILImage.Image, scale: float = 1, font: str | None = None) -> PILImage.Image:
        """A copy, in another size, with the boxes."""
        sized = image if scale == 1 else image.resize([max(1, round(scale * side)) for side in image.size])
        titles = [f"{name} {score:.2f}".strip() for score, name, _ in self.rows()]
        return draw_boxes(sized, scale * self.boxes, titles, self._colors(), font)

    def _colors(self) -> list[Color]:
        """Of each box."""
        names = list(self.names)
        if not names:  # those that were found
            found = dict(zip(self.labels.tolist(), self.text_labels, strict=True))
            names = [found.get(place, "") for place in range(max(found, default=-1) + 1)]
        colors = label_colors(names)
        return [colors[label] for label in self.labels.tolist()]
