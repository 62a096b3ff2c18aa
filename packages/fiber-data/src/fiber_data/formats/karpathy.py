"""Karpathy's splits of COCO and Flickr30k: ``{"images": [{filename, filepath, split, sentences: [{raw}], ...}]}``."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import (
    ImageFinder,
    SplitFile,
    find_annotation_file,
    find_split_files,
    iterate_on_disk,
    portable_names,
    whole_folder,
)
from fiber_data.formats.ids import Id, read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import (
    CaptionSample,
    SplitNotFoundError,
    entries,
    keep_captions,
    list_some,
    open_json,
    read_name,
    require,
)
from fiber_data.formats.streams import collect, iterated_by

_GLOBS = ["dataset_*.json", "annotations/dataset_*.json"]
_NAME = r"(?!(dict|info)\.).*"  # these two are of Hugging Face's data sets
_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def iterate_karpathy(
    root: str | Path,
    split: str | None,
    faults: Faults,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Iterator[CaptionSample]:
    """The samples of `read_karpathy` one by one, see `fiber_data.formats.streams`."""
    folder = Path(root)
    path = faults.source = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    if split is not None and split not in _SPLITS:
        raise SplitNotFoundError(f"{path}: a Karpathy split is one of {', '.join(_SPLITS)}, not {split!r}")
    listing = FolderListing()
    samples = _read_images(split, ImageFinder([whole_folder(folder, image_folder)], listing), faults)
    yield from iterate_on_disk(samples, "samples", faults, listing) if check_images else samples


@iterated_by(iterate_karpathy)
def read_karpathy(
    root: str | Path,
    split: str | None,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Samples[CaptionSample]:
    """Reads one split of ``dataset_coco.json`` or ``dataset_flickr30k.json``.

    Sought is ``dataset_*.json``, in the folder itself or in ``annotations``; images in ``images`` or the folder
    itself.

    Args:
        root: Folder of the data set.
        split: ``"train"``, which includes the file's ``restval`` as is the custom (COCO: 113,287 images), ``"val"``,
            ``"test"``, or None for all.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder that ``filepath/filename`` is relative to, if it is another (COCO: it holds train2014
            and val2014).

    Returns:
        A sample for each image, in the order of the file, and what was wrong with it (``faults``); ``id`` is
        ``cocoid`` where there is one, else ``imgid``, else the file name.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is not JSON in UTF-8, ids repeat or are neither whole numbers nor text, or several files
            fit.
        SplitNotFoundError: The folder holds no such file, `split` is none of the three, or no image belongs to it.
    """
    faults = Faults(Path(root), bad_entries is None)
    samples = iterate_karpathy(
        root, split, faults, check_images=check_images, annotation_file=annotation_file, image_folder=image_folder
    )
    return collect(samples, faults)


def find_karpathy(root: Path) -> list[SplitFile]:
    """The files that a folder holds, each with all splits."""
    files = find_split_files(root, _GLOBS, rf"(annotations/)?dataset_(?P<split>{_NAME})\.json")
    return [SplitFile(file.path, None, file.options) for file in files]


def _find_file(root: Path, split: str | None) -> Path:
    return find_annotation_file(
        root,
        _GLOBS,
        rf"(annotations/)?dataset_{_NAME}\.json",
        expected=f"no captions of split {split!r}; expected dataset_*.json, here or in annotations",
        mend="keep one, or name the one that is meant with annotation_file",
    )


def _read_images(split: str | None, finder: ImageFinder, faults: Faults) -> Iterator[CaptionSample]:
    path = faults.source
    splits: set[str] = set()
    seen: set[Id] = set()
    for where, image in entries(path, open_json(path), "images"):
        sample = None
        with faults:
            splits.add(own := read_name(require(image, "split", where), "split", where))
            if split is None or own in _SPLITS[split]:
                sample = _read_image(image, where, finder, split or own, seen, faults)
        if sample is not None:
            seen.add(sample["id"])
            yield sample
    if not seen and not faults.refused:
        has = f"[{list_some(sorted(splits))}]" if splits else "no images"
        raise SplitNotFoundError(f"{path}: no image of split {split!r}; the file has {has}")


def _read_image(
    image: dict[str, Any], where: str, finder: ImageFinder, split: str, seen: Container[Id], faults: Faults
) -> CaptionSample:
    file_name = read_name(require(image, "filename", where), "filename", where)
    key = next((key for key in ("cocoid", "imgid") if image.get(key) is not None), "filename")
    sentences = require(image, "sentences", where)
    if not isinstance(sentences, list):
        raise ValueError(f"{where}: expected sentences as a list, found {shown(sentences)}")
    places = [f"{where}.sentences[{number}]" for number in range(len(sentences))]
    texts = [(place, require(sentence, "raw", place)) for place, sentence in zip(places, sentences, strict=True)]
    folder = image.get("filepath") or ""
    name = f"{read_name(folder, 'filepath', where)}/{file_name}" if folder else file_name
    return {
        "image": finder.find(portable_names(name)),
        "captions": keep_captions(texts, faults),
        "id": read_id(image[key], key, where, seen),
        "split": split,
    }
