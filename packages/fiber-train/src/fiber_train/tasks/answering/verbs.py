"""`fiber answer`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from fiber_train.options import add_checkpoint, check_option, load_checkpoint


def answer(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Answer a question about an image."""
    add_checkpoint(parser)
    parser.add_argument("image", type=Path, help="the image")
    parser.add_argument("question", help="what to ask")
    parser.add_argument("--top", type=int, default=3, help="how many answers to print (%(default)s)")
    return _answer


def _answer(options: Namespace) -> int:
    from fiber_heads import FiberForQuestionAnswering

    check_option("--top", options.top, least=1)
    model, _ = load_checkpoint(options, FiberForQuestionAnswering)
    for found in model.answer(options.image, options.question, top_k=options.top)[0]:
        sys.stdout.write(f"{found.probability:6.3f}  {found.text}\n")
    return 0
