"""COCO captions: ``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``."""

import re
from collections.abc import Iterator
from pathlib import Path

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import (
    PROBED,
    ImageFinder,
    SplitFile,
    find_annotation_file,
    find_split_files,
    iterate_on_disk,
    portable_names,
    split_folders,
)
from fiber_data.formats.ids import Id, read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import CaptionSample, entries, keep_captions, open_json, read_name, require
from fiber_data.formats.streams import Join, collect, iterated_by

_GLOB = "annotations/captions_*.json"


def iterate_coco_captions(
    root: str | Path,
    split: str,
    faults: Faults,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Iterator[CaptionSample]:
    """The samples of `read_coco_captions` one by one, see `fiber_data.formats.streams`."""
    folder = Path(root)
    path = faults.source = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    join = _read_entries(split, faults)
    own = path.stem.removeprefix("captions_")
    folders = split_folders(folder, own, split) if image_folder is None else [Path(image_folder)]
    listing = FolderListing()
    find = ImageFinder(folders, listing).together([_names(sample) for sample in join.first(PROBED)])
    samples: Iterator[CaptionSample] = (
        {**sample, "image": find(_names(sample)), "captions": [text for each in added for text in each]}
        for sample, added in join
    )
    yield from iterate_on_disk(samples, "samples", faults, listing) if check_images else samples


@iterated_by(iterate_coco_captions)
def read_coco_captions(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Samples[CaptionSample]:
    """Reads one split of COCO captions.

    Sought is ``annotations/captions_<split>.json``, or with a year such as ``captions_<split>2017.json``; images in
    ``images/<name>``, ``<name>``, ``images`` or the folder itself, where the name is ``<split>`` with or without the
    year.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ...; noted in the samples.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder that the file names are relative to, if it is another.

    Returns:
        A sample for each image, in the order of the file, and what was wrong with it (``faults``); ``id`` is COCO's
        image id.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is not JSON in UTF-8 or holds no image, ids repeat or are neither whole numbers nor text,
            an annotation belongs to no image, or several files fit the split.
        SplitNotFoundError: The folder holds no such file of the split.
    """
    faults = Faults(Path(root), bad_entries is None)
    samples = iterate_coco_captions(
        root, split, faults, check_images=check_images, annotation_file=annotation_file, image_folder=image_folder
    )
    return collect(samples, faults)


def find_coco_captions(root: Path) -> list[SplitFile]:
    """The files of COCO captions that a folder holds."""
    return find_split_files(root, [_GLOB], r"annotations/captions_(?P<split>.+?)(\d{4})?\.json")


def _find_file(root: Path, split: str) -> Path:
    return find_annotation_file(
        root,
        [_GLOB],
        rf"annotations/captions_{re.escape(split)}(\d{{4}})?\.json",
        expected=f"no captions of split {split!r}; expected annotations/captions_{split}*.json",
        mend="keep one, or name the one that is meant with annotation_file",
    )


def _read_entries(split: str, faults: Faults) -> Join[Id, CaptionSample, list[str]]:
    """The samples, whose images are still the file's names, and their captions."""
    path = faults.source
    content = open_json(path)
    samples: Join[Id, CaptionSample, list[str]] = Join(path)
    for where, image in entries(path, content, "images"):
        with faults:
            file_name = read_name(require(image, "file_name", where), "file_name", where)
            image_id = read_id(require(image, "id", where), "image id", where, samples)
            samples.add(image_id, {"image": file_name, "captions": [], "id": image_id, "split": split})
    for where, annotation in entries(path, content, "annotations"):
        with faults:
            image_id = read_id(require(annotation, "image_id", where), "image_id", where)
            if image_id not in samples:
                raise ValueError(f"{where}: image_id {shown(image_id)} is not among the file's {len(samples)} images")
            samples.attach(image_id, keep_captions([(where, require(annotation, "caption", where))], faults))
    if not len(samples) and not faults.refused:
        raise ValueError(f"{path}: it holds no images; is it the right file?")
    return samples


def _names(sample: CaptionSample) -> list[str]:
    return portable_names(str(sample["image"]))
