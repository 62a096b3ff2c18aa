"""Options that verbs share."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_checkpoint(parser: ArgumentParser) -> None:
    """`--checkpoint` and `--trust`, what `load_model` takes."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, checkpoint or model")
    add_trust(parser)


def add_trust(parser: ArgumentParser) -> None:
    """`--trust`."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="import path that the folder's files may name, such as package.module:Name; can be given again",
    )
