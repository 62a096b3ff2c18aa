"""`fiber caption`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiber_train.asking import add_images, ask
from fiber_train.listing import Found
from fiber_train.options import check_option

if TYPE_CHECKING:
    from fiber_train.inputs import InputImage


def caption(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Write captions for images."""
    add_images(parser)
    parser.add_argument("--top", type=int, default=1, help="captions of each image (%(default)s)")
    return _caption


def _caption(options: Namespace) -> int:
    from fiber_heads import FiberForCaptioning

    check_option("--top", options.top, least=1)

    def find(model: Any, batch: list[InputImage]) -> list[Found]:
        captions = model.caption([image.pixels for image in batch], num_captions=options.top)
        return [_as_found(image.name, row) for image, row in zip(batch, captions, strict=True)]

    return ask(options, FiberForCaptioning, find)


def _as_found(image: str, captions: list[Any]) -> Found:
    rows = [{"caption": each.text, "score": round(each.score, 5)} for each in captions]
    text = "\n".join(f"{row['score']:7.3f}  {row['caption']}" for row in rows)
    return Found({"image": image, "captions": rows}, [{"image": image} | row for row in rows], text)
