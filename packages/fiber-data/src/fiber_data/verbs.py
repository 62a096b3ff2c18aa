"""`fiber-data show` and `fiber-data stats`: what a data set holds, before a model is trained on it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from fiber_data.console import naming


def _add_source(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="folder of a data set, in whatever layout")
    parser.add_argument("--format", help="of this format alone (fiber.formats, or an import path; all that are found)")
    parser.add_argument("--split", help="of this split alone (all that are found)")


def show(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Write a page of what a model sees: images after transforms, with texts, boxes and masked tokens."""
    _add_source(parser)
    parser.add_argument("--out", type=Path, default=Path("sheet.html"), help="the page to write (%(default)s)")
    parser.add_argument("--count", type=int, default=12, help="samples of each file (%(default)s)")
    parser.add_argument("--size", type=int, help="side of squares (384), or shorter side with boxes, in pixels")
    parser.add_argument("--evaluation", action="store_true", help="as in evaluation: nothing is augmented or drawn")
    parser.add_argument("--tokenizer", help="folder or name of a tokenizer, to mask tokens and draw prompts")
    parser.add_argument("--epoch", type=int, default=0, help="the epoch whose draws to show (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (%(default)s)")
    return _show


def _show(options: Namespace) -> int:
    from fiber_data.contact_sheet import make_dataset, write_sheet
    from fiber_data.folders import read_folder
    from fiber_data.sampling import EpochIndex
    from fiber_data.text import load_tokenizer

    if options.count < 1 or (options.size is not None and options.size < 2):
        raise ValueError("--count must be at least 1, and --size at least 2")
    if options.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{options.out}: expected a name that ends in .html")
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    sections = []
    for part in read_folder(options.root, format=options.format, split=options.split):
        if not len(part.samples):
            continue
        dataset = make_dataset(
            part, size=options.size, training=not options.evaluation, tokenizer=tokenizer, seed=options.seed
        )
        count = min(options.count, len(dataset))
        places = (number * len(dataset) // count for number in range(count))  # spread over the file
        items = [dataset[EpochIndex(place, options.epoch)] for place in places]
        sections.append((f"{part.path.name}: {part.format}, {part.split or 'no split'}", items))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with naming(options.out):
        options.out.write_text(write_sheet(sections, tokenizer=tokenizer), encoding="utf-8")
    sys.stdout.write(f"wrote {sum(len(items) for _, items in sections):,} samples to {options.out}\n")
    return 0


def stats(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Count samples, texts, categories, sizes of images, and what splits share."""
    _add_source(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--content", action="store_true", help="compare the bytes of images across splits too")
    parser.add_argument("--no-sizes", action="store_true", help="open no image for its size")
    return _stats


def _stats(options: Namespace) -> int:
    import json

    from fiber_data.folders import read_folder
    from fiber_data.statistics import count_samples, find_duplicates, format_table

    parts = list(read_folder(options.root, format=options.format, split=options.split, check_images=False))
    counts = [(part, count_samples(part, sizes=not options.no_sizes)) for part in parts]
    shared = find_duplicates(parts, content=options.content)
    if options.json:
        files = [
            {"file": str(part.path), "format": part.format, "split": part.split, **numbers} for part, numbers in counts
        ]
        sys.stdout.write(json.dumps({"files": files, "duplicates": shared}, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(format_table(counts, shared) + "\n")
    return 0
