"""Finds out which of the caption formats a folder holds."""

import contextlib
from pathlib import Path

from fiber_data.formats.caption_folder import CAPTIONS_FILE, read_caption_folder
from fiber_data.formats.coco_captions import read_coco_captions
from fiber_data.formats.files import FileOfSplitNotFoundError
from fiber_data.formats.karpathy import read_karpathy
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError


def read_captions(root: str | Path, split: str, *, check_images: bool = True) -> list[CaptionSample]:
    """Reads one split of a data set from its folder, whichever of the caption formats it is in.

    Looked for, in this order:

    1. COCO, `read_coco_captions`: ``annotations/captions_<split>.json``, with a year or without;
    2. Karpathy, `read_karpathy`: ``dataset_*.json`` or ``annotations/dataset_*.json``;
    3. a caption folder, `read_caption_folder`: ``captions.jsonl`` with ``images/``.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ``"test"`` or what the files call it.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.

    Returns:
        The samples of the split.

    Raises:
        FileNotFoundError: There is no such folder, or none of the split's images is on disk.
        SplitNotFoundError: The folder holds none of these formats, or not this split.
        ValueError: Several files would fit.
    """
    for read in (read_coco_captions, read_karpathy):
        with contextlib.suppress(FileOfSplitNotFoundError):
            return read(root, split, check_images=check_images)
    if (Path(root) / CAPTIONS_FILE).is_file():
        return read_caption_folder(root, split, check_images=check_images)
    raise SplitNotFoundError(
        f"{root}: no captions of split {split!r}; expected annotations/captions_{split}*.json (COCO), dataset_*.json "
        f"(Karpathy) or {CAPTIONS_FILE}"
    )
