"""Annotation and results files of detection, read into checked columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_ops

from fiber_eval._masks import run_lengths
from fiber_eval.files import holds_boolean, read_json, shown, some

IouType = Literal["bbox", "segm"]
SAME_REGION_TOLERANCE = 0.05  # of areas and scores

Entries = Sequence[Mapping[str, Any]]
Given = Entries | Mapping[str, Any] | Path | str
"""What a file holds, or its path."""


@dataclass(frozen=True)
class Regions:
    """Annotated or detected regions, one a row; all columns are [N]."""

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    """[N, 4], x, y, width, height."""
    areas: NDArray[np.float64]
    scores: NDArray[np.float64]
    """0 where annotated."""
    crowds: NDArray[np.int64]
    """1 for an annotated crowd, else 0."""
    rles: NDArray[np.object_]
    """Compressed run lengths of masks; None where boxes count."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def of_image(self, image_id: int) -> Regions:
        """The same regions under another image id."""
        return replace(self, image_ids=np.full(len(self), image_id, dtype=np.int64))

    def resembles(self, other: Regions) -> bool:
        """Whether these are the other's regions, but for the rounding of low precision and of another batch.

        Rounding also moves regions of nearly equal scores past each other, so each column is compared by itself.
        """
        categories, areas, scores = (
            (np.sort(getattr(self, name)), np.sort(getattr(other, name)))
            for name in ("category_ids", "areas", "scores")
        )
        return (
            np.array_equal(*categories)
            and np.allclose(*areas, rtol=SAME_REGION_TOLERANCE, atol=1)
            and np.allclose(*scores, rtol=SAME_REGION_TOLERANCE, atol=SAME_REGION_TOLERANCE)
        )

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Regions:
        return Regions(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def join(parts: Sequence[Regions]) -> Regions:
        """The rows of all parts, of which there must be one."""
        return Regions(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Regions)))


@dataclass(frozen=True)
class GroundTruth:
    """Checked annotations; images and categories are in the order of their ids."""

    images: dict[int, Mapping[str, Any]]
    categories: dict[int, Mapping[str, Any]]
    regions: Regions
    iou_type: IouType
    source: str
    """What errors call them."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Of ids of images that are text, the whole numbers that stand for them here, in the order of the texts."""

    @staticmethod
    def join(parts: Mapping[int, GroundTruth]) -> GroundTruth:
        """The ground truth of all images, of which there must be one, from that of each by its id."""
        first = next(iter(parts.values()))
        images: dict[int, Mapping[str, Any]] = {
            key: {**image, "id": key} for key, truth in parts.items() for image in truth.images.values()
        }
        categories = {key: category for truth in parts.values() for key, category in truth.categories.items()}
        regions = Regions.join([truth.regions.of_image(key) for key, truth in parts.items()])
        return GroundTruth(images, dict(sorted(categories.items())), regions, first.iou_type, "the targets")

    def without(self, image_ids: Sequence[int]) -> GroundTruth:
        """The annotations of all other images."""
        left_out = set(image_ids)
        images = {image_id: image for image_id, image in self.images.items() if image_id not in left_out}
        kept = ~np.isin(self.regions.image_ids, np.array(image_ids, dtype=np.int64))
        return replace(self, images=images, regions=self.regions[kept])


def read_annotations(given: Given, iou_type: IouType) -> GroundTruth:
    """Check an annotation file in COCO's format.

    Args:
        given: What the file holds, or its path.
        iou_type: Whether boxes or masks will be compared.

    Raises:
        ValueError: A part or key is missing, an id is given twice or unknown, a number is NaN or a size negative.
    """
    if iou_type not in get_args(IouType):
        raise ValueError(f"iou_type must be one of {', '.join(get_args(IouType))}, but is {iou_type!r}")
    contents, source = opened(given, "annotations")
    for part in ("images", "annotations", "categories"):
        if not isinstance(contents, Mapping) or not _is_list(contents.get(part)):
            raise ValueError(f"{source} must hold a list under {part!r}; give an annotation file in COCO's format")
    if not contents["images"]:
        raise ValueError(f"{source} holds no image; give an annotation file with the images that were evaluated")
    numbers = _numbers_of_texts(contents["images"])
    images = _by_id(_numbered(contents["images"], "id", numbers), f"{source}: images")
    categories = _by_id(contents["categories"], f"{source}: categories")
    entries, where = _numbered(contents["annotations"], "image_id", numbers), f"{source}: annotations"
    if any("id" in entry for entry in entries if isinstance(entry, Mapping)):
        _by_id(entries, where)
    regions = _regions(entries, images, categories, iou_type, where, annotated=True)
    return GroundTruth(images, categories, regions, iou_type, source, numbers)


