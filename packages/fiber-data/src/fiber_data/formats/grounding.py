"""Phrases of a caption with their boxes, in MDETR's form (Kamath et al., ICCV 2021): Flickr30k Entities, the mixed
set of COCO and Visual Genome, RefCOCO/+/g, and what `fiber_data.scenes` writes.

The skeleton is COCO's, but an entry of ``images`` is an image *with one caption*; an image with five captions has
five entries. Spans of characters say which words name a box.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from fiber_data.formats.samples import entries, read_json, require

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

Spans = list[tuple[int, int]]
_FILE_FOLDERS = ("annotations", "mdetr_annotations", "OpenSource")
_IMAGE_FOLDERS = (  # of COCO, Visual Genome and Flickr30k
    "train2014",
    "val2014",
    "train2017",
    "VG_100K",
    "VG_100K_2",
    "images",
    "flickr30k_images",
    "flickr30k-images",
)


class GroundingSample(TypedDict):
    """An image with one caption, and boxes with the words that name them; the lists of boxes run in parallel."""

    image: ImageSource
    """A path from our readers; anything that `fiber_data.load_image` takes from yours."""
    id: int | str
    """Of the entry, that is of image and caption."""
    original_id: int | str
    """Of the image in the data set that it is from; the entry's id where the file says none."""
    size: tuple[int, int]
    """Height and width in pixels."""
    caption: str
    """As it stands in the file: spans count its characters."""
    boxes: list[Box]
    """Corners (x1, y1, x2, y2) in half-open pixels."""
    spans: list[Spans]
    """For each box the [start, end) of the words that name it, in characters of the caption."""
    area: list[float]
    iscrowd: list[bool]
    phrases: list[Spans]
    """What to look for in an evaluation: ``tokens_positive_eval`` of the file, else the spans of the boxes, once."""
    dataset_name: str
    sentence_id: NotRequired[int | str]
    """Flickr30k: the number of the caption among those of the image."""


def read_grounding(
    root: str | Path,
    split: str,
    *,
    name: str | None = None,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | Mapping[str, str | Path] | None = None,
) -> list[GroundingSample]:
    """Reads the captions and boxes of one split.

    Looked for, in the folder itself or in ``annotations``: ``final_<name>_<split>.json`` and
    ``finetune_<name>_<split>.json``. Images are sought in ``images/<split>``, ``<split>``, ``images``, the folder
    itself, and under the names that Flickr30k, COCO and Visual Genome give their folders.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ``"testA"``, ...
        name: ``"flickr_separateGT"``, ``"mixed"``, ``"refcoco+"``, ``"scenes"``, ...; None takes the one file
            ``final_*`` that there is.
        check_images: Whether to leave out, with a warning, captions whose image is not on disk.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder with the images, if it is another; or, for the mixed set, one for each
            ``data_source`` of the file, such as ``{"coco": "train2014", "vg": "vg/images"}``.

    Returns:
        A sample for each caption, in the order of the file. Of boxes see `fiber_data.read_detection`; spans that do
        not lie in the caption are left out, and counted with them.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is out of format, as of `fiber_data.read_detection`; or spans are not pairs of numbers.
        SplitNotFoundError: The folder holds no such file of the split.
    """
    folder = Path(root)
    path = _find_file(folder, split, name) if annotation_file is None else Path(annotation_file)
    listing = FolderListing()
    folders = _folders(folder, path, split) if image_folder is None else image_folder
    samples = _read_samples(path, _finders(folders, listing))
    return keep_on_disk(samples, "captions", path, listing) if check_images else samples


def _find_file(root: Path, split: str, name: str | None) -> Path:
    wanted = rf"final_.+_{re.escape(split)}" if name is None else rf"fin(al|etune)_{re.escape(f'{name}_{split}')}"
    folders = ["", *(f"{folder}/" for folder in _FILE_FOLDERS)]
    return find_annotation_file(
        root,
        [f"{folder}{kind}_*.json" for folder in folders for kind in ("final", "finetune")],
        rf"({'|'.join(folders)}){wanted}\.json",
        expected=f"no final_{name or '*'}_{split}.json or finetune_{name or '*'}_{split}.json, here or in "
        f"{' or '.join(_FILE_FOLDERS)} (for finetune_* give its name, such as name='refcoco')",
        mend="say which with name, such as name='mixed'",
    )


