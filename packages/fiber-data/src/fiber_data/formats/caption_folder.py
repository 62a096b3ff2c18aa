"""The plain form of captions: a folder with ``images/`` and ``captions.jsonl``, a JSON object in each line.

Each line names its image (``image``, or ``file_name`` as Hugging Face's image folders call it) relative to ``images/``
or to the folder itself. It has ``caption`` (or ``text``) with one caption, or ``captions`` with several. ``id`` and
``split`` are optional. Lines of the same image are joined.

A table, ``captions.csv`` or ``.tsv``, has the same names as columns. Hugging Face's ``metadata.jsonl`` or ``.csv`` is
such a file too, in the folder or in a folder of the split. Where lines name splits, one without belongs to ``train``.
Where none does, a share of the images is held out as ``val``, by a rule that depends on their ids alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import ImageFinder, SplitFile, check_folder, iterate_on_disk, portable_names, whole_folder
from fiber_data.formats.held_out import USUAL_SHARE, held_out_ids, note_held_out
from fiber_data.formats.ids import Id, read_id
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.records import find_records, stream_records
from fiber_data.formats.samples import (
    CaptionSample,
    SplitNotFoundError,
    keep_captions,
    list_some,
    read_name,
)
from fiber_data.formats.sources import glob
from fiber_data.formats.streams import Join, Spool, collect, iterated_by, records

CAPTIONS_FILE = "captions.jsonl"
_CAPTIONS, _METADATA = "captions", "metadata"  # the files without their ending
_OTHER_KEYS = ("objects", "question")  # of metadata that holds no captions
_IMAGE_KEYS = ("image", "file_name")
_CAPTION_KEYS = ("captions", "caption", "text")
_TRAIN, _VAL = "train", "val"


def iterate_caption_folder(
    root: str | Path,
    split: str | None,
    faults: Faults,
    *,
    check_images: bool = True,
    hold_out: float | None = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Iterator[CaptionSample]:
    """The samples of `read_caption_folder` one by one, see `fiber_data.formats.streams`."""
    folder = Path(root)
    path = faults.source = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    is_metadata = path.name.startswith(f"{_METADATA}.")
    of_folder = path.parent.name if is_metadata and path.parent.parent == folder else None
    listing = FolderListing()
    roots = [folder] if of_folder is None else [path.parent, folder]
    folders = [each for base in roots for each in (whole_folder(base, None), base)]
    finder = ImageFinder(folders if image_folder is None else [Path(image_folder)], listing)
    lines, has_splits = _read_lines(faults)
    named: Iterable[_Line] = lines
    if has_splits or of_folder is not None:
        named = (replace(line, split=line.split or of_folder or _TRAIN) for line in lines)
    elif split is not None:
        named = _hold_out(lines, USUAL_SHARE if hold_out is None else hold_out, faults)
    samples = _join(named, split, finder, faults)
    yield from iterate_on_disk(samples, "samples", faults, listing) if check_images else samples


@iterated_by(iterate_caption_folder)
def read_caption_folder(
    root: str | Path,
    split: str | None = None,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    hold_out: float | None = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Samples[CaptionSample]:
    """Reads a folder with images and ``captions.jsonl`` or ``metadata.jsonl``.

    Args:
        root: Folder of the data set.
        split: Keep the lines of this split only; None keeps all.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        hold_out: About which share of the images is ``"val"`` where no line has a split, a tenth by
            default; 0 for none.
        annotation_file: A file of such lines that lies elsewhere or has another name.
        image_folder: The folder that the names of images are relative to, if it is another.

    Returns:
        A sample for each image, in the order of the file, and what was wrong with it (``faults``); ``id`` is the
        image's name unless a line has an id.

    Raises:
        FileNotFoundError: There is no such folder or no such file, or none of its images is on disk.
        KeyError: A line lacks its image or caption; the message names file and line.
        ValueError: The file is not in UTF-8, a line is not a JSON object, a name or caption in it is no text, or two
            images have one id.
        SplitNotFoundError: No line belongs to the split.
    """
    faults = Faults(Path(root), bad_entries is None)
    samples = iterate_caption_folder(
        root,
        split,
        faults,
        check_images=check_images,
        hold_out=hold_out,
        annotation_file=annotation_file,
        image_folder=image_folder,
    )
    return collect(samples, faults)


def find_caption_folder(root: Path) -> list[SplitFile]:
    """The files of such lines that a folder holds, each with all splits."""
    folders = sorted(path.parent for path in glob(root, f"*/{_METADATA}.*"))
    files = [find_records(root, _CAPTIONS), *map(_find_metadata, dict.fromkeys((root, *folders)))]
    return [SplitFile(path, None, {"annotation_file": path}) for path in files if path is not None]


def caption_file(root: Path, split: str | None) -> Path | None:
    """The file of a folder, if it has one, that holds lines of all splits, or of this one."""
    found = find_records(root, _CAPTIONS) or _find_metadata(root)
    return found if found is not None or split is None else _find_metadata(root / split)


def _find_metadata(folder: Path) -> Path | None:
    """Hugging Face's file, unless it is about questions or boxes."""
    path = find_records(folder, _METADATA)
    first = {} if path is None else next((record for _, record in stream_records(Faults(path, strict=False))), {})
    return None if any(key in first for key in _OTHER_KEYS) and first.keys().isdisjoint(_CAPTION_KEYS) else path


