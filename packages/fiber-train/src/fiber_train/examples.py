"""What a report shows of single samples: images, what was asked of them, what the model said, what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from fiber_data import ImageSource, load_image
from fiber_heads.results import data_address
from torchvision.transforms.v2.functional import to_pil_image

Item = TypeVar("Item")


@dataclass(frozen=True)
class Mark:
    """A box on an image.

    Attributes:
        box: Corners x1, y1, x2, y2 in pixels of the image.
        kind: What was found where it is ("right") or where it is not ("wrong"), or where it truly is.
        label: Such as the number of its phrase and its score.
    """

    box: tuple[float, float, float, float]
    kind: Literal["right", "wrong", "true"]
    label: str = ""


@dataclass(frozen=True)
class ShownImage:
    """An image and the boxes on it.

    Attributes:
        source: The file, as an address that a page holds in itself.
        width: Of the image itself, in pixels, like `height`.
        height: Likewise.
        marks: The boxes.
    """

    source: str
    width: int
    height: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Said:
    """One thing that a model said.

    Attributes:
        text: Of it.
        score: How sure it was; None where that means nothing.
        right: Whether it is right; None where that cannot be told.
    """

    text: str
    score: float | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Example:
    """A held-out sample.

    Attributes:
        images: One or two.
        asked: The text that goes with them, in pieces; of a phrase with boxes its number, else None.
        said: What the model says, best first.
        truth: What is right, for people.
    """

    images: tuple[ShownImage, ...]
    asked: tuple[tuple[str, int | None], ...] = ()
    said: tuple[Said, ...] = ()
    truth: str = ""


@dataclass
class Shown:
    """What a task shows of a model.

    Attributes:
        examples: Of single samples.
        note: What they show, in a sentence or two.
        confidences: By name of a decision, how sure the model was in [0, 1] and whether it was right, of more samples
            than are shown.
    """

    examples: list[Example] = field(default_factory=list)
    note: str = ""
    confidences: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)


def spread(samples: Sequence[Item], number: int) -> list[Item]:
    """So many samples, evenly over all of them."""
    step = max(1, len(samples) // max(1, number))
    return [samples[place] for place in range(0, len(samples), step)][:number]


def show_image(image: ImageSource, marks: Sequence[Mark] = (), **options: Any) -> ShownImage:
    """An image for a page, not larger than is seen there; `options` are those of `load_image`."""
    pixels = load_image(image, **options)
    height, width = pixels.shape[1:]
    return ShownImage(data_address(to_pil_image(pixels)), width, height, tuple(marks))
