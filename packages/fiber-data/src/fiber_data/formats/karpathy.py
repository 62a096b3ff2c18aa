"""Karpathy's splits of COCO and Flickr30k: ``{"images": [{filename, filepath, split, sentences: [{raw}], ...}]}``."""

from pathlib import Path
from typing import Any

from fiber_data.formats.files import FolderListing, find_annotation_file, keep_on_disk, whole_folder
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError, clean_caption, entries, read_json, require

_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def read_karpathy(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> list[CaptionSample]:
    """Reads one split of ``dataset_coco.json`` or ``dataset_flickr30k.json``.

    Looked for is ``dataset_*.json``, in the folder itself or in ``annotations``; images in ``images`` or the folder
    itself.

    Args:
        root: Folder of the data set.
        split: ``"train"``, which includes the file's ``restval`` as is the custom (COCO: 113,287 images), ``"val"`` or
            ``"test"``.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder that ``filepath/filename`` is relative to, if it is another (COCO: it holds train2014
            and val2014).

    Returns:
        A sample for each image, in the order of the file; ``id`` is ``cocoid`` where there is one, else ``imgid``,
        else the file name.

    Raises:
        FileNotFoundError: The folder or the file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is not JSON, or several files fit.
        SplitNotFoundError: The folder holds no such file, `split` is none of the three, or no image belongs to it.
    """
    folder = Path(root)
    path = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    if split not in _SPLITS:
        raise SplitNotFoundError(f"{path}: a Karpathy split is one of {', '.join(_SPLITS)}, not {split!r}")
    images = whole_folder(folder, image_folder)
    samples: list[CaptionSample] = []
    splits: set[str] = set()
    for where, image in entries(path, read_json(path), "images"):
        splits.add(require(image, "split", where))
        if image["split"] not in _SPLITS[split]:
            continue
        samples.append(_read_image(image, where, images, split))
    if not samples:
        raise SplitNotFoundError(f"{path}: no image of split {split!r}; the file has {sorted(splits) or 'no images'}")
    return keep_on_disk(samples, "samples", path, FolderListing()) if check_images else samples


def _find_file(root: Path, split: str) -> Path:
    return find_annotation_file(
        root,
        ["dataset_*.json", "annotations/dataset_*.json"],
        r"(annotations/)?dataset_.*\.json",
        expected=f"no captions of split {split!r}; expected dataset_*.json, here or in annotations",
        mend="keep one, or name the one that is meant with annotation_file",
    )


def _read_image(image: dict[str, Any], where: str, folder: Path, split: str) -> CaptionSample:
    file_name = require(image, "filename", where)
    captions = [
        clean_caption(require(sentence, "raw", f"{where}.sentences[{number}]"), where)
        for number, sentence in enumerate(require(image, "sentences", where))
    ]
    return {
        "image": folder / image.get("filepath", "") / file_name,
        "captions": [caption for caption in captions if caption],
        "id": image.get("cocoid", image.get("imgid", file_name)),
        "split": split,
    }
