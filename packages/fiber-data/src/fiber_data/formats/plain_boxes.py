"""Boxes in the plain form: ``boxes.jsonl`` by name, ``phrases.jsonl`` by words of a caption, ``expressions.jsonl``.

See `fiber_data.formats.plain_form` for what all files of the form share.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Unpack, cast

from fiber_data.formats.detection import DetectionData, DetectionSample
from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import SplitFile
from fiber_data.formats.grounding import GroundingSample
from fiber_data.formats.ids import Id, read_id
from fiber_data.formats.plain_form import PlainFile, PlainOptions, RecordIds, find_plain, iterate_plain, split_of
from fiber_data.formats.plain_records import IMAGE_KEYS, first_of, image_of, read_boxes_of, read_spans
from fiber_data.formats.records import stream_records
from fiber_data.formats.samples import clean_text, whole_characters
from fiber_data.formats.splits import collected
from fiber_data.formats.streams import iterated_by

_CATEGORY_KEYS = ("name", "category", "label")


def _boxes(file: PlainFile, faults: Faults, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    """A sample for each image, after all lines were read."""
    samples: dict[Any, dict[str, Any]] = {}
    ids: set[Id] = set()
    for where, record in file.records(faults):
        with faults:
            name = image_of(record, IMAGE_KEYS, where)
            if (image := file.image(name, where)) not in samples:
                own = read_id(name if record.get("id") is None else record["id"], "id", where, ids)
                samples[image] = {
                    **{"image": image, "id": own, "size": file.size(record, image, where)},
                    **{"boxes": [], "labels": [], "area": [], "iscrowd": [], "split": split_of(record, where)},
                }
                ids.add(own)
            sample = samples[image]
            for entry, box, place in _boxes_of(record, sample, where, faults):
                sample["labels"].append(numbers[_category(entry, place)])
                _add_box(sample, box)
    yield from samples.values()


def _boxes_of(record: dict[str, Any], sample: dict[str, Any], where: str, faults: Faults) -> list[Any]:
    """The boxes of a record, none where the size of the image is unknown, for it is not on disk."""
    return read_boxes_of(record, sample["size"], where, faults) if any(sample["size"]) else []


def _add_box(sample: dict[str, Any], box: Any) -> None:
    sample["boxes"].append(box)
    sample["area"].append((box[2] - box[0]) * (box[3] - box[1]))
    sample["iscrowd"].append(False)


def _category(entry: Any, where: str) -> str:
    return clean_text(first_of(entry, _CATEGORY_KEYS, where), "the name of what is in the box", where)


def _count_categories(path: Path) -> dict[int, str]:
    """The names of all splits, numbered from 1 in alphabetical order."""
    faults, names = Faults(path, strict=False), set()
    for where, record in stream_records(faults):
        with faults:
            for entry, _, place in read_boxes_of(record, (2**30, 2**30), where, Faults(path, strict=False)):
                names.add(_category(entry, place))
    return dict(enumerate(sorted(names), start=1))


def _captions(file: PlainFile, faults: Faults, is_expression: bool) -> Iterator[dict[str, Any]]:
    """A sample for each caption, after all lines were read; of an expression all words name its boxes."""
    samples: dict[tuple[Any, str], dict[str, Any]] = {}
    ids = RecordIds()
    keys = ("expression", "caption", "sentence") if is_expression else ("caption",)
    for where, record in file.records(faults):
        with faults:
            name, caption = image_of(record, IMAGE_KEYS, where), first_of(record, keys, where)
            clean_text(caption, keys[0], where)
            image = file.image(name, where)
            if (key := (image, caption)) not in samples:
                original = read_id(record.get("image_id", name), "image_id", where)
                number = ids.of(record, ("id",), str(name), where)
                samples[key] = _new_caption(image, number, original, caption)
                samples[key] |= {"size": file.size(record, image, where), "split": split_of(record, where)}
            _add_spans(samples[key], record, where, faults, is_expression)
    for sample in samples.values():
        sample["phrases"] = [list(spans) for spans in dict.fromkeys(map(tuple, sample["spans"]))]
        yield sample


def _new_caption(image: Any, number: Id, original: Id, caption: str) -> dict[str, Any]:
    return {
        **{"image": image, "id": number, "original_id": original, "size": (0, 0)},
        **{"caption": whole_characters(caption), "boxes": [], "spans": [], "area": [], "iscrowd": []},
        **{"phrases": [], "dataset_name": ""},
    }


def _add_spans(sample: dict[str, Any], record: dict[str, Any], where: str, faults: Faults, whole: bool) -> None:
    caption = sample["caption"]
    for entry, box, place in _boxes_of(record, sample, where, faults):
        spans = [(0, len(caption))] if whole else read_spans(entry, caption, place, faults)
        sample["spans"].append(spans)
        _add_box(sample, box)


def iterate_plain_boxes(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[PlainOptions]
) -> Iterator[DetectionSample]:
    """The samples of `read_plain_boxes`, one by one; their labels are those of `plain_categories`."""
    names = plain_categories(root, split, annotation_file=options.get("annotation_file"))
    make = partial(_boxes, numbers={name: number for number, name in names.items()})
    yield from cast(Iterator[DetectionSample], iterate_plain("boxes", make, root, split, faults, options))


def plain_categories(
    root: str | Path, split: str | None, *, annotation_file: str | Path | None = None
) -> dict[int, str]:
    """The names in the file of boxes, in all of its splits, numbered from 1 in alphabetical order.

    Args:
        root: As of `read_plain_boxes`, like the others.
        split: As there.
        annotation_file: As there.
    """
    return _count_categories(PlainFile(root, split, "boxes", annotation_file).path)


def read_plain_boxes(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[PlainOptions]
) -> DetectionData:
    """Reads ``boxes.jsonl`` or ``boxes.csv`` beside ``images/``: boxes by name.

    Args:
        root: Folder of the data set.
        split: Keep the lines of this split only; None keeps all.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `PlainOptions`.

    Returns:
        A sample for each image. An image with an empty list of ``boxes`` is one without any. Lines may have ``height``
        and ``width`` in pixels; without them they are those of the image, as it is stored.

    Raises:
        FileNotFoundError: There is no such folder, or no image is on disk.
        KeyError: A line lacks a key; the message names file and line.
        ValueError: A line is out of format, not in UTF-8, or has a box that may be corners or may be not; or ids
            repeat, or several files would fit.
        SplitNotFoundError: The folder holds no such file, or not this split.
    """
    samples = collected(iterate_plain_boxes, root, split, bad_entries, **options)
    file = PlainFile(root, split, "boxes", options.get("annotation_file"))
    return DetectionData(samples, _count_categories(file.path), path=file.path, faults=samples.faults)


def find_plain_boxes(root: Path) -> list[SplitFile]:
    """The files of boxes by name in the plain form that a folder holds."""
    return find_plain(root, "boxes")


def iterate_plain_phrases(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[PlainOptions]
) -> Iterator[GroundingSample]:
    """The samples of `read_plain_phrases`, one by one."""
    make = partial(_captions, is_expression=False)
    yield from cast(Iterator[GroundingSample], iterate_plain("phrases", make, root, split, faults, options))


@iterated_by(iterate_plain_phrases)
def read_plain_phrases(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[PlainOptions]
) -> Samples[GroundingSample]:
    """Reads ``phrases.jsonl`` or ``phrases.csv``: boxes by words of a caption; else as `read_plain_boxes`.

    A box has the ``span`` of its words, [start, end) in characters of the caption, several ``spans``, or its
    ``phrase``, which stands in the caption.
    """
    return collected(iterate_plain_phrases, root, split, bad_entries, **options)


def find_plain_phrases(root: Path) -> list[SplitFile]:
    """The files of phrases in the plain form that a folder holds."""
    return find_plain(root, "phrases")


def iterate_plain_expressions(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[PlainOptions]
) -> Iterator[GroundingSample]:
    """The samples of `read_plain_expressions`, one by one."""
    make = partial(_captions, is_expression=True)
    yield from cast(Iterator[GroundingSample], iterate_plain("expressions", make, root, split, faults, options))


@iterated_by(iterate_plain_expressions)
def read_plain_expressions(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[PlainOptions]
) -> Samples[GroundingSample]:
    """Reads ``expressions.jsonl`` or ``expressions.csv``: the box of an expression; else as `read_plain_boxes`.

    All words of the expression name its box.
    """
    return collected(iterate_plain_expressions, root, split, bad_entries, **options)


def find_plain_expressions(root: Path) -> list[SplitFile]:
    """The files of expressions in the plain form that a folder holds."""
    return find_plain(root, "expressions")
