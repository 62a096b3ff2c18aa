"""Options that verbs share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_backbone.ranges import Range

if TYPE_CHECKING:
    from fiber_heads import TaskModel


def add_checkpoint(parser: ArgumentParser) -> None:
    """`--checkpoint` and what it needs beside, by which `load_checkpoint` loads."""
    what = "folder of a run, checkpoint or model; a checkpoint file of the original; or a name on the hub"
    parser.add_argument("--checkpoint", type=Path, required=True, help=what)
    add_original(parser)
    add_trust(parser)


def add_original(parser: ArgumentParser) -> None:
    """`--tokenizer` and `--answers`, which the original's files lack."""
    source = "of an original file: folder or hub name of its tokenizer (roberta-base)"
    parser.add_argument("--tokenizer", metavar="SOURCE", help=source)
    listed = "of an original file for questions: its answers as a JSON list in the order of classes, or VQAv2's folder"
    parser.add_argument("--answers", type=Path, metavar="PATH", help=listed)


def load_checkpoint(options: Namespace, kind: type[TaskModel]) -> tuple[Any, Any]:
    """The model and the processor that `--checkpoint` names; arguments and errors as of `fiber_train.load_model`."""
    from fiber_train.checkpoint import load_model

    original = {"tokenizer": options.tokenizer, "answers": options.answers}
    return load_model(options.checkpoint, kind=kind, trusted=options.trust, **original)


def check_option(option: str, value: float, **bounds: Any) -> None:
    """Refuses a number outside of a range.

    Args:
        option: Such as `"--top"`.
        value: What was given.
        bounds: As of `fiber_backbone.ranges.Range`.

    Raises:
        ValueError: The message names the option and the range.
    """
    Range(**bounds).check(option, value)


def add_trust(parser: ArgumentParser) -> None:
    """`--trust`."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="import path that the folder's files may name, such as package.module:Name; can be given again",
    )
