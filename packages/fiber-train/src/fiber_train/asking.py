"""What verbs that ask a model about images have in common: which images, in batches, and how answers are written."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fiber_train.listing import FORMATS, Found, add_listing, listing
from fiber_train.options import add_checkpoint, check_option, load_checkpoint
from fiber_train.outputs import claim_file

if TYPE_CHECKING:
    from fiber_heads import TaskModel

    from fiber_train.inputs import InputImage

IMAGES_HELP = "files, folders, patterns ('photos/*.jpg'), addresses, or - for names on standard input"


def add_images(parser: ArgumentParser, formats: Sequence[str] = FORMATS, batch_size: int = 8) -> None:
    """The images, `--checkpoint`, `--batch-size`, `--format` and `--out`, for `ask`."""
    add_checkpoint(parser)
    parser.add_argument("images", nargs="+", metavar="image", help=IMAGES_HELP)
    parser.add_argument("--batch-size", type=int, default=batch_size, help="images at a time (%(default)s)")
    add_listing(parser, formats)


def ask(
    options: Namespace,
    kind: type[TaskModel],
    find: Callable[[Any, list[InputImage]], list[Found]],
    after: Callable[[], None] | None = None,
) -> int:
    """Asks a model about all images and writes what it finds.

    Args:
        options: With what `add_images` adds.
        kind: Of the model.
        find: Gives what the model finds for the images of a batch.
        after: Called when everything is written.

    Returns:
        The exit status.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: No image can be read, or an option is out of range.
    """
    from fiber_train.inputs import find_inputs, read_batches

    check_option("--batch-size", options.batch_size, least=1)
    if options.out:
        claim_file(options.out, "--out")
    names = find_inputs(options.images)
    model, _ = load_checkpoint(options, kind)
    with listing(options, several=len(names) > 1) as written:
        for batch in read_batches(names, options.batch_size):
            for found in find(model, batch):
                written.add(found)
    if after is not None:
        after()
    return 0
