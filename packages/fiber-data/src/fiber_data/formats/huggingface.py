"""Data sets of Hugging Face: what ``save_to_disk`` wrote, parquet files, and an object in memory.

A folder of ``save_to_disk`` holds ``dataset_dict.json`` with a folder for each split, or ``state.json`` alone. Parquet
files lie as the hub has them: ``data/train-00000-of-00002.parquet``, ``train/*.parquet``, ``train.parquet``.
Rows have an image and captions (``captions``, ``caption``, ``text``), or a ``question`` with answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError, ImageFinder, SplitFile, check_folder
from fiber_data.formats.ids import Id, read_id
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.plain_records import first_of, read_question
from fiber_data.formats.samples import keep_captions, read_json
from fiber_data.formats.splits import collected, of_split, on_disk
from fiber_data.formats.streams import iterated_by
from fiber_data.formats.tables import finder_beside, image_of_cell, stream_table

if TYPE_CHECKING:
    from fiber_data.mapped import MappedSamples

_IMAGES = ("image", "img", "jpg", "png")
_CAPTIONS = ("captions", "caption", "text", "sentences", "title")
_HELD_OUT = ("val", "validation", "valid", "dev")  # names of one split


class HuggingFaceOptions(TypedDict, total=False):
    """What `read_huggingface` takes beside root and split.

    - ``check_images``: whether to leave out, counted, rows without an image or a text (True);
    - ``hold_out``: about which share of the images is ``"val"`` where nothing has a split;
    - ``image_column``, ``caption_column``: the columns, if they are called otherwise.
    """

    check_images: bool
    hold_out: float | None
    image_column: str | None
    caption_column: str | None


def iterate_huggingface(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[HuggingFaceOptions]
) -> Iterator[dict[str, Any]]:
    """The samples of `read_huggingface`, one by one; images stay in their files."""
    folder, check, listing = Path(root), options.get("check_images", True), FolderListing()
    check_folder(folder)
    files, is_named = _find_files(folder, split)

    def make(counted: Faults) -> Iterator[dict[str, Any]]:
        seen: set[Id] = set()
        for path in files:
            counted.source = path
            finder = finder_beside(path, folder, listing)
            for sample in _read_file(path, counted, seen, finder, options):
                if check and (sample["image"] is None or not sample.get("captions", True)):
                    counted.note("the rows", "lack an image or a caption", outcome="these are left out")
                else:
                    yield sample

    faults.source = files[0]
    samples = of_split(make, None if is_named else split, options.get("hold_out"), "rows", faults)
    yield from on_disk(samples, "rows", faults, listing, check_images=check)


@iterated_by(iterate_huggingface)
def read_huggingface(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[HuggingFaceOptions]
) -> Samples[Any]:
    """Reads the rows of a split: samples as of `read_captions`, or of `read_vqav2` where rows have a question.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"`` (also validation, valid and dev), ...; None is all.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `HuggingFaceOptions`.

    Returns:
        A sample for each row, and what was wrong with the files (``faults``); ``id`` is the row's (``id``,
        ``image_id``, ``question_id``), else file and row.

    Raises:
        FileNotFoundError: There is no such folder.
        KeyError: A column is missing; the message names file and row.
        ValueError: A file is no table or cut off, a row is out of format, or ids repeat.
        SplitNotFoundError: The folder holds no such files of the split.
    """
    return collected(iterate_huggingface, root, split, bad_entries, **options)


def find_huggingface(root: Path) -> list[SplitFile]:
    """The splits that a folder holds."""
    return [SplitFile(files[0], split) for split, files in _by_split(root).items()]


def samples_of(dataset: Any, *, image_column: str | None = None, caption_column: str | None = None) -> MappedSamples:
    """The samples of a `datasets.Dataset`, or another table of rows, each made when it is asked for.

    Args:
        dataset: The data set; its images are decoded by `fiber_data.load_image` alone.
        image_column: The column of images, if it is called otherwise.
        caption_column: The column of captions, likewise.

    Raises:
        KeyError: There is no such column.
    """
    from fiber_data.mapped import MappedSamples

    names = list(dataset.column_names)
    image = image_column or first_of({name: name for name in names}, _IMAGES, "the data set")
    if type(dataset.features.get(image)).__name__ == "Image":
        dataset = dataset.cast_column(image, type(dataset.features[image])(decode=False))
    make = partial(_made, image=image, caption=caption_column)
    numbered = dataset.add_column("row number", list(range(len(dataset))))
    if "question" in names:
        return MappedSamples(numbered, make)
    caption = caption_column or first_of({name: name for name in names}, _CAPTIONS, "the data set")
    texts = [_texts(value) for value in dataset[caption]]
    return MappedSamples(numbered, make, columns={"captions": texts})


def _made(row: dict[str, Any], image: str, caption: str | None) -> dict[str, Any]:
    number = row["row number"]
    options: HuggingFaceOptions = {"image_column": image, "caption_column": caption}
    return _sample(row, f"row[{number}]", str(number), Faults(Path("the data set")), options)


def _texts(value: Any) -> list[str]:
    return [" ".join(str(text).split()) for text in (value if isinstance(value, list) else [value])]


def _read_file(
    path: Path, faults: Faults, seen: set[Id], finder: ImageFinder, options: HuggingFaceOptions
) -> Iterator[dict[str, Any]]:
    rows = stream_table(path)
    while True:
        entry, sample = None, None
        with faults:
            entry = next(rows, None)
        if entry is None:
            return
        where, row = entry
        with faults:
            name = f"{path.stem}-{where.rpartition('row[')[2].rstrip(']')}"
            found = _sample(row, where, name, faults, options)
            found["image"] = image_of_cell(found["image"], finder, where)
            seen.add(read_id(found["id"], "id", where, seen))
            sample = found
        if sample is not None:
            yield sample


def _sample(row: dict[str, Any], where: str, name: str, faults: Faults, options: HuggingFaceOptions) -> dict[str, Any]:
    image = row.get(options.get("image_column") or next((key for key in _IMAGES if key in row), _IMAGES[0]))
    if "question" in row:
        own = next((row[key] for key in ("question_id", "id") if row.get(key) is not None), name)
        of_image = read_id(name if row.get("image_id") is None else row["image_id"], "image_id", where)
        return {"image": image, **read_question(row, where), "id": read_id(own, "id", where), "image_id": of_image}
    own = next((row[key] for key in ("id", "image_id") if row.get(key) is not None), name)
    column = options.get("caption_column")
    given = first_of(row, (column,) if column else _CAPTIONS, where)
    texts = given if isinstance(given, list) else [given]
    captions = keep_captions([(where, text) for text in texts], faults)
    return {"image": image, "captions": captions, "id": read_id(own, "id", where)}


def _by_split(root: Path) -> dict[str | None, list[Path]]:
    """The files of each split, of all together where they say none."""
    found: dict[str | None, list[Path]] = {}
    if (root / "dataset_dict.json").is_file():
        folders = sorted(path.parent for path in root.glob("*/state.json"))
        return {folder.name: files for folder in folders if (files := _saved(folder))}
    if (root / "state.json").is_file():
        return {None: files} if (files := _saved(root)) else {}
    for path in sorted(path for pattern in ("*.parquet", "*/*.parquet") for path in root.glob(pattern)):
        named = re.fullmatch(r"(?P<split>[A-Za-z]+)(-\d+-of-\d+)?", path.stem)
        folder = path.parent.name if path.parent not in (root, root / "data") else None
        split = folder or (named["split"] if named and named["split"] not in ("data", "part") else None)
        found.setdefault(split, []).append(path)
    return found


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of a folder of `save_to_disk`, in their order."""
    try:
        names = [entry["filename"] for entry in read_json(folder / "state.json")["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return sorted(folder.glob("data-*.arrow"))
    return [folder / Path(str(name)).name for name in names]


def _find_files(root: Path, split: str | None) -> tuple[list[Path], bool]:
    """The files of a split, and whether they are of it alone."""
    files = _by_split(root)
    if split is None and files:
        return [path for each in files.values() for path in each], True
    for name in (split, *(_HELD_OUT if split in _HELD_OUT else ())):
        if name in files:
            return files[name], True
    if None in files and len(files) == 1:
        return files[None], False
    there = ", ".join(map(str, files)) or "no data set of save_to_disk and no parquet"
    raise FileOfSplitNotFoundError(f"{root}: no rows of split {split!r}; there is {there}")
