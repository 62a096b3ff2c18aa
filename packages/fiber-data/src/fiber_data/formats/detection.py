"""Detection in COCO's form: COCO, LVIS, Objects365, Roboflow's ODinW, and what `fiber_data.scenes` writes.

All are ``{"images": [{id, file_name, height, width}], "annotations": [{image_id, bbox, category_id}], "categories":
[{id, name}]}``; they differ in what they add, in what they leave out and in where the pictures lie.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from fiber_data.formats.boxes import Box, BoxReader
from fiber_data.formats.pictures import PictureFinder
from fiber_data.formats.samples import SplitNotFoundError, read_json, require
from fiber_data.formats.tasks import keep_on_disk, list_some

_ROBOFLOW_FILE = "_annotations.coco.json"


class DetectionSample(TypedDict):
    """A picture with the boxes of its objects; the lists of boxes run in parallel."""

    image: Path
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
        samples: A sample for each picture, in the order of the file; pictures without boxes are among them.
        categories: Names by category id, sorted by id, as the file has them.
        frequencies: LVIS's ``"r"``, ``"c"`` or ``"f"`` by category id; empty for other data.
        path: The annotation file.
    """

    samples: list[DetectionSample]
    categories: dict[int, str]
    frequencies: dict[int, str] = field(default_factory=dict)
    path: Path | None = None


def read_detection(
    root_or_file: str | Path,
    image_folder: str | Path | None = None,
    split: str | None = None,
    *,
    check_images: bool = True,
) -> DetectionData:
    """Reads the boxes of one split.

    In a folder these files are looked for, itself or in ``annotations``: ``instances_<split>.json`` (COCO, with or
    without a year), ``lvis_v1_<split>.json`` and ``lvis_v0.5_<split>.json``, ``*obj*365_<split>.json`` and
    ``zhiyuan_objv2_<split>.json`` (Objects365), and ``<split>/_annotations.coco.json`` (Roboflow, ODinW).
    Pictures are sought below the folder as the file names them, by ``coco_url`` where LVIS names none, and in the
    patch folders of Objects365. Roboflow's category 0, which stands for the data set, is left out.

    Args:
        root_or_file: The folder, or the annotation file.
        image_folder: The folder with the pictures; None looks beside the file.
        split: For a folder: ``"train"``, ``"val"``, ...
        check_images: Whether to leave out, with a warning, pictures that are not on disk.

    Returns:
        The samples and the categories. Boxes that are no boxes (not finite, of negative size, empty) are left out,
        boxes that reach out of their picture are cut; one warning says how many.

    Raises:
        FileNotFoundError: The file is missing, or none of its pictures is on disk.
        KeyError: A key of the format is missing; the message names file and place.
        ValueError: The file is not JSON, ids repeat, an annotation belongs to no image or category, a box is not
            four numbers, or several files fit the split.
        SplitNotFoundError: The folder holds no boxes of the split.
    """
    path = Path(root_or_file)
    if path.is_dir():
        path = _find_file(path, split)
    content = read_json(path)
    categories, frequencies = _read_categories(path, content)
    samples = _read_images(path, content, image_folder, split)
    _add_boxes(samples, categories, path, content)
    found = list(samples.values())
    if check_images:
        found = keep_on_disk(found, lambda sample: [sample["image"]], "pictures with boxes", path)
    return DetectionData(found, categories, frequencies, path)


def _find_file(folder: Path, split: str | None) -> Path:
    if split is None:
        raise ValueError(f"{folder}: a folder holds several splits; say which with split, such as split='val'")
    kinds = r"instances|lvis_v[\d.]+|zhiyuan_objv2|objects365(_v\d)?|obj365"
    name = re.compile(rf"({kinds})_{re.escape(split)}(\d{{4}})?\.json")
    there = [file for place in (folder, folder / "annotations") for file in sorted(place.glob("*.json"))]
    files = [file for file in there if name.fullmatch(file.name)]
    files += [file for file in [folder / split / _ROBOFLOW_FILE] if file.is_file()]
    if not files:
        others = ", ".join(file.name for file in there) or "no .json file at all"
        raise SplitNotFoundError(
            f"{folder}: no boxes of split {split!r}; expected annotations/instances_{split}*.json (COCO), "
            f"lvis_v1_{split}.json, zhiyuan_objv2_{split}.json (Objects365) or {split}/{_ROBOFLOW_FILE}; there is "
            f"{others}"
        )
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files)
        raise ValueError(f"{folder}: several files would fit ({names}); name the one that is meant instead of a folder")
    return files[0]


def entries(path: Path, content: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The entries of one list of a file, each with its place for messages.

    Raises:
        KeyError: The file has no such list.
        ValueError: What it has is no list.
    """
    found = require(content, key, str(path))
    if not isinstance(found, list):
        raise ValueError(f"{path}: expected {key!r} as a list, found {type(found).__name__}")
    return ((f"{path}: {key}[{position}]", entry) for position, entry in enumerate(found))


def picture_size(entry: Any, where: str) -> tuple[int, int]:
    """The (height, width) of an entry of a picture.

    Raises:
        KeyError: It has none.
        ValueError: They are not positive whole numbers.
    """
    size = require(entry, "height", where), require(entry, "width", where)
    if not all(isinstance(side, int | float) and side == int(side) > 0 for side in size):
        raise ValueError(f"{where}: expected height and width as positive whole numbers, found {size}")
    return int(size[0]), int(size[1])


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


def _read_images(
    path: Path, content: Any, image_folder: str | Path | None, split: str | None
) -> dict[int | str, DetectionSample]:
    finder = PictureFinder(_folders(path, image_folder, split))
    samples: dict[int | str, DetectionSample] = {}
    for where, entry in entries(path, content, "images"):
        number = require(entry, "id", where)
        if number in samples:
            raise ValueError(f"{where}: image id {number!r} occurs more than once; keep one of each")
        sample: DetectionSample = {
            "image": finder.find(_names(entry, where)),
            "id": number,
            "size": picture_size(entry, where),
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


def _folders(path: Path, image_folder: str | Path | None, split: str | None) -> list[Path]:
    """Where the pictures may lie. The file's own name tells the folder, such as val2017 of instances_val2017."""
    if image_folder is not None:
        return [Path(image_folder)]
    if path.name == _ROBOFLOW_FILE:
        return [path.parent]
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    own = path.stem.rpartition("_")[2]
    names = dict.fromkeys(name for name in (own, split) if name)
    return [*(base / name for name in names for base in (root / "images", root)), root / "images", root]


def _names(entry: Any, where: str) -> list[str]:
    """What the picture may be called below its folder: as it says, in its patch or split folder, or plainly."""
    written = entry.get("file_name") if isinstance(entry, dict) else None
    url = "" if written else require(entry, "coco_url", f"{where} (which has no file_name)")
    parts = str(written or url).split("/")
    names = [str(written)] if written else []
    names += ["/".join(parts[-2:]), parts[-1]]
    if written and "coco_url" in entry:  # LVIS v0.5 keeps names of 2014 for files of 2017
        names += ["/".join(str(entry["coco_url"]).split("/")[-2:])]
    if parts[-1].startswith("COCO_"):
        names += [parts[-1].rpartition("_")[2]]
    return list(dict.fromkeys(names))


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
