"""Options that verbs share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_backbone.ranges import Range

if TYPE_CHECKING:
    from fiber_heads import TaskModel


def add_checkpoint(parser: ArgumentParser) -> None:
    """`--checkpoint` and `--trust`, by which `load_checkpoint` loads."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, checkpoint or model")
    add_trust(parser)


def load_checkpoint(options: Namespace, kind: type[TaskModel]) -> tuple[Any, Any]:
    """The model and the processor that `--checkpoint` names; arguments and errors as of `fiber_train.load_model`."""
    from fiber_train.checkpoint import load_model

    return load_model(options.checkpoint, kind=kind, trusted=options.trust)


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
