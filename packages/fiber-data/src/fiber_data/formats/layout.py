"""Finds out which of the caption formats a folder holds."""

import re
from pathlib import Path

from fiber_data.formats.caption_folder import read_caption_folder
from fiber_data.formats.coco_captions import read_coco_captions
from fiber_data.formats.karpathy import read_karpathy
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError, keep_usable


def read_captions(root: str | Path, split: str, *, check_images: bool = True) -> list[CaptionSample]:
    """Reads one split of a data set from its folder, whichever of the caption formats it is in.

    Looked for, in this order:

    1. COCO: ``annotations/captions_<split>.json``, or with a year such as ``captions_<split>2017.json``;
       pictures in ``images/<name>``, ``<name>``, ``images`` or the folder itself, where the name is ``<split>``
       with or without the year.
    2. Karpathy: ``dataset_*.json`` or ``annotations/dataset_*.json``; pictures in ``images`` or the folder
       itself.
    3. ``captions.jsonl`` with ``images/``.

    Args:
        root: The folder of the data set.
        split: ``"train"``, ``"val"``, ``"test"`` or what the files call it.
        check_images: Whether to leave out, with a warning, pictures that are not on disk or have no caption.

    Returns:
        The samples of the split.

    Raises:
        FileNotFoundError: There is no such folder, or none of the split's pictures is on disk.
        SplitNotFoundError: The folder holds none of these formats, or not this split.
        ValueError: Several files would fit.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the root of a data set with pictures and captions")
    year = re.compile(rf"captions_{re.escape(split)}(\d{{4}})?\.json")
    coco = [path for path in sorted(folder.glob("annotations/captions_*.json")) if year.fullmatch(path.name)]
    karpathy = sorted(folder.glob("dataset_*.json")) + sorted(folder.glob("annotations/dataset_*.json"))
    if file := _only(coco, folder):
        names = (file.stem.removeprefix("captions_"), split)
        places = [place / name for name in names for place in (folder / "images", folder)]
        samples = read_coco_captions(file, "", split, check_images=False)
        image_root = _find_image_root([*places, folder / "images", folder], samples)
        for sample in samples:
            sample["image"] = image_root / sample["image"]
        return keep_usable(samples, file) if check_images else samples
    if file := _only(karpathy, folder):
        image_root = folder / "images" if (folder / "images").is_dir() else folder
        return read_karpathy(file, image_root, split, check_images=check_images)
    if (folder / "captions.jsonl").is_file():
        return read_caption_folder(folder, split, check_images=check_images)
    raise SplitNotFoundError(
        f"{folder}: no captions of split {split!r}; expected annotations/captions_{split}*.json (COCO), dataset_*.json "
        "(Karpathy) or captions.jsonl"
    )


def _find_image_root(places: list[Path], samples: list[CaptionSample]) -> Path:
    """The first place that holds one of the first pictures; file names may or may not begin with a folder."""
    for place in places:
        if any((place / sample["image"]).is_file() for sample in samples[:100]):
            return place
    return places[0]


def _only(files: list[Path], folder: Path) -> Path | None:
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files)
        raise ValueError(f"{folder}: several files would fit ({names}); keep one, or call the format's reader yourself")
    return files[0] if files else None
