"""Samples one by one: those of a split, and those whose images are on disk. What readers of large files share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import iterate_on_disk
from fiber_data.formats.held_out import TRAIN, USUAL_SHARE, VAL, HeldOutRule, image_id, note_held_out
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import SplitNotFoundError, list_some
from fiber_data.formats.streams import collect

Sample = TypeVar("Sample", bound=Mapping[str, Any])
_HELD_OUT = (VAL, "valid", "validation", "dev", "minival")  # what data sets call the split that runs measure on


def of_split(
    make: Callable[[Faults], Iterator[Sample]], split: str | None, hold_out: float | None, what: str, faults: Faults
) -> Iterator[Sample]:
    """The samples of a split: by their ``split``, or by a share of their images where none has one.

    The samples are made twice, first to know which splits they name and which images would be held out. The split that
    runs measure on has several names (val, valid, validation, dev, minival); the one that samples name is meant.

    Args:
        make: Makes all samples of the file, counting its faults.
        split: Keep these only; None keeps all.
        hold_out: About which share of the images is ``"val"`` where no sample has a split, a tenth by default; 0 for
            none.
        what: What a sample is, in the plural, for messages.
        faults: Of the file.

    Raises:
        SplitNotFoundError: No sample is of the split.
        ValueError: There is none at all, and nothing says why.
    """
    if split is None:
        count = 0
        for count, sample in enumerate(make(faults), start=1):  # noqa: B007  # how many there were
            yield sample
        if not count and not any(True for _ in faults):
            raise ValueError(f"{faults.source}: it holds no {what}; is it the right file?")
        return
    share, named = USUAL_SHARE if hold_out is None else hold_out, set[str]()
    rule = HeldOutRule(share)
    for sample in make(Faults(faults.source, strict=False)):
        named |= {sample["split"]} if sample.get("split") else set()
        rule.add(image_id(sample))
    wanted, found, held, total = _meant(split, named), 0, 0, 0
    for sample in make(faults):
        is_held = not named and image_id(sample) in rule
        held, total = held + is_held, total + 1
        if wanted == ((sample.get("split") or TRAIN) if named else VAL if is_held else TRAIN):
            found += 1
            yield {**sample, "split": split}  # type: ignore[misc]
    note_held_out(faults, total, what, held, "of them")
    if not found and not faults.refused:
        there = f"[{list_some(sorted(named | {TRAIN}))}]" if total else f"no {what}"
        raise SplitNotFoundError(f"{faults.source}: no {what} of split {split!r}; the file has {there}")


def _meant(split: str, named: set[str]) -> str:
    """The name of a split in the file, where it has another for the same."""
    if split in named or split not in _HELD_OUT:
        return split
    return next((name for name in _HELD_OUT if name in named), VAL)


def on_disk(
    samples: Iterable[Sample], what: str, faults: Faults, listing: FolderListing, *, check_images: bool = True
) -> Iterator[Sample]:
    """Leaves out, counted, samples without all of their images on disk, or with an empty list of captions.

    Args:
        samples: As they are read.
        what: What a sample is, in the plural, for messages.
        faults: Of the file.
        listing: What is known of the disk already.
        check_images: Whether to do so at all.

    Raises:
        FileNotFoundError: After all of them, if not one sample has its images.
    """
    return iterate_on_disk(samples, what, faults, listing) if check_images else iter(samples)


def collected(
    iterate: Callable[..., Iterator[Sample]],
    root: str | Path,
    split: str | None,
    bad_entries: BadEntries,
    **options: Any,
) -> Samples[Sample]:
    """The list of what a generator of samples gives, with the faults of its file; a warning says these.

    Args:
        iterate: Called as ``iterate(root, split, faults, **options)``; it says which file the faults are of.
        root: Folder of the data set.
        split: As of the generator.
        bad_entries: As of the readers.
        options: Of the generator.
    """
    faults = Faults(Path(root), bad_entries is None)
    return collect(iterate(root, split, faults, **options), faults)
