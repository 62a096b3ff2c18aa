"""Finds out which of the caption formats a folder holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fiber_data.formats.caption_folder import CAPTIONS_FILE, caption_file, iterate_caption_folder
from fiber_data.formats.coco_captions import iterate_coco_captions
from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError
from fiber_data.formats.karpathy import iterate_karpathy
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError
from fiber_data.formats.shard_places import has_tar_shards, is_elsewhere
from fiber_data.formats.streams import collect, iterated_by
from fiber_data.formats.tar_shards import iterate_tar_shards, read_tar_shards


def iterate_captions(
    root: str | Path, split: str, faults: Faults, *, check_images: bool = True, hold_out: float | None = None
) -> Iterator[CaptionSample]:
    """The samples of `read_captions` one by one, see `fiber_data.formats.streams`."""
    for iterate in (iterate_coco_captions, iterate_karpathy):
        with contextlib.suppress(FileOfSplitNotFoundError):
            yield from iterate(root, split, faults, check_images=check_images)
            return
    if caption_file(Path(root), split) is not None:
        yield from iterate_caption_folder(root, split, faults, check_images=check_images, hold_out=hold_out)
    elif has_tar_shards(Path(root)):
        yield from iterate_tar_shards(root, split, faults, check_images=check_images, hold_out=hold_out)
    else:
        raise SplitNotFoundError(
            f"{root}: no captions of split {split!r}; expected annotations/captions_{split}*.json (COCO), "
            f"dataset_*.json (Karpathy), {CAPTIONS_FILE} or metadata.jsonl (Hugging Face), or tar shards"
        )


@iterated_by(iterate_captions)
def read_captions(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    hold_out: float | None = None,
) -> Samples[CaptionSample]:
    """Reads one split of a data set from its folder, whichever of the caption formats it is in.

    Sought, in this order:

    1. COCO, `read_coco_captions`: ``annotations/captions_<split>.json``, with a year or without;
    2. Karpathy, `read_karpathy`: ``dataset_*.json`` or ``annotations/dataset_*.json``;
    3. a caption folder, `read_caption_folder`: ``captions.jsonl`` or ``metadata.jsonl``, with ``images/`` or without;
    4. tar shards, `read_tar_shards`: ``<split>/*.tar``, ``<split>-00000.tar``, or ``*.tar``.

    Args:
        root: Folder of the data set; or of tar shards a URL or names with braces.
        split: ``"train"``, ``"val"``, ``"test"`` or what the files call it.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        hold_out: Of a caption folder whose lines have no split, or of such shards: about which share of the images is
            ``"val"``, a tenth by default.

    Returns:
        The samples of the split, and what was wrong with their file (``faults``).

    Raises:
        FileNotFoundError: There is no such folder, or none of the split's images is on disk.
        SplitNotFoundError: The folder holds none of these formats, or not this split.
        ValueError: Several files would fit.
    """
    if is_elsewhere(root):
        return read_tar_shards(root, split, check_images=check_images, bad_entries=bad_entries, hold_out=hold_out)
    faults = Faults(Path(root), bad_entries is None)
    return collect(iterate_captions(root, split, faults, check_images=check_images, hold_out=hold_out), faults)
