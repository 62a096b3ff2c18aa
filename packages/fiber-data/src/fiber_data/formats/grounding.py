"""Phrases of a caption with their boxes, in MDETR's form (Kamath et al., ICCV 2021): Flickr30k Entities, the mixed
set of COCO and Visual Genome, RefCOCO/+/g, and what `fiber_data.scenes` writes.

The skeleton is COCO's, but an entry of ``images`` is an image *with one caption*; an image with five captions has
five entries. Spans of characters say which words name a box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.boxes import Box, read_area, read_box, read_crowd, read_size
from fiber_data.formats.faults import BadEntries, Faults, Samples
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
from fiber_data.formats.samples import entries, open_json, read_name, require, whole_characters
from fiber_data.formats.streams import Join, collect, iterated_by

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
    id: Id
    """Of the entry, that is of image and caption."""
    original_id: Id
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
    sentence_id: NotRequired[Id]
    """Flickr30k: the number of the caption among those of the image."""
    split: NotRequired[str | None]


_Entry = tuple[Box, Spans, float, bool]  # box, the words that name it, area, whether it is of a crowd


def iterate_grounding(
    root: str | Path,
    split: str,
    faults: Faults,
    *,
    name: str | None = None,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | Mapping[str, str | Path] | None = None,
) -> Iterator[GroundingSample]:
    """The samples of `read_grounding` one by one, see `fiber_data.formats.streams`."""
    folder = Path(root)
    path = faults.source = _find_file(folder, split, name) if annotation_file is None else Path(annotation_file)
    listing = FolderListing()
    folders = _folders(folder, path, split) if image_folder is None else image_folder
    samples = _read_samples(_finders(folders, listing), faults)
    yield from iterate_on_disk(samples, "captions", faults, listing) if check_images else samples


@iterated_by(iterate_grounding)
def read_grounding(
    root: str | Path,
    split: str,
    *,
    name: str | None = None,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | Mapping[str, str | Path] | None = None,
) -> Samples[GroundingSample]:
    """Reads the captions and boxes of one split.

    Sought in the folder itself or in ``annotations``: ``final_<name>_<split>.json`` and
    ``finetune_<name>_<split>.json``. Images are sought in ``images/<split>``, ``<split>``, ``images``, the folder
    itself, and under the names that Flickr30k, COCO and Visual Genome give their folders.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ``"testA"``, ...
        name: ``"flickr_separateGT"``, ``"mixed"``, ``"refcoco+"``, ``"scenes"``, ...; None takes the one file
            ``final_*`` that there is.
        check_images: Whether to leave out, with a warning, captions whose image is not on disk.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder with the images, if it is another; or, for the mixed set, one for each
            ``data_source`` of the file, such as ``{"coco": "train2014", "vg": "vg/images"}``.

    Returns:
        A sample for each caption, in the order of the file, and what was wrong with it (``faults``). Of boxes see
        `fiber_data.read_detection`; spans that do not lie in the caption are left out, and counted with them.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is out of format, as of `fiber_data.read_detection`; or spans are not pairs of numbers.
        SplitNotFoundError: The folder holds no such file of the split.
    """
    faults = Faults(Path(root), bad_entries is None)
    samples = iterate_grounding(
        root,
        split,
        faults,
        name=name,
        check_images=check_images,
        annotation_file=annotation_file,
        image_folder=image_folder,
    )
    return collect(samples, faults)


def find_grounding(root: Path) -> list[SplitFile]:
    """The files of captions with boxes that a folder holds."""
    folders = ["", *(f"{folder}/" for folder in _FILE_FOLDERS)]
    globs = [f"{folder}{kind}_*.json" for folder in folders for kind in ("final", "finetune")]
    return find_split_files(root, globs, rf"({'|'.join(folders)})fin(al|etune)_.+?_(?P<split>[^_]+(_no_coco)?)\.json")


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


def _read_samples(finders: dict[str | None, ImageFinder], faults: Faults) -> Iterator[GroundingSample]:
    path = faults.source
    content = open_json(path)
    samples: Join[Id, GroundingSample, _Entry] = Join(path)
    for where, entry in entries(path, content, "images"):
        with faults:
            number = read_id(require(entry, "id", where), "image id", where, samples)
            samples.add(number, _read_entry(number, entry, where, finders, faults))
    for where, entry in entries(path, content, "annotations"):
        with faults:
            _add_box(samples, entry, where, faults)
    if not len(samples) and not faults.refused:
        raise ValueError(f"{path}: it holds no images; is it the right file?")
    for sample, added in samples:
        boxes, spans, areas, crowds = (list(column) for column in zip(*added, strict=True)) if added else ([],) * 4
        yield _with_phrases({**sample, "boxes": boxes, "spans": spans, "area": areas, "iscrowd": crowds})


def _read_entry(
    number: Id, entry: Any, where: str, finders: dict[str | None, ImageFinder], faults: Faults
) -> GroundingSample:
    file_name, caption = require(entry, "file_name", where), require(entry, "caption", where)
    if not isinstance(caption, str) or not isinstance(file_name, str):
        given = f"{shown(caption)}, {shown(file_name)}"
        raise ValueError(f"{where}: expected caption and file_name as text, found {given}")
    source = entry.get("data_source")
    finder = (finders.get(source) if isinstance(source, str) else None) or finders.get(None)
    if finder is None:
        given = shown(source)
        raise ValueError(f"{where}: data_source {given} has no image folder, only {', '.join(map(repr, finders))}")
    evaluated = entry.get("tokens_positive_eval") or []
    if not isinstance(evaluated, list):
        raise ValueError(f"{where}: expected tokens_positive_eval as a list, found {shown(evaluated)}")
    phrases = [
        kept
        for position, spans in enumerate(evaluated)
        if (kept := _spans(spans, caption, f"{where}.tokens_positive_eval[{position}]", faults))
    ]
    original = next((key for key in ("original_img_id", "original_id") if entry.get(key) is not None), "id")
    sample: GroundingSample = {
        "image": finder.find(image_names(read_name(file_name, "file_name", where))),
        "id": number,
        "original_id": read_id(entry[original], original, where),
        "size": read_size(entry, where),
        "caption": whole_characters(caption),
        "boxes": [],
        "spans": [],
        "area": [],
        "iscrowd": [],
        "phrases": phrases,
        "dataset_name": str(entry.get("dataset_name") or ""),
    }
    if entry.get("sentence_id") is not None:
        sample["sentence_id"] = read_id(entry["sentence_id"], "sentence_id", where)
    return sample


def _with_phrases(sample: GroundingSample) -> GroundingSample:
    """Where the file says nothing of an evaluation, the phrases are those of the boxes."""
    if not sample["phrases"]:
        sample["phrases"] = [list(spans) for spans in dict.fromkeys(map(tuple, sample["spans"])) if spans]
    return sample


def _spans(spans: Any, caption: str, where: str, faults: Faults) -> Spans:
    """The spans that lie in the caption."""
    is_list = isinstance(spans, list) and all(isinstance(span, list) and len(span) == 2 for span in spans)
    pairs = [(whole(start), whole(end)) for start, end in spans] if is_list else [(None, None)]
    if any(start is None or end is None for start, end in pairs):
        raise ValueError(f"{where}: expected spans as pairs [start, end] of whole numbers, found {shown(spans)}")
    kept = [(start, end) for start, end in pairs if 0 <= start < end <= len(caption)]  # type: ignore[operator]
    if len(kept) < len(pairs):
        faults.note("the boxes", "are without some of their character spans, which do not lie in the caption", where)
    return kept  # type: ignore[return-value]


def _add_box(samples: Join[Id, GroundingSample, _Entry], entry: Any, where: str, faults: Faults) -> None:
    number = read_id(require(entry, "image_id", where), "image_id", where)
    if number not in samples:
        raise ValueError(f"{where}: image_id {shown(number)} is not among the file's {len(samples)} images")
    sample, crowd = samples[number], read_crowd(entry, where)
    if (box := read_box(entry, sample["size"], where, faults)) is not None:
        spans = _spans(require(entry, "tokens_positive", where), sample["caption"], where, faults)
        samples.attach(number, (box, spans, read_area(entry, box, where, faults), crowd))
