"""`fiber retrieve`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from fiber_train.options import add_checkpoint, check_option, load_checkpoint


def retrieve(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Rank the images of a folder by a text."""
    add_checkpoint(parser)
    parser.add_argument("--images", type=Path, required=True, help="folder of images, searched with its subfolders")
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--top", type=int, default=5, help="how many to print (%(default)s)")
    parser.add_argument("--rerank", type=int, default=0, help="re-rank so many of the best, with the matcher")
    return _retrieve


def _retrieve(options: Namespace) -> int:
    from fiber_heads.search import SearchModel

    from fiber_train.tasks.retrieval.folder import find_images
    from fiber_train.tasks.retrieval.folder import retrieve as search

    check_option("--top", options.top, least=1)
    check_option("--rerank", options.rerank, least=0)
    images = find_images(options.images)
    model, processor = load_checkpoint(options, SearchModel)
    for rank, match in enumerate(search(model, processor, images, options.query, options.top, options.rerank), 1):
        sys.stdout.write(f"{rank:>3}  {match.score:7.3f}  {match.path}\n")
    return 0
