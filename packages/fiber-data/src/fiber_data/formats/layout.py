"""Finds out which format a folder holds, of captions, of questions, of statements, or of boxes."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from fiber_data.formats.caption_folder import CAPTIONS_FILE, caption_file, read_caption_folder
from fiber_data.formats.coco_captions import read_coco_captions
from fiber_data.formats.detection import DetectionData, read_detection
from fiber_data.formats.faults import BadEntries, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError
from fiber_data.formats.grounding import GroundingSample, read_grounding
from fiber_data.formats.karpathy import read_karpathy
from fiber_data.formats.nlvr2 import ReasoningSample, read_nlvr2
from fiber_data.formats.plain_boxes import read_plain_boxes, read_plain_expressions, read_plain_phrases
from fiber_data.formats.plain_form import has_plain, read_plain_questions, read_plain_statements
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError
from fiber_data.formats.tar_shards import has_tar_shards, read_tar_shards
from fiber_data.formats.vqav2 import QuestionSample, read_vqav2
from fiber_data.seams import resolve

Read = TypeVar("Read")
# What a folder is tried for after the formats that have been there longer, by their names in fiber.formats.
_CAPTIONS = ("visual_genome", "sbu", "conceptual_captions", "arrow", "huggingface")
_OTHERS = {
    "questions": ("arrow", "visual_genome_questions", "huggingface"),
    "statements": ("arrow",),
    "boxes": ("odvg", "glip_tsv"),
    "phrases": ("odvg",),
    "expressions": (),
}


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
    3. a caption folder, `read_caption_folder`: ``captions.jsonl``, ``captions.csv`` or ``metadata.jsonl``, with
       ``images/`` or without;
    4. tar shards, `read_tar_shards`: ``<split>/*.tar``, ``<split>-00000.tar``, or ``*.tar``;
    5. Visual Genome, SBU, Conceptual Captions, the Arrow files of the original, a data set of Hugging Face.

    Args:
        root: Folder of the data set.
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
    for read in (read_coco_captions, read_karpathy):
        with contextlib.suppress(FileOfSplitNotFoundError):
            return read(root, split, check_images=check_images, bad_entries=bad_entries)
    if caption_file(Path(root), split) is not None:
        return read_caption_folder(root, split, check_images=check_images, bad_entries=bad_entries, hold_out=hold_out)
    if has_tar_shards(Path(root)):
        return read_tar_shards(root, split, check_images=check_images, bad_entries=bad_entries, hold_out=hold_out)
    for name in _CAPTIONS:
        with contextlib.suppress(FileOfSplitNotFoundError):
            read_own: Callable[..., Samples[CaptionSample]] = resolve(name, "fiber.formats")
            return read_own(root, split, check_images=check_images, bad_entries=bad_entries, hold_out=hold_out)
    raise SplitNotFoundError(
        f"{root}: no captions of split {split!r}; expected annotations/captions_{split}*.json (COCO), dataset_*.json "
        f"(Karpathy), {CAPTIONS_FILE} or metadata.jsonl (Hugging Face), tar shards, or files of {', '.join(_CAPTIONS)}"
    )


def read_questions(root: str | Path, split: str, *, hold_out: float | None = None) -> Samples[QuestionSample]:
    """Reads the questions of one split from a folder: VQAv2's files, else ``questions.jsonl`` or ``questions.csv``.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...
        hold_out: As of `read_plain_questions`.

    Returns:
        As of `read_vqav2`, or of `read_plain_questions`.

    Raises:
        SplitNotFoundError: The folder holds neither of them, or not this split; else as these.
    """
    return _first_or_plain("questions", read_vqav2, read_plain_questions, root, split, hold_out)


def read_statements(root: str | Path, split: str, *, hold_out: float | None = None) -> Samples[ReasoningSample]:
    """Reads the statements of one split from a folder: NLVR2's files, else ``statements.jsonl`` or ``statements.csv``.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"dev"``, ...
        hold_out: As of `read_plain_statements`.

    Returns:
        As of `read_nlvr2`, or of `read_plain_statements`.

    Raises:
        SplitNotFoundError: The folder holds neither of them, or not this split; else as these.
    """
    return _first_or_plain("statements", read_nlvr2, read_plain_statements, root, split, hold_out)


def read_boxes(root: str | Path, split: str, *, hold_out: float | None = None) -> DetectionData:
    """Reads the boxes of one split by name from a folder: COCO's form, else ``boxes.jsonl`` or ``boxes.csv``.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...
        hold_out: As of `read_plain_boxes`.

    Returns:
        As of `read_detection`, or of `read_plain_boxes`.

    Raises:
        SplitNotFoundError: The folder holds neither of them, or not this split; else as these.
    """
    return _first_or_plain("boxes", read_detection, read_plain_boxes, root, split, hold_out)


def read_phrases(
    root: str | Path, split: str, *, name: str | None = None, hold_out: float | None = None
) -> Samples[GroundingSample]:
    """Reads the captions with boxes of one split from a folder: MDETR's form, else ``phrases.jsonl``.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...
        name: As of `read_grounding`; a plain file has none.
        hold_out: As of `read_plain_phrases`.

    Returns:
        As of `read_grounding`, or of `read_plain_phrases`.

    Raises:
        SplitNotFoundError: The folder holds neither of them, or not this split; else as these.
    """
    read = partial(read_grounding, name=name)
    return _first_or_plain("phrases", read, read_plain_phrases, root, split, hold_out)


def read_expressions(
    root: str | Path, split: str, *, name: str | None = None, hold_out: float | None = None
) -> Samples[GroundingSample]:
    """Reads the expressions with boxes of one split from a folder: MDETR's form, else ``expressions.jsonl``.

    Args:
        root: As of `read_phrases`, like the others.
        split: As there.
        name: As there.
        hold_out: As there.
    """
    read = partial(read_grounding, name=name)
    return _first_or_plain("expressions", read, read_plain_expressions, root, split, hold_out)


def _first_or_plain(
    form: str, read: Callable[..., Read], plain: Callable[..., Read], root: str | Path, split: str, share: float | None
) -> Read:
    """What the first reader gives whose format a folder holds: the published one, the plain form, or another."""
    try:
        return read(root, split)
    except FileOfSplitNotFoundError:
        if not has_plain(Path(root), form, split):
            for name in _OTHERS[form]:
                with contextlib.suppress(FileOfSplitNotFoundError):
                    return resolve(name, "fiber.formats")(root, split, hold_out=share)
            raise
    return plain(root, split, hold_out=share)
