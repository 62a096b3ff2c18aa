"""`fiber judge`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from fiber_train.asking import IMAGES_HELP
from fiber_train.listing import Found, add_listing, listing
from fiber_train.options import add_checkpoint, check_option, load_checkpoint
from fiber_train.outputs import claim_file


def judge(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Say how likely a statement about two images is true."""
    add_checkpoint(parser)
    parser.add_argument(
        "images", nargs="+", metavar="image", help=f"pairs of images, one after the other: {IMAGES_HELP}"
    )
    parser.add_argument("statement", help="such as 'both images show a dog'")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time, an even number (%(default)s)")
    add_listing(parser)
    return _judge


def _judge(options: Namespace) -> int:
    from fiber_data import load_image
    from fiber_heads import FiberForVisualReasoning

    from fiber_train.inputs import find_inputs

    check_option("--batch-size", options.batch_size, least=2)
    if options.out:
        claim_file(options.out, "--out")
    # An image may be in several pairs.
    names = [name for word in options.images for name in find_inputs([word])]
    if len(names) % 2:
        raise ValueError(f"a statement is about two images, but there are {len(names)}; give pairs of them")
    model, _ = load_checkpoint(options, FiberForVisualReasoning)
    pairs = list(zip(names[::2], names[1::2], strict=True))
    with listing(options, several=len(pairs) > 1) as written:
        for start in range(0, len(pairs), options.batch_size // 2):
            batch = pairs[start : start + options.batch_size // 2]
            first, second = ([load_image(name) for name in side] for side in zip(*batch, strict=True))
            judged = model.judge(first, second, [options.statement] * len(batch))
            for (left, right), each in zip(batch, judged, strict=True):
                row = {"left": left, "right": right, "statement": options.statement}
                row |= {"probability": round(each.probability, 5)}
                text = f"{each.probability:6.3f}  {'true' if each.probability >= 0.5 else 'false'}"
                written.add(Found(row, [row], f"{text}  {left}  {right}" if len(pairs) > 1 else text))
    return 0
