"""ODVG, the JSON Lines of Open-GroundingDino and mmdetection: ``detection`` by category, ``grounding`` by phrases.

A line has ``filename``, ``height``, ``width``, and ``detection: {instances: [{bbox, label, category}]}`` or
``grounding: {caption, regions: [{bbox, phrase, tokens_positive}]}``; ``bbox`` is [x1, y1, x2, y2] here. Of categories
a ``label_map.json`` beside it, ``{"0": "person"}``, has the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from fiber_data.formats.detection import DetectionData, DetectionSample
from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError, ImageFinder, SplitFile, check_folder, split_folders
from fiber_data.formats.files import image_names as names_of
from fiber_data.formats.ids import Id, read_id, shown, whole
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.plain_records import read_boxes_of, read_size_of, read_spans
from fiber_data.formats.records import stream_records
from fiber_data.formats.samples import clean_text, read_json, read_name, require, whole_characters
from fiber_data.formats.splits import collected, of_split, on_disk

_FOLDERS = ("", "annotations")
_KINDS = ("detection", "grounding")
_PLAIN = ("captions", "questions", "statements", "boxes", "phrases", "expressions", "metadata")


class OdvgOptions(TypedDict, total=False):
    """What `read_odvg` takes beside root and split.

    - ``check_images``: whether to leave out, with a warning, what lacks an image on disk (True);
    - ``hold_out``: about which share of the images is ``"val"`` where no file has a split in its name;
    - ``annotation_file``, ``label_map``, ``image_folder``: what lies elsewhere or has another name.
    """

    check_images: bool
    hold_out: float | None
    annotation_file: str | Path | None
    label_map: str | Path | None
    image_folder: str | Path | None


def iterate_odvg(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[OdvgOptions]
) -> Iterator[dict[str, Any]]:
    """The samples of `read_odvg`, one by one: of the first of the two kinds that a line has."""
    folder, given = Path(root), options.get("annotation_file")
    faults.source = _find_file(folder, split) if given is None else Path(given)
    own, listing, images = _split_of(faults.source, split), FolderListing(), options.get("image_folder")
    folders = split_folders(folder, split, own, f"{split}2017") if images is None else [Path(images)]
    finder, categories = ImageFinder(folders, listing), read_label_map(root, split, **options)

    def make(counted: Faults) -> Iterator[dict[str, Any]]:
        seen: set[Id] = set()
        for where, record in stream_records(counted):
            sample = None
            with counted:
                found = _read_line(record, where, finder, categories, counted)
                seen.add(read_id(found["id"], "filename", where, seen))
                sample = found
            if sample is not None:
                yield sample

    samples = of_split(make, None if own else split, options.get("hold_out"), "lines", faults)
    yield from on_disk(samples, "lines", faults, listing, check_images=options.get("check_images", True))


def read_odvg(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[OdvgOptions]
) -> DetectionData | Samples[Any]:
    """Reads the lines of a split, ``*<split>*.jsonl`` in the folder or in ``annotations``.

    Args:
        root: Folder of the data set.
        split: Such as ``"train"``; a file without a split in its name holds out a share. None is all.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `OdvgOptions`.

    Returns:
        Boxes by category, as of `read_detection`, or captions with phrases, as of `read_grounding`, and what was wrong
        with the file (``faults``).

    Raises:
        FileNotFoundError: There is no such folder or file, or none of the images is on disk.
        KeyError: A line lacks a key; the message names file and line.
        ValueError: A line is out of format, a label is not in the map, or several files would fit.
        SplitNotFoundError: The folder holds no such file.
    """
    samples = collected(iterate_odvg, root, split, bad_entries, **options)
    if not samples or "labels" not in samples[0]:
        return samples
    given = options.get("annotation_file")
    path = _find_file(Path(root), split) if given is None else Path(given)
    names = read_label_map(root, split, **options)
    return DetectionData(cast(Samples[DetectionSample], samples), names, path=path, faults=samples.faults)


def read_label_map(root: str | Path, split: str | None, **options: Unpack[OdvgOptions]) -> dict[int, str]:
    """The names of categories by number: of ``*label_map*.json``, else those that the lines have themselves.

    Args:
        root: As of `read_odvg`, like the others.
        split: As there.
        options: As there.
    """
    given, own = options.get("annotation_file"), options.get("label_map")
    path = _find_file(Path(root), split) if given is None else Path(given)
    maps = sorted({each for base in (path.parent, Path(root)) for each in base.glob("*label_map*.json")})
    if own is None and len(maps) > 1:
        names = ", ".join(each.name for each in maps)
        raise ValueError(f"{root}: several files would fit ({names}); say which with label_map")
    if own is not None or maps:
        file = Path(own) if own is not None else maps[0]
        return _label_map(read_json(file), file)
    names_by_label: dict[int, str] = {}
    quiet = Faults(path, strict=False)
    for where, record in stream_records(quiet):
        with quiet:
            for entry in _listed(record.get("detection") or {"instances": []}, "instances", where):
                label, name = whole(entry.get("label")), entry.get("category")
                if label is not None and isinstance(name, str):
                    names_by_label.setdefault(label, name)
    return dict(sorted(names_by_label.items()))


def find_odvg(root: Path) -> list[SplitFile]:
    """The files of such lines that a folder holds."""
    return [SplitFile(path, _split_of(path, None), {"annotation_file": path}) for path in _files(root)]


def _label_map(content: Any, file: Path) -> dict[int, str]:
    if not isinstance(content, dict) or not all(key.isdigit() and isinstance(content[key], str) for key in content):
        raise ValueError(f"{file}: expected names by numbers, such as {{'0': 'person'}}, found {shown(content)}")
    return dict(sorted((int(key), name) for key, name in content.items()))


def _files(root: Path) -> list[Path]:
    files = [path for folder in _FOLDERS for path in sorted((root / folder).glob("*.jsonl*")) if path.is_file()]
    return [path for path in files if path.name.partition(".")[0] not in _PLAIN and _is_odvg(path)]


def _is_odvg(path: Path) -> bool:
    first = next((record for _, record in islice(stream_records(Faults(path, strict=False)), 1)), {})
    return "filename" in first and any(kind in first for kind in _KINDS)


def _split_of(path: Path, split: str | None) -> str | None:
    return next((name for name in (split, "train", "val", "test") if name and name in path.name), None)


def _find_file(root: Path, split: str | None) -> Path:
    check_folder(root)
    there = _files(root)
    files = [path for path in there if split is None or _split_of(path, split) == split]
    files = files or [path for path in there if _split_of(path, split) is None]
    if len(files) != 1:
        names = ", ".join(path.name for path in files or there)
        if files:
            raise ValueError(f"{root}: several files would fit ({names}); say which with annotation_file")
        raise FileOfSplitNotFoundError(f"{root}: no ODVG lines of split {split!r}; there is {names or 'no such file'}")
    return files[0]


def _read_line(
    record: dict[str, Any], where: str, finder: ImageFinder, categories: dict[int, str], faults: Faults
) -> dict[str, Any]:
    name = read_name(require(record, "filename", where), "filename", where)
    image = finder.find(names_of(name))
    size = read_size_of(record, image, where)
    sample: dict[str, Any] = {"image": image, "id": name, "size": size, "boxes": [], "area": [], "iscrowd": []}
    if record.get("detection") is not None:
        sample["labels"] = []
        for place, entry in enumerate(_listed(record["detection"], "instances", where)):
            own = f"{where}.instances[{place}]"
            label = whole(require(entry, "label", own))
            if label is None or label not in categories:
                raise ValueError(f"{own}: expected a label of the label map, found {shown(entry['label'])}")
            sample["labels"] += [label] * _add_boxes(sample, entry, size, own, faults)
        return sample
    content = require(record, "grounding", where)
    clean_text(given_caption := require(content, "caption", where), "a caption", where)
    caption = whole_characters(given_caption)
    sample |= {"id": f"{name}-{where.rpartition(' ')[2]}", "original_id": name, "caption": caption}
    sample |= {"spans": [], "dataset_name": ""}
    for place, entry in enumerate(_listed(content, "regions", where)):
        own = f"{where}.regions[{place}]"
        given = entry.get("tokens_positive")
        spans = read_spans(entry if given is None else {"spans": given}, caption, own, faults)
        sample["spans"] += [spans] * _add_boxes(sample, entry, size, own, faults)
    sample["phrases"] = [list(spans) for spans in dict.fromkeys(map(tuple, sample["spans"]))]
    return sample


def _add_boxes(sample: dict[str, Any], entry: dict[str, Any], size: tuple[int, int], where: str, faults: Faults) -> int:
    """Adds the one box of an entry, or its several; says how many."""
    given = require(entry, "bbox", where)
    several = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    found = read_boxes_of({"boxes": [{"box": box} for box in several]}, size, where, faults)
    for _, box, _ in found:
        sample["boxes"].append(box)
        sample["area"].append((box[2] - box[0]) * (box[3] - box[1]))
        sample["iscrowd"].append(False)
    return len(found)


def _listed(content: Any, key: str, where: str) -> list[Any]:
    found = require(content, key, where)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{where}: expected {key} as a list of objects, found {shown(found)}")
    return found
