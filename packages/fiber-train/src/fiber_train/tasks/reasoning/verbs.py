"""`fiber judge`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiber_train.asking import IMAGES_HELP, add_images, ask
from fiber_train.listing import Found

if TYPE_CHECKING:
    from fiber_train.inputs import InputImage


def judge(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Say how likely a statement about two images is true."""
    add_images(parser, about=f"pairs of images, one after the other: {IMAGES_HELP}")
    parser.add_argument("statement", help="such as 'both images show a dog'")
    return _judge


def _judge(options: Namespace) -> int:
    from fiber_heads import FiberForVisualReasoning

    def find(model: Any, batch: list[tuple[InputImage, InputImage]]) -> list[Found]:
        first, second = ([image.pixels for image in side] for side in zip(*batch, strict=True))
        judged = model.judge(first, second, [options.statement] * len(batch))
        return [_as_found(*pair, each) for pair, each in zip(batch, judged, strict=True)]

    return ask(options, FiberForVisualReasoning, find, pairs=True)


def _as_found(left: InputImage, right: InputImage, judged: Any) -> Found:
    row = {"left": left.name, "right": right.name, "statement": judged.statement}
    row |= {"probability": round(judged.probability, 5)}
    text = f"{'true' if judged.probability > 0.5 else 'false'}  ({judged.probability:.3f} that it is true)"
    return Found(row, [row], text)
