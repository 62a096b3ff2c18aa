"""The `fiber-data` command: generate the scenes data set, check or look into a data set before training on it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fiber_data import verbs
from fiber_data.console import naming, run_command

if TYPE_CHECKING:  # what is heavy is imported by the command that needs it, so that help and faults come at once
    from fiber_data.formats import CaptionSample, Samples

_COMMANDS = ("scenes", "inspect", "check", "pack", "show", "stats")
_USUAL_SPLITS = ("train", "val", "test")


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="fiber-data", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('fiber-data')}")
    commands = parser.add_subparsers(dest="command", required=True)

    scenes = commands.add_parser("scenes", help="write the generated data set: images, captions, boxes, questions")
    scenes.add_argument("--out", type=Path, required=True, help="folder to write to")
    scenes.add_argument("--train", type=int, default=2000, help="number of training scenes (%(default)s)")
    scenes.add_argument("--val", type=int, default=500, help="number of validation scenes (%(default)s)")
    scenes.add_argument("--level", default="easy", help="easy, medium or hard (%(default)s)")
    scenes.add_argument(
        "--unseen", type=int, help="number of scenes of combinations that training lacks (as --val; easy has none)"
    )
    scenes.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (%(default)s)")
    scenes.add_argument("--image-size", type=int, help="side of the images in pixels (64; medium, hard: 96)")

    inspect = commands.add_parser("inspect", help="count images and captions, what is missing, how long texts are")
    inspect.add_argument("root", type=Path, help="folder of a data set in COCO, Karpathy or captions.jsonl layout")
    inspect.add_argument("--split", action="append", help="a split to look into, may be repeated (all that are found)")
    inspect.add_argument("--decode", action="store_true", help="decode every image and name those that are broken")
    inspect.add_argument("--tokenizer", help="folder or name of a tokenizer, for lengths in tokens")
    inspect.add_argument("--max-length", type=int, default=40, help="tokens that a caption is cut to (%(default)s)")

    check = commands.add_parser("check", help="list all that is wrong with the annotation files of a data set")
    check.add_argument("root", type=Path, help="folder of a data set, in whatever layout")
    check.add_argument("--images", action="store_true", help="open each image too, to compare its size")
    check.add_argument("--decode", action="store_true", help="decode every image too, and name those that are broken")

    pack = commands.add_parser("pack", help="write images, with all that is said of them, to tar shards; or go on so")
    pack.add_argument("root", help="folder of a data set, or a URL of shards")
    pack.add_argument("--out", type=Path, required=True, help="folder of the shards")
    pack.add_argument("--split", default="train", help="(%(default)s)")
    pack.add_argument("--format", default="captions", help="reader of the data set, of fiber.formats (%(default)s)")
    pack.add_argument("--option", action="append", default=[], help="of that reader, as in name=refcoco; repeatable")
    pack.add_argument("--images-per-shard", type=int, default=5000, help="(%(default)s)")
    pack.add_argument("--max-side", type=int, help="longest side in pixels; larger images are resized (none are)")
    pack.add_argument("--workers", type=int, default=1, help="threads that pack (%(default)s)")
    pack.add_argument("--verify", action="store_true", help="compare the shards with their checksums afterwards")
    for verb in (verbs.show, verbs.stats):
        own = commands.add_parser(verb.__name__, help=verb.__doc__, description=verb.__doc__)
        own.set_defaults(run=verb(own))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The words after ``fiber-data``; None takes them from the shell.

    Returns:
        0, or 1 when the input is at fault; the reason goes to standard error, of a check to standard output.
    """
    return run_command("fiber-data", lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(words: Sequence[str]) -> int:
    parser = build_parser()
    if words and not words[0].startswith("-"):
        _check_name(words[0], parser)
    options = parser.parse_args(words)
    own = {"scenes": _scenes, "inspect": _inspect, "check": _check, "pack": _pack}
    return own[options.command](options) if options.command in own else options.run(options)


def _check_name(word: str, parser: argparse.ArgumentParser) -> None:
    """Ends the program with the name that was probably meant, which argparse does not say before Python 3.14."""
    if word not in _COMMANDS:
        near = get_close_matches(word, _COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        parser.error(f"there is no command {word!r}; {hint}known are: {', '.join(_COMMANDS)}")


def _scenes(options: argparse.Namespace) -> int:
    from fiber_data.scenes import LEVELS, UNSEEN, audit_scenes, generate_scenes

    splits = {"train": options.train, "val": options.val}
    held_out = options.level in LEVELS and LEVELS[options.level].held_out  # another level is refused below
    unseen = options.unseen if options.unseen is not None else options.val if held_out else 0
    if unseen:
        splits[UNSEEN] = unseen
    with naming(options.out):
        generate_scenes(options.out, splits, seed=options.seed, level=options.level, image_size=options.image_size)
    also = f", and {unseen:,} of unseen combinations," if unseen else ""
    sys.stdout.write(f"wrote {options.train:,} training and {options.val:,} validation scenes{also} to {options.out}\n")
    for split in ("val", UNSEEN) if unseen else ("val",):
        sys.stdout.write(f"\n{split}\n" if unseen else "")
        for finding in audit_scenes(options.out, measure=split):
            note = "  solvable without looking!" if finding.leaks else ""
            sys.stdout.write(f"{finding.kind:22} blind {finding.accuracy:.3f}   chance {finding.chance:.3f}{note}\n")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from fiber_data.inspection import find_shared, inspect_samples

    tokenizer = None
    if options.tokenizer:
        from fiber_data.text import load_tokenizer

        tokenizer = load_tokenizer(options.tokenizer)
    splits = _read_splits(options.root, options.split)
    for split, samples in splits.items():
        findings = inspect_samples(samples, decode=options.decode, tokenizer=tokenizer, max_length=options.max_length)
        sys.stdout.write(f"{split}\n{findings}\n\n")
    for (first, second), names in find_shared(splits).items():
        sys.stdout.write(f"{first} and {second} share {len(names):,} images, such as {names[0]}\n")
    return 0


def _check(options: argparse.Namespace) -> int:
    from fiber_data.check import check_folder_of

    refused = noted = 0
    for checked in check_folder_of(options.root, images=options.images, decode=options.decode):
        sys.stdout.write(f"{checked}\n")
        refused += checked.is_refused
        noted += sum(fault.count for fault in checked.faults if not fault.refused)
    sys.stdout.write(f"files that a run refuses: {refused:,}; faults that it mends or leaves out: {noted:,}\n")
    return min(refused, 1)


def _pack(options: argparse.Namespace) -> int:
    from fiber_data.pack import pack, verify
    from fiber_data.seams import resolve

    if wrong := [each for each in options.option if not each.partition("=")[2]]:
        raise ValueError(f"--option: expected KEY=VALUE, such as name=refcoco, found {wrong[0]!r}")
    given_options = dict(each.split("=", 1) for each in options.option)
    samples = resolve(options.format, "fiber.formats")(options.root, options.split, **given_options)
    given = {"images_per_shard": options.images_per_shard, "max_side": options.max_side}
    with naming(options.out):
        shards = pack(samples, options.out, options.split, num_workers=options.workers, **given)
    images, count, size = (
        sum(getattr(shard, name) for shard in shards) for name in ("num_images", "num_samples", "num_bytes")
    )
    sys.stdout.write(
        f"{options.out}: {images:,} images, {count:,} samples in {len(shards):,} shards, {size / 1e6:,.1f} MB\n"
    )
    left_out = [reason for shard in shards for reason in shard.left_out]
    if left_out:
        sys.stdout.write(f"left out, for they cannot be read: {len(left_out):,} images, such as {left_out[0]}\n")
    wrong = verify(options.out, options.split) if options.verify else []
    sys.stderr.writelines(f"fiber-data: {sentence}\n" for sentence in wrong)
    return min(len(wrong), 1)


def _read_splits(root: Path, wanted: list[str] | None) -> dict[str, Samples[CaptionSample]]:
    from fiber_data.formats import SplitNotFoundError, read_captions

    if wanted:
        return {split: read_captions(root, split, check_images=False) for split in wanted}
    found = {}
    for split in _USUAL_SPLITS:
        with contextlib.suppress(SplitNotFoundError):
            found[split] = read_captions(root, split, check_images=False)
    return found or {"train": read_captions(root, "train", check_images=False)}  # raises, with the reason


if __name__ == "__main__":
    sys.exit(main())
