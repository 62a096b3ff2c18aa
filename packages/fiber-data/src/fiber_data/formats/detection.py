"""Detection in COCO's form: COCO, LVIS, Objects365, Roboflow's ODinW, and what `fiber_data.scenes` writes.

All are ``{"images": [{id, file_name, height, width}], "annotations": [{image_id, bbox, category_id}], "categories":
[{id, name}]}``; they differ in what they add, in what they leave out and in where the images lie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.boxes import Box, BoxReader, image_size
from fiber_data.formats.files import (
    FolderListing,
    ImageFinder,
    find_annotation_file,
    image_names,
    keep_on_disk,
    root_of_images,
    split_folders,
)
from fiber_data.formats.samples import entries, list_some, read_json, require

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

_FILE_FOLDERS = ("annotations",)
_ROBOFLOW_FILE = "_annotations.coco.json"


class DetectionSample(TypedDict):
    """An image with the boxes of its objects; the lists of boxes run in parallel."""

    image: ImageSource
    """A path from our readers; anything that `fiber_data.load_image` takes from yours."""
    id: int | str
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


@dataclass(frozen=True)
class DetectionData:
    """A split with its categories.

    Attributes:
        samples: A sequence with a sample for each image, in the order of the file; images without boxes are among them.
        categories: Names by category id, sorted by id, as the file has them.
        frequencies: LVIS's ``"r"``, ``"c"`` or ``"f"`` by category id; empty for other data.
        path: The annotation file.
    """

    samples: Sequence[DetectionSample]
    categories: dict[int, str]
    frequencies: dict[int, str] = field(default_factory=dict)
    path: Path | None = None


def read_detection(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> DetectionData:
    """Reads the boxes of one split.

    Looked for, in the folder itself or in ``annotations``: ``instances_<split>.json`` (COCO, with or without a year),
    ``lvis_v1_<split>.json`` and ``lvis_v0.5_<split>.json``, ``*obj*365_<split>.json`` and
    ``zhiyuan_objv2_<split>.json`` (Objects365), and ``<split>/_annotations.coco.json`` (Roboflow, ODinW).
    Images are sought below the folder as the file names them, by ``coco_url`` where LVIS names none, and in the
    patch folders of Objects365. Roboflow's category 0, which stands for the data set, is left out.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...
        check_images: Whether to leave out, with a warning, images that are not on disk.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder with the images, if it is another.

    Returns:
        The samples and the categories. Boxes that are no boxes (not finite, of negative size, empty) are left out,
        boxes that reach out of their image are cut; one warning says how many.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is not JSON, ids repeat, an annotation belongs to no image or category, a box is not
            four numbers, or several files fit the split.
        SplitNotFoundError: The folder holds no boxes of the split.
    """
    folder = Path(root)
    path = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    listing = FolderListing()
    finder = ImageFinder([Path(image_folder)] if image_folder is not None else _folders(folder, path, split), listing)
    content = read_json(path)
    categories, frequencies = _read_categories(path, content)
    samples = _read_images(path, content, finder)
    _add_boxes(samples, categories, path, content)
    found = list(samples.values())
    if check_images:
        found = keep_on_disk(found, "images with boxes", path, listing)
    return DetectionData(found, categories, frequencies, path)


def _find_file(root: Path, split: str) -> Path:
    kinds = r"instances|lvis_v[\d.]+|zhiyuan_objv2|objects365(_v\d)?|obj365"
    own = re.escape(split)
    return find_annotation_file(
        root,
        ["*.json", "annotations/*.json", f"{escape(split)}/{_ROBOFLOW_FILE}"],
        rf"(annotations/)?({kinds})_{own}(\d{{4}})?\.json|{own}/{re.escape(_ROBOFLOW_FILE)}",
        expected=f"no boxes of split {split!r}; expected annotations/instances_{split}*.json (COCO), "
        f"lvis_v1_{split}.json, zhiyuan_objv2_{split}.json (Objects365) or {split}/{_ROBOFLOW_FILE}",
        mend="name the one that is meant with annotation_file",
    )


def _folders(root: Path, path: Path, split: str) -> list[Path]:
    """Where the images may lie. The file's own name tells the folder, such as val2017 of instances_val2017."""
    if path.name == _ROBOFLOW_FILE:
        return [path.parent]
    return split_folders(root_of_images(root, path, _FILE_FOLDERS), path.stem.rpartition("_")[2], split)


def _read_categories(path: Path, content: Any) -> tuple[dict[int, str], dict[int, str]]:
    categories: dict[int, str] = {}
    frequencies: dict[int, str] = {}
    for where, entry in entries(path, content, "categories"):
        number, name = require(entry, "id", where), require(entry, "name", where)
        if not isinstance(number, int) or not isinstance(name, str):
            raise ValueError(f"{where}: expected id as a whole number and name as text, found {number!r}, {name!r}")
        if number in categories:
            raise ValueError(f"{where}: category id {number} occurs more than once; keep one of each")
        if path.name == _ROBOFLOW_FILE and number == 0 and entry.get("supercategory") == "none":
            continue
        categories[number] = name
        if "frequency" in entry:
            frequencies[number] = entry["frequency"]
    return dict(sorted(categories.items())), dict(sorted(frequencies.items()))


def _read_images(path: Path, content: Any, finder: ImageFinder) -> dict[int | str, DetectionSample]:
    samples: dict[int | str, DetectionSample] = {}
    for where, entry in entries(path, content, "images"):
        number = require(entry, "id", where)
        if number in samples:
            raise ValueError(f"{where}: image id {number!r} occurs more than once; keep one of each")
        sample: DetectionSample = {
            "image": finder.find(_names(entry, where)),
            "id": number,
            "size": image_size(entry, where),
            "boxes": [],
            "labels": [],
            "area": [],
            "iscrowd": [],
        }
        if "neg_category_ids" in entry:
            sample["neg_category_ids"] = entry["neg_category_ids"]
            sample["not_exhaustive_category_ids"] = entry.get("not_exhaustive_category_ids", [])
        samples[number] = sample
    return samples


def _names(entry: dict[str, Any], where: str) -> list[str]:
    if written := entry.get("file_name"):
        return image_names(str(written), str(entry.get("coco_url", "")))
    return image_names("", str(require(entry, "coco_url", f"{where} (which has no file_name)")))


def _add_boxes(samples: dict[int | str, DetectionSample], categories: dict[int, str], path: Path, content: Any) -> None:
    reader = BoxReader(path)
    for where, entry in entries(path, content, "annotations"):
        number, label = require(entry, "image_id", where), require(entry, "category_id", where)
        if number not in samples:
            raise ValueError(f"{where}: image_id {number!r} is not among the file's {len(samples)} images")
        if label not in categories:
            raise ValueError(f"{where}: category_id {label!r} is not among {list_some(categories)}")
        sample = samples[number]
        if (box := reader.corners(require(entry, "bbox", where), sample["size"], where)) is None:
            continue
        sample["boxes"].append(box)
        sample["labels"].append(label)
        sample["area"].append(float(entry.get("area", (box[2] - box[0]) * (box[3] - box[1]))))
        sample["iscrowd"].append(bool(entry.get("iscrowd", 0)))
    reader.report()
