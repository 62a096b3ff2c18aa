"""What verbs that ask a model about images have in common: which images, in batches, and how answers are written."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fiber_train.listing import FORMATS, Found, add_listing, listing
from fiber_train.options import add_checkpoint, check_option, load_checkpoint
from fiber_train.outputs import claim_file

if TYPE_CHECKING:
    from fiber_heads import TaskModel

IMAGES_HELP = "files, folders, patterns ('photos/*.jpg'), addresses, or - for names on standard input"


def add_inputs(parser: ArgumentParser, batch_size: int, *, nargs: str = "+", about: str = IMAGES_HELP) -> None:
    """`--checkpoint`, the images and `--batch-size`."""
    add_checkpoint(parser)
    parser.add_argument("images", nargs=nargs, metavar="image", help=about)
    add_batch_size(parser, batch_size)


def add_batch_size(parser: ArgumentParser, batch_size: int) -> None:
    """`--batch-size`."""
    parser.add_argument("--batch-size", type=int, default=batch_size, help="images at a time (%(default)s)")


def add_images(
    parser: ArgumentParser, formats: Sequence[str] = FORMATS, batch_size: int = 8, about: str = IMAGES_HELP
) -> None:
    """What `add_inputs` adds, `--format` and `--out`, for `ask`."""
    add_inputs(parser, batch_size, about=about)
    add_listing(parser, formats)


def ask(
    options: Namespace,
    kind: type[TaskModel],
    find: Callable[[Any, list[Any]], list[Found]],
    after: Callable[[], None] | None = None,
    *,
    pairs: bool = False,
) -> int:
    """Asks a model about all images and writes what it finds.

    Args:
        options: With what `add_images` adds.
        kind: Of the model.
        find: Gives what the model finds for a batch: a list of `InputImage`, or of pairs of them.
        after: Called when everything is written.
        pairs: Whether images come in pairs, one after the other; an image may be in several.

    Returns:
        The exit status.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: No image can be read, one is left over, or an option is out of range.
    """
    from fiber_train.inputs import find_inputs, read_batches, read_groups

    check_option("--batch-size", options.batch_size, least=2 if pairs else 1)
    if options.out:
        claim_file(options.out, "--out")
    if pairs:
        names = [name for word in options.images for name in find_inputs([word])]
        if len(names) % 2:
            raise ValueError(f"images come in pairs, found {len(names)}; give an even number, pair by pair")
        batches: Iterator[list[Any]] = read_groups(
            list(zip(names[::2], names[1::2], strict=True)), options.batch_size // 2
        )
    else:
        names = find_inputs(options.images)
        batches = read_batches(names, options.batch_size)
    model, _ = load_checkpoint(options, kind)
    with listing(options, several=len(names) > 1 + pairs) as written:
        for batch in batches:
            for found in find(model, batch):
                written.add(found)
    if after is not None:
        after()
    return 0