def read_detections(given: Given, truth: GroundTruth, source: str = "detections") -> Regions:
    """Check a results file in COCO's format.

    Args:
        given: What the file holds, or its path.
        truth: The annotations whose ids count.
        source: What errors call detections that come from no file.

    Raises:
        ValueError: It is no list, a key is missing, an id is unknown, a number is NaN, or a size negative.
    """
    contents, source = opened(given, source)
    if not _is_list(contents):
        raise ValueError(f"{source} must hold a list of detections, but holds a {type(contents).__name__}")
    entries = _numbered(contents, "image_id", truth.numbers)
    return _regions(entries, truth.images, truth.categories, truth.iou_type, source)


def read_target(
    entries: Entries, image: Mapping[str, Any], labels: Sequence[int], iou_type: IouType, source: str
) -> GroundTruth:
    """Check the target of one image, given without a file.

    Args:
        entries: Annotations in COCO's format, of that image.
        image: Its `id`, and for masks `height` and `width`.
        labels: All ids of categories, those that are predicted too.
        iou_type: Whether boxes or masks will be compared.
        source: What errors call it.

    Raises:
        ValueError: A key is missing, a number is NaN, or a size negative.
    """
    images = {image["id"]: image}
    categories: dict[int, Mapping[str, Any]] = {label: {"id": label} for label in sorted(set(labels))}
    regions = _regions(entries, images, categories, iou_type, source, annotated=True)
    return GroundTruth(images, categories, regions, iou_type, source)


def category_ids(entries: Entries, source: str) -> list[int]:
    """The category of each entry.

    Raises:
        ValueError: One is no integer.
    """
    return _ids(entries, "category_id", source).tolist()


def opened(given: Given, name: str) -> tuple[Any, str]:
    """The contents of a file and what errors call them: its path, or `name` if the contents were given themselves."""
    return (read_json(given), str(given)) if isinstance(given, Path | str) else (given, name)


def _numbers_of_texts(images: Entries) -> dict[str, int]:
    """A number for each id that is a text, above those that are numbers."""
    ids = [image["id"] for image in images if isinstance(image, Mapping) and "id" in image]
    first = max((each for each in ids if isinstance(each, int)), default=0) + 1
    return {name: first + place for place, name in enumerate(sorted({each for each in ids if isinstance(each, str)}))}


def _numbered(entries: Entries, key: str, numbers: Mapping[str, int]) -> Entries:
    """The same with numbers in place of ids that are texts."""
    if not numbers:
        return entries
    return [
        {**entry, key: numbers[entry[key]]}
        if isinstance(entry, Mapping) and isinstance(entry.get(key), str) and entry[key] in numbers
        else entry
        for entry in entries
    ]


def _is_list(contents: object) -> bool:
    return isinstance(contents, Sequence) and not isinstance(contents, str)


def _regions(
    entries: Entries,
    images: Mapping[int, Mapping[str, Any]],
    categories: Mapping[int, Mapping[str, Any]],
    iou_type: IouType,
    source: str,
    *,
    annotated: bool = False,
) -> Regions:
    """Checked columns of annotations, else of detections."""
    image_ids = _ids(entries, "image_id", source)
    category_ids = _ids(entries, "category_id", source)
    for key, ids, known in (("image_id", image_ids, images), ("category_id", category_ids, categories)):
        unknown = ~np.isin(ids, np.fromiter(known, np.int64, len(known)))
        names = some(np.unique(ids[unknown]).tolist())
        rule = f"{key} must be one of the {len(known)} in the annotations"
        _refuse(unknown, entries, source, rule, f"; unknown are {names}")
    zeros = np.zeros(len(entries))
    scores = zeros if annotated else _numbers(entries, "score", source)
    crowds = zeros
    if annotated:
        _refuse(
            np.array([entry.get("iscrowd", 0) not in (0, 1) for entry in entries], dtype=bool),
            entries,
            source,
            "iscrowd must be 0 or 1",
        )
        crowds = np.array([entry.get("iscrowd", 0) for entry in entries], dtype=float)
    rles = np.full(len(entries), None, dtype=object)
    if iou_type == "segm":
        boxes = np.zeros((len(entries), 4))
        for row, entry in enumerate(entries):
            rles[row] = run_lengths(entry.get("segmentation"), images[image_ids[row]], f"{source}, entry {row}")
        own_areas = np.array([rle_ops.area(rle) for rle in rles], dtype=float)
    else:
        boxes = _numbers(entries, "bbox", source, width=4)
        _refuse(np.any(boxes[:, 2:] < 0, axis=1), entries, source, "bbox must not have a negative width or height")
        own_areas = boxes[:, 2] * boxes[:, 3]
    areas = _areas(entries, own_areas, source) if annotated else own_areas
    return Regions(image_ids, category_ids, boxes, areas, scores, crowds.astype(np.int64), rles)


