"""Phrases of a caption with their boxes, in MDETR's form (Kamath et al., ICCV 2021): Flickr30k Entities, the mixed
set of COCO and Visual Genome, RefCOCO/+/g, and what `fiber_data.scenes` writes.

The skeleton is COCO's, but an entry of ``images`` is a picture *with one caption*; a picture with five captions has
five entries. Spans of characters say which words name a box.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from fiber_data.formats.boxes import Box, BoxReader
from fiber_data.formats.detection import entries, picture_size
from fiber_data.formats.pictures import PictureFinder
from fiber_data.formats.samples import SplitNotFoundError, read_json, require
from fiber_data.formats.tasks import keep_on_disk

Spans = list[tuple[int, int]]
_FILE_FOLDERS = ("annotations", "mdetr_annotations", "OpenSource")


class GroundingSample(TypedDict):
    """A picture with one caption, and boxes with the words that name them; the lists of boxes run in parallel."""

    image: Path
    id: int | str
    """Of the entry, that is of picture and caption."""
    original_id: int | str
    """Of the picture in the data set that it is from; the entry's id where the file says none."""
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
    """Flickr30k: the number of the caption among those of the picture."""


def read_grounding(
    root_or_file: str | Path,
    image_folder: str | Path | Mapping[str, str | Path] | None = None,
    split: str | None = None,
    name: str | None = None,
    *,
    check_images: bool = True,
) -> list[GroundingSample]:
    """Reads the captions and boxes of one split.

    In a folder these files are looked for, itself or in ``annotations``: ``final_<name>_<split>.json`` and
    ``finetune_<name>_<split>.json``. Pictures are sought in ``images/<split>``, ``<split>``, ``images``, the
    folder itself, and under the names that Flickr30k, COCO and Visual Genome give their folders.

    Args:
        root_or_file: The folder, or the annotation file.
        image_folder: The folder with the pictures; or, for the mixed set, one for each ``data_source`` of the file,
            such as ``{"coco": "train2014", "vg": "vg/images"}``; None looks beside the file.
        split: For a folder: ``"train"``, ``"val"``, ``"testA"``, ...
        name: For a folder: ``"flickr_separateGT"``, ``"mixed"``, ``"refcoco+"``, ``"scenes"``, ...; None takes
            the one file ``final_*`` that there is.
        check_images: Whether to leave out, with a warning, captions whose picture is not on disk.

    Returns:
        A sample for each caption, in the order of the file. Of boxes see `fiber_data.read_detection`; spans that do
        not lie in the caption are left out, and counted with them.

    Raises:
        FileNotFoundError: The file is missing, or none of its pictures is on disk.
        KeyError: A key of the format is missing; the message names file and place.
        ValueError: The file is out of format, as of `fiber_data.read_detection`; or spans are not pairs of numbers.
        SplitNotFoundError: The folder holds no such file of the split.
    """
    path = Path(root_or_file)
    if path.is_dir():
        path = _find_file(path, split, name)
    content = read_json(path)
    samples: dict[int | str, GroundingSample] = {}
    finders = _finders(path, image_folder, split)
    reader = BoxReader(path)
    for where, entry in entries(path, content, "images"):
        sample = _read_entry(entry, where, finders, reader)
        if sample["id"] in samples:
            raise ValueError(f"{where}: image id {sample['id']!r} occurs more than once; keep one of each")
        samples[sample["id"]] = sample
    for where, entry in entries(path, content, "annotations"):
        _add_box(samples, entry, where, reader)
    reader.report()
    found = [_with_phrases(sample) for sample in samples.values()]
    return keep_on_disk(found, lambda each: [each["image"]], "captions", path) if check_images else found


def _find_file(folder: Path, split: str | None, name: str | None) -> Path:
    if split is None:
        raise ValueError(f"{folder}: a folder holds several splits; say which with split, such as split='val'")
    places = [folder, *(folder / each for each in _FILE_FOLDERS)]
    there = [
        file for place in places for kind in ("final", "finetune") for file in sorted(place.glob(f"{kind}_*.json"))
    ]
    wanted = rf"final_.+_{re.escape(split)}" if name is None else rf"fin(al|etune)_{re.escape(f'{name}_{split}')}"
    files = [file for file in there if re.fullmatch(wanted, file.stem)]
    if not files:
        others = ", ".join(file.name for file in there) or "no such file at all"
        raise SplitNotFoundError(
            f"{folder}: no final_{name or '*'}_{split}.json or finetune_{name or '*'}_{split}.json, here or in "
            f"{' or '.join(_FILE_FOLDERS)}; there is {others} (for finetune_* give its name, such as name='refcoco')"
        )
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{folder}: several files would fit ({names}); say which with name, such as name='mixed'")
    return files[0]


def _finders(
    path: Path, image_folder: str | Path | Mapping[str, str | Path] | None, split: str | None
) -> dict[str | None, PictureFinder]:
    """A finder for each data source; that of None serves all others."""
    if isinstance(image_folder, Mapping):
        return {source: PictureFinder(_with_known(Path(folder))) for source, folder in image_folder.items()}
    if image_folder is not None:
        return {None: PictureFinder(_with_known(Path(image_folder)))}
    root = path.parent.parent if path.parent.name in _FILE_FOLDERS else path.parent
    names = dict.fromkeys(each for each in (split, path.stem.rpartition("_")[2]) if each)
    own = [base / each for each in names for base in (root / "images", root)]
    return {None: PictureFinder([*own, root / "images", *_with_known(root)])}


def _with_known(folder: Path) -> list[Path]:
    known = (
        "train2014",
        "val2014",
        "train2017",
        "VG_100K",
        "VG_100K_2",
        "images",
        "flickr30k_images",
        "flickr30k-images",
    )
    return [folder, *(folder / each for each in known)]


def _read_entry(entry: Any, where: str, finders: dict[str | None, PictureFinder], reader: BoxReader) -> GroundingSample:
    number, file_name = require(entry, "id", where), require(entry, "file_name", where)
    caption = require(entry, "caption", where)
    if not isinstance(caption, str) or not isinstance(file_name, str):
        raise ValueError(f"{where}: expected caption and file_name as text, found {caption!r}, {file_name!r}")
    source = entry.get("data_source")
    if (finder := finders.get(source) or finders.get(None)) is None:
        raise ValueError(f"{where}: data_source {source!r} has no image folder, only {', '.join(map(repr, finders))}")
    plain = file_name.rpartition("/")[2]
    phrases = [
        kept
        for position, spans in enumerate(entry.get("tokens_positive_eval") or [])
        if (kept := _spans(spans, caption, f"{where}.tokens_positive_eval[{position}]", reader))
    ]
    sample: GroundingSample = {
        "image": finder.find(list(dict.fromkeys([file_name, plain, re.sub(r"^COCO_\w+_", "", plain)]))),
        "id": number,
        "original_id": entry.get("original_img_id", entry.get("original_id", number)),
        "size": picture_size(entry, where),
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