def _find_file(root: Path, split: str | None) -> Path:
    check_folder(root)
    if (path := caption_file(root, split)) is None:
        wanted = f"{root / CAPTIONS_FILE}: no such file"
        raise FileNotFoundError(f"{wanted}; a caption folder holds images/ and {CAPTIONS_FILE}")
    return path


@dataclass(frozen=True)
class _Line:
    where: str
    name: str
    id: Id
    split: str | None
    captions: list[str]


def _read_lines(faults: Faults) -> tuple[list[_Line] | Spool[_Line], bool]:
    """The lines, and whether one of them has a split."""
    lines, has_splits = records(faults.source), False
    for where, record in stream_records(faults):
        with faults:
            name = _first_of(record, _IMAGE_KEYS, where)
            if not isinstance(name, str):
                raise ValueError(f"{where}: expected the image's name as text, found {type(name).__name__}")
            given = _first_of(record, _CAPTION_KEYS, where)
            captions = [(where, text) for text in (given if isinstance(given, list) else [given])]
            own, split = record.get("id"), record.get("split") or None
            number = read_name(name, "the image's name", where) if own is None else read_id(own, "id", where)
            split = split if split is None else read_name(split, "split", where)
            lines.append(_Line(where, name, number, split, keep_captions(captions, faults)))
            has_splits = has_splits or split is not None
    return lines, has_splits


def _hold_out(lines: Iterable[_Line], share: float, faults: Faults) -> Iterator[_Line]:
    """The lines, which name no split, as ``train`` and ``val``."""
    first: dict[str, Id] = {}
    for line in lines:
        first.setdefault(line.name, line.id)
    held = held_out_ids(first.values(), share) if share > 0 else set()
    note_held_out(faults, len(first), "images", len(held), "line")
    return (replace(line, split=_VAL if first[line.name] in held else _TRAIN) for line in lines)


def _join(lines: Iterable[_Line], split: str | None, finder: ImageFinder, faults: Faults) -> Iterator[CaptionSample]:
    """A sample for each image of a split, with the captions of all of its lines and the id of the first."""
    samples: Join[Path, CaptionSample, list[str]] = Join(faults.source)
    seen: set[Id] = set()
    splits: set[str] = set()
    for line in lines:
        splits.add(line.split or _TRAIN)
        if split not in (None, line.split):
            continue
        with faults:
            path = finder.find(portable_names(line.name))
            if path not in samples:
                seen.add(number := read_id(line.id, "id", line.where, seen))
                samples.add(path, {"image": path, "captions": [], "id": number, "split": line.split or _TRAIN})
            samples.attach(path, line.captions)
    if not len(samples) and not faults.refused:
        has = f"[{list_some(sorted(splits))}]" if splits else "no lines"
        raise SplitNotFoundError(f"{faults.source}: no line of split {split!r}; the file has {has}")
    for sample, added in samples:
        yield {**sample, "captions": [text for each in added for text in each]}


def _first_of(record: dict[str, Any], keys: tuple[str, ...], where: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    raise KeyError(f"{where}: expected one of the keys {', '.join(map(repr, keys))}, found {list_some(record)}")