def _by_id(entries: Entries, source: str) -> dict[int, Mapping[str, Any]]:
    ids = _ids(entries, "id", source)
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{source}: id {unique[counts > 1][0]} is given {counts.max()} times; give each its own")
    return dict(sorted(zip(ids.tolist(), entries, strict=True)))


def _areas(entries: Entries, own: NDArray[np.float64], source: str) -> NDArray[np.float64]:
    """The areas that annotations give; where one is absent or null, that of its box or mask."""
    pairs = zip(entries, own.tolist(), strict=True)
    entries = [entry if entry.get("area") is not None else {"area": area} for entry, area in pairs]
    areas = _numbers(entries, "area", source)
    _refuse(areas < 0, entries, source, "area must not be negative")
    return areas


def _ids(entries: Entries, key: str, source: str) -> NDArray[np.int64]:
    """[N]; 7.0, as some tools write it, is 7."""
    values = _column(entries, key, source, "iuf", (), "an integer")
    largest = 2**53 if values.dtype.kind == "f" else 2**63 - 1  # floats beyond are not exact
    whole = np.isfinite(values) & (values == np.floor(values)) & (values <= largest) & (values >= -largest)
    _refuse(~whole, entries, source, f"{key} must be an integer")
    return values.astype(np.int64)


def _numbers(entries: Entries, key: str, source: str, width: int | None = None) -> NDArray[np.float64]:
    """[N], or [N, width], without NaN and infinity."""
    shape, expected = ((), "a number") if width is None else ((width,), f"{width} numbers")
    values = _column(entries, key, source, "iuf", shape, expected).astype(np.float64)
    _refuse(~np.all(np.isfinite(values), axis=tuple(range(1, values.ndim))), entries, source, f"{key} must be finite")
    return values


def _column(entries: Entries, key: str, source: str, kinds: str, shape: tuple[int, ...], expected: str) -> NDArray:
    """The values of a key as one array of the entry's shape and one of the kinds."""

    def array(values: list[Any]) -> NDArray | None:
        try:
            column = np.array(values) if values else np.zeros((0, *shape), dtype=np.int64)
        except (ValueError, OverflowError):  # ragged
            return None
        if holds_boolean(values):
            return None
        return column if column.dtype.kind in kinds and column.shape[1:] == shape else None

    try:
        column = array([entry[key] for entry in entries])
    except (KeyError, TypeError, IndexError):
        column = None
    if column is not None:
        return column
    for row, entry in enumerate(entries):  # all at once failed: which one was it
        if not isinstance(entry, Mapping):
            raise ValueError(f"{source}, entry {row}: must be a dictionary, but is a {type(entry).__name__}")
        if key not in entry:
            raise ValueError(
                f"{source}, entry {row}: {key} is missing; there are {shown(', '.join(map(str, entry)))[1:-1]}"
            )
        if array([entry[key]]) is None:
            raise ValueError(f"{source}, entry {row}: {key} must be {expected}, but is {shown(entry[key])}")
    raise ValueError(f"{source}: {key} must be {expected} in each entry")


def _refuse(bad: NDArray[np.bool_], entries: Entries, source: str, rule: str, more: str = "") -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{source}, entry {row}: {rule}, but is {shown(entries[row].get(rule.split()[0]))}{more}")
