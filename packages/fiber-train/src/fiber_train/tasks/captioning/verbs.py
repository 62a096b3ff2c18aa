"""`fiber caption`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from fiber_train.options import add_checkpoint, check_option, load_checkpoint


def caption(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Write captions for images."""
    add_checkpoint(parser)
    parser.add_argument("images", type=Path, nargs="+", help="the images")
    parser.add_argument("--top", type=int, default=1, help="captions of each image (%(default)s)")
    return _caption


def _caption(options: Namespace) -> int:
    from fiber_heads import FiberForCaptioning

    check_option("--top", options.top, least=1)
    model, _ = load_checkpoint(options, FiberForCaptioning)
    for path in options.images:
        for found in model.caption(path, num_captions=options.top)[0]:
            sys.stdout.write(f"{path}  {found.score:7.3f}  {found.text}\n")
    return 0