def _folders(root: Path, path: Path, split: str) -> list[Path]:
    """Where the images may lie, if nobody says it."""
    base = root_of_images(root, path, _FILE_FOLDERS)
    return [*split_folders(base, split, path.stem.rpartition("_")[2]), *_with_known(base)]


def _finders(
    folders: list[Path] | str | Path | Mapping[str, str | Path], listing: FolderListing
) -> dict[str | None, ImageFinder]:
    """A finder for each data source; that of None serves all others."""
    if isinstance(folders, Mapping):
        return {source: ImageFinder(_with_known(Path(folder)), listing) for source, folder in folders.items()}
    return {None: ImageFinder(folders if isinstance(folders, list) else _with_known(Path(folders)), listing)}


def _with_known(folder: Path) -> list[Path]:
    return [folder, *(folder / each for each in _IMAGE_FOLDERS)]


def _read_samples(path: Path, finders: dict[str | None, ImageFinder]) -> list[GroundingSample]:
    content = read_json(path)
    samples: dict[int | str, GroundingSample] = {}
    reader = BoxReader(path)
    for where, entry in entries(path, content, "images"):
        sample = _read_entry(entry, where, finders, reader)
        if sample["id"] in samples:
            raise ValueError(f"{where}: image id {sample['id']!r} occurs more than once; keep one of each")
        samples[sample["id"]] = sample
    for where, entry in entries(path, content, "annotations"):
        _add_box(samples, entry, where, reader)
    reader.report()
    return [_with_phrases(sample) for sample in samples.values()]


def _read_entry(entry: Any, where: str, finders: dict[str | None, ImageFinder], reader: BoxReader) -> GroundingSample:
    number, file_name = require(entry, "id", where), require(entry, "file_name", where)
    caption = require(entry, "caption", where)
    if not isinstance(caption, str) or not isinstance(file_name, str):
        raise ValueError(f"{where}: expected caption and file_name as text, found {caption!r}, {file_name!r}")
    source = entry.get("data_source")
    if (finder := finders.get(source) or finders.get(None)) is None:
        raise ValueError(f"{where}: data_source {source!r} has no image folder, only {', '.join(map(repr, finders))}")
    phrases = [
        kept
        for position, spans in enumerate(entry.get("tokens_positive_eval") or [])
        if (kept := _spans(spans, caption, f"{where}.tokens_positive_eval[{position}]", reader))
    ]
    sample: GroundingSample = {
        "image": finder.find(image_names(file_name)),
        "id": number,
        "original_id": entry.get("original_img_id", entry.get("original_id", number)),
        "size": image_size(entry, where),
        "caption": caption,
        "boxes": [],
        "spans": [],
        "area": [],
        "iscrowd": [],
        "phrases": phrases,
        "dataset_name": str(entry.get("dataset_name", "")),
    }
    if "sentence_id" in entry:
        sample["sentence_id"] = entry["sentence_id"]
    return sample


def _with_phrases(sample: GroundingSample) -> GroundingSample:
    """Where the file says nothing of an evaluation, the phrases are those of the boxes."""
    if not sample["phrases"]:
        sample["phrases"] = [list(spans) for spans in dict.fromkeys(map(tuple, sample["spans"])) if spans]
    return sample


def _spans(spans: Any, caption: str, where: str, reader: BoxReader) -> Spans:
    """The spans that lie in the caption."""
    is_list = isinstance(spans, list) and all(isinstance(span, list) and len(span) == 2 for span in spans)
    if not is_list or not all(isinstance(end, int) for span in spans for end in span):
        raise ValueError(f"{where}: expected spans as pairs [start, end] of whole numbers, found {spans!r}")
    kept = [(start, end) for start, end in spans if 0 <= start < end <= len(caption)]
    if len(kept) < len(spans):
        reader.note("without some of their character spans, which do not lie in the caption", where)
    return kept


def _add_box(samples: dict[int | str, GroundingSample], entry: Any, where: str, reader: BoxReader) -> None:
    number = require(entry, "image_id", where)
    if number not in samples:
        raise ValueError(f"{where}: image_id {number!r} is not among the file's {len(samples)} images")
    sample = samples[number]
    if (box := reader.corners(require(entry, "bbox", where), sample["size"], where)) is None:
        return
    sample["boxes"].append(box)
    sample["spans"].append(_spans(require(entry, "tokens_positive", where), sample["caption"], where, reader))
    sample["area"].append(float(entry.get("area", (box[2] - box[0]) * (box[3] - box[1]))))
    sample["iscrowd"].append(bool(entry.get("iscrowd", 0)))
