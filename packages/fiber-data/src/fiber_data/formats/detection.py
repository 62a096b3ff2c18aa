"""Detection in COCO's form: COCO, LVIS, Objects365, Roboflow's ODinW, and what `fiber_data.scenes` writes.

All are ``{"images": [{id, file_name, height, width}], "annotations": [{image_id, bbox, category_id}], "categories":
[{id, name}]}``; they differ in what they add, in what they leave out and in where the images lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.boxes import Box, read_area, read_box, read_crowd, read_size
from fiber_data.formats.faults import BadEntries, Fault, Faults
from fiber_data.formats.files import (
    ImageFinder,
    SplitFile,
    find_annotation_file,
    find_split_files,
    image_names,
    iterate_on_disk,
    root_of_images,
    split_folders,
)
from fiber_data.formats.ids import Id, read_id, shown, whole
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import entries, list_some, open_json, read_name, require
from fiber_data.formats.streams import Join, iterated_by

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

_FILE_FOLDERS = ("annotations",)
_ROBOFLOW_FILE = "_annotations.coco.json"
_GLIP_FILE = "annotations_without_background.json"  # in GLIP's copies of ODinW
_FREQUENCIES = ("r", "c", "f")
_NEGATIVE, _PARTIAL = "neg_category_ids", "not_exhaustive_category_ids"


class DetectionSample(TypedDict):
    """An image with the boxes of its objects; the lists of boxes run in parallel."""

    image: ImageSource
    """A path from our readers; anything that `fiber_data.load_image` takes from yours."""
    id: Id
    size: tuple[int, int]
    """Height and width in pixels."""
    boxes: list[Box]
    """Corners (x1, y1, x2, y2) in half-open pixels."""
    labels: list[int]
    """Category ids."""
    area: list[float]
    """Of the object, in square pixels; that of the box where the file says none."""
    iscrowd: list[bool]
    neg_category_ids: NotRequired[list[int]]
    """LVIS: categories that are known to be absent."""
    not_exhaustive_category_ids: NotRequired[list[int]]
    """LVIS: categories of which not every object is marked."""
    split: NotRequired[str | None]


@dataclass(frozen=True)
class DetectionData:
    """A split with its categories.

    Attributes:
        samples: A sequence with a sample for each image, in the order of the file; images without boxes are among them.
        categories: Names by category id, sorted by id, as the file has them.
        frequencies: LVIS's ``"r"``, ``"c"`` or ``"f"`` by category id; empty for other data.
        path: The annotation file.
        faults: What was left out or mended of it, see `fiber_data.formats.Fault`.
    """

    samples: Sequence[DetectionSample]
    categories: dict[int, str]
    frequencies: dict[int, str] = field(default_factory=dict)
    path: Path | None = None
    faults: tuple[Fault, ...] = ()


_Entry = tuple[Box, int, float, bool]  # box, label, area, whether it is of a crowd


def iterate_detection(
    root: str | Path,
    split: str,
    faults: Faults,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> DetectionData:
    """What `read_detection` gives, its samples an iterator, see `fiber_data.formats.streams`."""
    folder = Path(root)
    path = faults.source = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    listing = FolderListing()
    finder = ImageFinder([Path(image_folder)] if image_folder is not None else _folders(folder, path, split), listing)
    content = open_json(path)
    categories, frequencies = _read_categories(content, faults)
    samples = _read_samples(content, categories, bool(frequencies), finder, faults)
    if check_images:
        samples = iterate_on_disk(samples, "images with boxes", faults, listing)
    return DetectionData(samples, categories, frequencies, path)  # type: ignore[arg-type]


@iterated_by(iterate_detection)
def read_detection(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> DetectionData:
    """Reads the boxes of one split.

    Sought in the folder itself or in ``annotations``: ``instances_<split>.json`` (COCO, with or without a year),
    ``lvis_v1_<split>.json`` and ``lvis_v0.5_<split>.json``, ``*obj*365_<split>.json`` and
    ``zhiyuan_objv2_<split>.json`` (Objects365), and ``<split>/_annotations.coco.json`` (Roboflow, ODinW); without that,
    ``<split>/annotations_without_background.json`` or ``<split>_annotations_without_background.json`` (GLIP's ODinW).
    Images are sought below the folder as the file names them, by ``coco_url`` where LVIS names none, and in the
    patch folders of Objects365. Roboflow's category 0 is left out where others name it as their supercategory: it then
    stands for the data set.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...
        check_images: Whether to leave out, with a warning, images that are not on disk.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder with the images, if it is another.

    Returns:
        The samples, the categories, and what was wrong with the file. Boxes that are no boxes (absent, not finite, of
        negative size, empty) are left out, boxes that reach out of their image are cut; one warning says how many.
        ``area`` and ``iscrowd`` are optional, ids of annotations are not read.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is not JSON in UTF-8 or holds no image, ids repeat or are neither whole numbers nor text,
            an annotation belongs to no image or category, a box is not four numbers, or several files fit the split.
        SplitNotFoundError: The folder holds no boxes of the split.
    """
    faults = Faults(Path(root), bad_entries is None)
    data = iterate_detection(
        root, split, faults, check_images=check_images, annotation_file=annotation_file, image_folder=image_folder
    )
    samples = list(data.samples)
    faults.warn()
    return replace(data, samples=samples, faults=tuple(faults))


def find_detection(root: Path) -> list[SplitFile]:
    """The files of boxes that a folder holds."""
    return find_split_files(root, ["*.json", "annotations/*.json", f"*/{_ROBOFLOW_FILE}"], _pattern())


def _pattern(split: str | None = None) -> str:
    """What the files of a split are called, or of any."""
    kinds = r"instances|lvis_v[\d.]+|zhiyuan_objv2|objects365(_v\d)?|obj365"
    if split is None:
        return rf"(annotations/)?({kinds})_(?P<split>.+?)(\d{{4}})?\.json|(?P<folder>[^/]+)/{re.escape(_ROBOFLOW_FILE)}"
    own = re.escape(split)
    return rf"(annotations/)?({kinds})_{own}(\d{{4}})?\.json|{own}/{re.escape(_ROBOFLOW_FILE)}"


def _find_file(root: Path, split: str) -> Path:
    for glip in (root / split / _GLIP_FILE, root / f"{split}_{_GLIP_FILE}"):
        if glip.is_file() and not (root / split / _ROBOFLOW_FILE).is_file():
            return glip
    return find_annotation_file(
        root,
        ["*.json", "annotations/*.json", f"{escape(split)}/{_ROBOFLOW_FILE}"],
        _pattern(split),
        expected=f"no boxes of split {split!r}; expected annotations/instances_{split}*.json (COCO), "
        f"lvis_v1_{split}.json, zhiyuan_objv2_{split}.json (Objects365) or {split}/{_ROBOFLOW_FILE}",
        mend="name the one that is meant with annotation_file",
    )


def _folders(root: Path, path: Path, split: str) -> list[Path]:
    """Where the images may lie. The file's own name tells the folder, such as val2017 of instances_val2017."""
    if path.name == _ROBOFLOW_FILE or path.name.endswith(_GLIP_FILE):
        return [path.parent]
    return split_folders(root_of_images(root, path, _FILE_FOLDERS), path.stem.rpartition("_")[2], split)


def _read_categories(content: Any, faults: Faults) -> tuple[dict[int, str], dict[int, str]]:
    categories: dict[int, str] = {}
    frequencies: dict[int, str] = {}
    above: set[str] = set()
    for where, entry in entries(faults.source, content, "categories"):
        with faults:
            number, name = require(entry, "id", where), require(entry, "name", where)
            if (own := whole(number)) is None or not isinstance(name, str):
                given = f"{shown(number)}, {shown(name)}"
                raise ValueError(f"{where}: expected id as a whole number and name as text, found {given}")
            read_id(own, "category id", where, categories)
            if (frequency := entry.get("frequency")) is not None:
                if frequency not in _FREQUENCIES:
                    raise ValueError(f"{where}: expected frequency as 'r', 'c' or 'f', found {shown(frequency)}")
                frequencies[own] = frequency
            categories[own] = name
            above.add(shown(entry.get("supercategory")))
    if faults.source.name == _ROBOFLOW_FILE and 0 in categories and shown(categories[0]) in above:
        del categories[0]
    with faults:
        if frequencies and (bare := [number for number in categories if number not in frequencies]):
            raise ValueError(
                f"{faults.source}: some categories have a frequency, as LVIS's do, these have none: {list_some(bare)}; "
                "give all one, or none"
            )
    return dict(sorted(categories.items())), dict(sorted(frequencies.items()))


def _read_samples(
    content: Any, categories: dict[int, str], is_lvis: bool, finder: ImageFinder, faults: Faults
) -> Iterator[DetectionSample]:
    samples, has_lists = _read_images(content, categories, finder, faults)
    _read_boxes(samples, categories, content, faults)
    if not len(samples) and not faults.refused:
        raise ValueError(f"{faults.source}: it holds no images; is it the right file?")
    for sample, added in samples:
        boxes, labels, areas, crowds = (list(column) for column in zip(*added, strict=True)) if added else ([],) * 4
        whole = {**sample, "boxes": boxes, "labels": labels, "area": areas, "iscrowd": crowds}
        lists: dict[str, Any] = {_NEGATIVE: [], _PARTIAL: []} if is_lvis or has_lists else {}
        yield {**lists, **whole}  # type: ignore[typeddict-item]


def _read_images(
    content: Any, categories: dict[int, str], finder: ImageFinder, faults: Faults
) -> tuple[Join[Id, DetectionSample, _Entry], bool]:
    """The images, and whether one of them has LVIS's lists of categories."""
    samples: Join[Id, DetectionSample, _Entry] = Join(faults.source)
    has_lists = False
    for where, entry in entries(faults.source, content, "images"):
        with faults:
            number = read_id(require(entry, "id", where), "image id", where, samples)
            sample: DetectionSample = {
                "image": finder.find(_names(entry, where)),
                "id": number,
                "size": read_size(entry, where),
                "boxes": [],
                "labels": [],
                "area": [],
                "iscrowd": [],
            }
            if entry.get(_NEGATIVE) is not None or entry.get(_PARTIAL) is not None:
                negative, partial = (_category_list(entry, key, where) for key in (_NEGATIVE, _PARTIAL))
                sample["neg_category_ids"] = _known(negative, categories, number, faults)
                sample["not_exhaustive_category_ids"] = _known(partial, categories, number, faults)
                has_lists = True
            samples.add(number, sample)
    return samples, has_lists


def _names(entry: dict[str, Any], where: str) -> list[str]:
    url = str(entry.get("coco_url") or "")
    if entry.get("file_name"):
        return image_names(read_name(entry["file_name"], "file_name", where), url)
    return image_names(
        "", read_name(require(entry, "coco_url", f"{where} (which has no file_name)"), "coco_url", where)
    )


def _category_list(entry: dict[str, Any], key: str, where: str) -> list[int]:
    given = entry.get(key)
    found = [] if given is None else [whole(each) for each in given] if isinstance(given, list) else [None]
    if None in found:
        raise ValueError(f"{where}: expected {key} as a list of whole numbers, found {shown(given)}")
    return found  # type: ignore[return-value]


def _known(listed: Sequence[int], categories: dict[int, str], number: Id, faults: Faults) -> list[int]:
    if unknown := sum(each not in categories for each in listed):
        faults.note(
            "the listed categories", "are left out, not being in the file", f"image {shown(number)}", count=unknown
        )
    return [each for each in listed if each in categories]


def _read_boxes(
    samples: Join[Id, DetectionSample, _Entry], categories: dict[int, str], content: Any, faults: Faults
) -> None:
    for where, entry in entries(faults.source, content, "annotations"):
        with faults:
            number = read_id(require(entry, "image_id", where), "image_id", where)
            label = read_id(require(entry, "category_id", where), "category_id", where)
            if number not in samples:
                raise ValueError(f"{where}: image_id {shown(number)} is not among the file's {len(samples)} images")
            if not isinstance(label, int) or label not in categories:
                raise ValueError(f"{where}: category_id {shown(label)} is not among {list_some(categories)}")
            crowd, size = read_crowd(entry, where), samples[number]["size"]
            if (box := read_box(entry, size, where, faults)) is not None:
                samples.attach(number, (box, label, read_area(entry, box, where, faults), crowd))
