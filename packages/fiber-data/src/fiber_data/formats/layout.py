"""Finds out which format a folder holds, of captions, of questions, of statements, or of boxes."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fiber_data.formats.caption_folder import CAPTIONS_FILE, caption_file, iterate_caption_folder
from fiber_data.formats.coco_captions import iterate_coco_captions
from fiber_data.formats.detection import DetectionData, read_detection
from fiber_data.formats.faults import BadEntries, Faults, Samples, faults_of
from fiber_data.formats.files import FileOfSplitNotFoundError
from fiber_data.formats.grounding import GroundingSample, read_grounding
from fiber_data.formats.karpathy import iterate_karpathy
from fiber_data.formats.nlvr2 import ReasoningSample, read_nlvr2
from fiber_data.formats.plain_boxes import read_plain_boxes, read_plain_expressions, read_plain_phrases
from fiber_data.formats.plain_form import has_plain, read_plain_questions, read_plain_statements
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError
from fiber_data.formats.shard_places import has_tar_shards, is_elsewhere
from fiber_data.formats.streams import collect, iterated_by
from fiber_data.formats.tar_shards import iterate_tar_shards, read_tar_shards
from fiber_data.formats.vqav2 import QuestionSample, read_vqav2
from fiber_data.seams import resolve

# What a folder is tried for after the formats that have been there longer, by their names in fiber.formats.
_CAPTIONS = ("visual_genome", "sbu", "conceptual_captions", "arrow", "huggingface")
_OTHERS = {
    "questions": ("arrow", "visual_genome_questions", "huggingface"),
    "statements": ("arrow",),
    "boxes": ("odvg", "glip_tsv"),
    "phrases": ("odvg",),
    "expressions": (),
}


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
        for name in _CAPTIONS:
            with contextlib.suppress(FileOfSplitNotFoundError):
                read = resolve(name, "fiber.formats")
                yield from _one_by_one(read, root, split, faults, check_images=check_images, hold_out=hold_out)
                return
        raise SplitNotFoundError(
            f"{root}: no captions of split {split!r}; expected annotations/captions_{split}*.json (COCO), "
            f"dataset_*.json (Karpathy), {CAPTIONS_FILE} or metadata.jsonl (Hugging Face), tar shards, or files of "
            f"{', '.join(_CAPTIONS)}"
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
    3. a caption folder, `read_caption_folder`: ``captions.jsonl``, ``captions.csv`` or ``metadata.jsonl``, with
       ``images/`` or without;
    4. tar shards, `read_tar_shards`: ``<split>/*.tar``, ``<split>-00000.tar``, or ``*.tar``;
    5. Visual Genome, SBU, Conceptual Captions, the Arrow files of the original, a data set of Hugging Face.

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


def iterate_questions(
    root: str | Path, split: str, faults: Faults, *, hold_out: float | None = None, check_images: bool = True
) -> Any:
    """What `read_questions` gives, its samples one by one, see `fiber_data.formats.streams`."""
    return _first_or_plain(
        "questions", read_vqav2, read_plain_questions, root, split, hold_out, faults, check_images=check_images
    )


@iterated_by(iterate_questions)
def read_questions(
    root: str | Path, split: str, *, hold_out: float | None = None, check_images: bool = True
) -> Samples[QuestionSample]:
    """Reads the questions of one split from a folder: VQAv2's files, else ``questions.jsonl`` or ``questions.csv``.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...
        hold_out: As of `read_plain_questions`.
        check_images: Whether to leave out, with a warning, questions whose image is not on disk.

    Returns:
        As of `read_vqav2`, or of `read_plain_questions`.

    Raises:
        SplitNotFoundError: The folder holds neither of them, or not this split; else as these.
    """
    return _first_or_plain(
        "questions", read_vqav2, read_plain_questions, root, split, hold_out, check_images=check_images
    )


def iterate_statements(root: str | Path, split: str, faults: Faults, *, hold_out: float | None = None) -> Any:
    """What `read_statements` gives, its samples one by one, see `fiber_data.formats.streams`."""
    return _first_or_plain("statements", read_nlvr2, read_plain_statements, root, split, hold_out, faults)


@iterated_by(iterate_statements)
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


def iterate_boxes(root: str | Path, split: str, faults: Faults, *, hold_out: float | None = None) -> Any:
    """What `read_boxes` gives, its samples one by one, see `fiber_data.formats.streams`."""
    return _first_or_plain("boxes", read_detection, read_plain_boxes, root, split, hold_out, faults)


@iterated_by(iterate_boxes)
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


def iterate_phrases(
    root: str | Path, split: str, faults: Faults, *, name: str | None = None, hold_out: float | None = None
) -> Any:
    """What `read_phrases` gives, its samples one by one, see `fiber_data.formats.streams`."""
    return _first_or_plain("phrases", read_grounding, read_plain_phrases, root, split, hold_out, faults, name=name)


@iterated_by(iterate_phrases)
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
    return _first_or_plain("phrases", read_grounding, read_plain_phrases, root, split, hold_out, name=name)


def iterate_expressions(
    root: str | Path, split: str, faults: Faults, *, name: str | None = None, hold_out: float | None = None
) -> Any:
    """What `read_expressions` gives, its samples one by one, see `fiber_data.formats.streams`."""
    return _first_or_plain(
        "expressions", read_grounding, read_plain_expressions, root, split, hold_out, faults, name=name
    )


@iterated_by(iterate_expressions)
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
    return _first_or_plain("expressions", read_grounding, read_plain_expressions, root, split, hold_out, name=name)


def _first_or_plain(
    form: str,
    first: Callable[..., Any],
    plain: Callable[..., Any],
    root: str | Path,
    split: str,
    share: float | None,
    faults: Faults | None = None,
    *,
    check_images: bool | None = None,
    **options: Any,
) -> Any:
    """What the first reader gives whose format a folder holds: the published one, the plain form, or another.

    With `faults` its samples come one by one. `check_images`, unless None, is for all of them, `options` for the
    published one.
    """
    common = {} if check_images is None else {"check_images": check_images}

    def give(read: Callable[..., Any], **own: Any) -> Any:
        """What one reader gives."""
        own |= common
        return read(root, split, **own) if faults is None else _one_by_one(read, root, split, faults, **own)

    try:
        return give(first, **options)
    except FileOfSplitNotFoundError:
        if not has_plain(Path(root), form, split):
            for name in _OTHERS[form]:
                with contextlib.suppress(FileOfSplitNotFoundError):
                    return give(resolve(name, "fiber.formats"), hold_out=share)
            raise
    return give(plain, hold_out=share)


def _one_by_one(read: Callable[..., Any], root: str | Path, split: str, faults: Faults, **options: Any) -> Any:
    """A reader's generator, begun, so that what it refuses at first is raised here; of one without, its list."""
    if (iterate := getattr(read, "iterate", None)) is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its faults, which are taken over
            found = read(root, split, bad_entries=None if faults.strict else "count", **options)
        faults.add(faults_of(found))
        return found if isinstance(found, DetectionData) else iter(found)
    samples = iterate(root, split, faults, **options)
    return samples if isinstance(samples, DetectionData) else chain(list(islice(samples, 1)), samples)
