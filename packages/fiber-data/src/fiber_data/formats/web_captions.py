"""Captions with the addresses of their images, downloaded by whatever tool: SBU, Conceptual Captions 3M and 12M.

A file says caption and address in either order (CC3M has the caption first, CC12M the address), if wanted with a third
column, the file of the image; or it is a table with a line of names, a list in JSON, or SBU's pair of texts. Where
nothing names the file, it is found by what download tools call it, see `fiber_data.formats.row_images`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError, SplitFile, check_folder, split_folders
from fiber_data.formats.held_out import TRAIN, VAL
from fiber_data.formats.ids import read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.plain_records import first_of
from fiber_data.formats.records import DAMAGES, kind_of, open_bytes, stream_json, stream_lines, stream_records
from fiber_data.formats.row_images import PROBED, Row, RowImages
from fiber_data.formats.samples import CaptionSample, keep_captions
from fiber_data.formats.splits import collected, of_split, on_disk
from fiber_data.formats.streams import iterated_by
from fiber_data.urls import is_url

_CAPTION_KEYS = ("caption", "captions", "title", "text", "TEXT")
_URL_KEYS = ("url", "image_url", "URL")
_FILE_KEYS = ("file", "filepath", "file_name", "filename", "image", "image_path", "path")
_SBU = r"(?i)(sbu.*(captions.*\.json|\.(json|jsonl|tsv|csv))|sbu.*_captions\.txt|annot\.json)(\.gz)?"
_CONCEPTUAL = r"(?i)(.*(gcc|cc3m|cc12m|conceptual).*\.(tsv|csv|json|jsonl)|(train|val)_annot\.json)(\.gz)?"
_TEXTS = ("_captions.txt", "_urls.txt")  # SBU's pair


class WebCaptionOptions(TypedDict, total=False):
    """What these readers take beside root and split.

    - ``check_images``: whether to leave out, with a warning, rows without an image on disk (True);
    - ``hold_out``: about which share is ``"val"`` where no file has a split in its name, a tenth by default; 0 for
      none;
    - ``image_name``: what images are called, see `fiber_data.formats.row_images`; by default what the first rows
      find on disk;
    - ``first_row``: the number of the first row where names have it, 0 or 1; by default what files tell;
    - ``annotation_file``: a file that lies elsewhere or has another name;
    - ``image_folder``: the folder with the images, if it is another.
    """

    check_images: bool
    hold_out: float | None
    image_name: str | None
    first_row: int | None
    annotation_file: str | Path | None
    image_folder: str | Path | None


def iterate_sbu(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[WebCaptionOptions]
) -> Iterator[CaptionSample]:
    """The samples of `read_sbu`, one by one."""
    yield from _iterate(_SBU, "SBU_captioned_photo_dataset_captions.txt and ..._urls.txt", root, split, faults, options)


@iterated_by(iterate_sbu)
def read_sbu(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[WebCaptionOptions]
) -> Samples[CaptionSample]:
    """Reads SBU Captions (Ordonez et al., NeurIPS 2011).

    Sought is ``SBU_captioned_photo_dataset_captions.txt`` with ``..._urls.txt``, ``sbu*.json`` (``image_urls`` and
    ``captions``, or a list of objects or of pairs), ``sbu*.tsv``, ``.csv``, ``.jsonl`` or ``annot.json``; images in
    ``images/<split>``, ``<split>``, ``images`` or the folder itself.

    Args:
        root: Folder of the data set.
        split: ``"train"`` or ``"val"``; None is all.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `WebCaptionOptions`.

    Returns:
        A sample for each row that has its image, and what was wrong with the file (``faults``); ``id`` is the row's
        number, from 0, unless a column ``id`` says another.

    Raises:
        FileNotFoundError: There is no such folder or file, or none of the images is on disk.
        ValueError: A row is out of format, texts do not run in parallel, or nothing tells whether images are numbered
            from 0 or 1.
        SplitNotFoundError: The folder holds no such file, or not this split.
    """
    return collected(iterate_sbu, root, split, bad_entries, **options)


def find_sbu(root: Path) -> list[SplitFile]:
    """The files of SBU that a folder holds."""
    return [SplitFile(path, _split_of(path), {"annotation_file": path}) for path in _files(root, _SBU)]


def iterate_conceptual_captions(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[WebCaptionOptions]
) -> Iterator[CaptionSample]:
    """The samples of `read_conceptual_captions`, one by one."""
    yield from _iterate(_CONCEPTUAL, "Train_GCC-training.tsv, cc12m.tsv or such", root, split, faults, options)


@iterated_by(iterate_conceptual_captions)
def read_conceptual_captions(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[WebCaptionOptions]
) -> Samples[CaptionSample]:
    """Reads Conceptual Captions, 3M (Sharma et al., ACL 2018) or 12M (Changpinyo et al., CVPR 2021).

    Sought is ``Train_GCC-training.tsv``, ``Validation_GCC-1.1.0-Validation.tsv``, ``cc12m.tsv``, or another file with
    gcc, cc3m, cc12m or conceptual in its name, and ``train_annot.json``; all else as of `read_sbu`.
    """
    return collected(iterate_conceptual_captions, root, split, bad_entries, **options)


def find_conceptual_captions(root: Path) -> list[SplitFile]:
    """The files of Conceptual Captions that a folder holds."""
    return [SplitFile(path, _split_of(path), {"annotation_file": path}) for path in _files(root, _CONCEPTUAL)]


def _iterate(
    pattern: str, expected: str, root: str | Path, split: str | None, faults: Faults, options: WebCaptionOptions
) -> Iterator[CaptionSample]:
    folder, given = Path(root), options.get("annotation_file")
    faults.source = _find_file(folder, split, pattern, expected) if given is None else Path(given)
    own, listing = _split_of(faults.source), FolderListing()
    image_folder = options.get("image_folder")
    folders = split_folders(folder, split, own, f"images_{own}") if image_folder is None else [Path(image_folder)]
    images = RowImages(folders, listing, options.get("image_name"), options.get("first_row"))

    def make(counted: Faults) -> Iterator[dict[str, Any]]:
        rows = _rows(counted)
        first = list(islice(rows, PROBED))
        images.look(first, lambda: sum(1 for _ in _rows(Faults(counted.source, strict=False))))
        for row in chain(first, rows):
            number = row.number if row.own is None else row.own
            yield {"image": images.find(row), "captions": row.captions, "id": number, "split": own}

    samples = of_split(
        make, None if own is not None and own == split else split, options.get("hold_out"), "rows", faults
    )
    found = on_disk(samples, "rows", faults, listing, check_images=options.get("check_images", True))
    yield from cast(Iterator[CaptionSample], found)


# Files


def _files(root: Path, pattern: str) -> list[Path]:
    files = sorted(path for base in (root, root / "annotations") for path in base.glob("*") if path.is_file())
    return [path for path in files if re.fullmatch(pattern, path.name)]


def _split_of(path: Path) -> str | None:
    """What a file's name says of its split."""
    found = re.search(r"(?i)(train|val)", path.name)
    return None if found is None else TRAIN if found[1].lower() == "train" else VAL


def _find_file(root: Path, split: str | None, pattern: str, expected: str) -> Path:
    check_folder(root)
    files = _files(root, pattern)
    own = [path for path in files if split is None or _split_of(path) == split]
    own = own or [path for path in files if _split_of(path) is None]
    if len(own) > 1:
        names = ", ".join(path.name for path in own)
        raise ValueError(f"{root}: several files would fit ({names}); name the one that is meant with annotation_file")
    if not own:
        there = ", ".join(path.name for path in files) or "no such file at all"
        raise FileOfSplitNotFoundError(f"{root}: no captions of split {split!r}; expected {expected}; there is {there}")
    return own[0]


# Rows


def _rows(faults: Faults) -> Iterator[Row]:
    path = faults.source
    if path.name.endswith(_TEXTS[0]):
        return _rows_of_texts(faults, path.with_name(path.name.removesuffix(_TEXTS[0]) + _TEXTS[1]))
    if kind_of(path) == ".json":
        return _rows_of_lists(faults) if _is_object(path) else _rows_of(enumerate(stream_json(faults)), faults)
    if kind_of(path) == ".jsonl" or _has_header(path):
        return _rows_of(enumerate(stream_records(faults)), faults)
    return _rows_of(
        ((number, (where, line)) for number, (where, line) in enumerate(stream_lines(faults, blank=True))), faults
    )


def _is_object(path: Path) -> bool:
    try:
        with open_bytes(path) as file:
            return file.read(4096).lstrip()[:1] == b"{"
    except DAMAGES:
        return False  # said by whoever reads on


def _has_header(path: Path) -> bool:
    _, line = next(stream_lines(Faults(path, strict=False)), ("", ""))
    names = {name.strip().strip('"') for name in re.split(r"[\t,;]", line)}
    return not names.isdisjoint(_CAPTION_KEYS) and not names.isdisjoint((*_URL_KEYS, *_FILE_KEYS))


def _rows_of(numbered: Iterable[tuple[int, tuple[str, Any]]], faults: Faults) -> Iterator[Row]:
    for number, (where, entry) in numbered:
        if isinstance(entry, str) and not entry.strip():
            continue
        row = None
        with faults:
            row = _row(number, where, entry.rstrip("\r\n").split("\t") if isinstance(entry, str) else entry, faults)
        if row is not None:
            yield row


def _row(number: int, where: str, entry: Any, faults: Faults) -> Row:
    if isinstance(entry, list):
        caption, url, file = _parts(entry, where)
        return Row(where, number, keep_captions([(where, caption)], faults), url, file, None)
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object or a pair, found {shown(entry)}")
    given = first_of(entry, _CAPTION_KEYS, where)
    captions = keep_captions([(where, text) for text in (given if isinstance(given, list) else [given])], faults)
    source = first_of(entry, (*_FILE_KEYS, *_URL_KEYS), where)
    url = next((entry[key] for key in _URL_KEYS if isinstance(entry.get(key), str)), "")
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{where}: expected the image's file or address as text, found {shown(source)}")
    own = None if entry.get("id") is None else read_id(entry["id"], "id", where)
    return Row(where, number, captions, source if is_url(source) else url, "" if is_url(source) else source, own)


def _parts(cells: list[Any], where: str) -> tuple[Any, str, str]:
    """Caption, address and file of cells in whatever order of the first two."""
    pair = cells[:2]
    if len(cells) < 2 or not all(isinstance(cell, str) for cell in cells):
        raise ValueError(f"{where}: expected a caption and an address with a tab between, found {shown(cells)}")
    addresses = [place for place, cell in enumerate(pair) if is_url(cell.strip())]
    if len(addresses) == 1:
        return pair[1 - addresses[0]], pair[addresses[0]].strip(), cells[2].strip() if len(cells) > 2 else ""
    if not addresses and re.search(r"\.\w{3,4}$", pair[0]) and " " not in Path(pair[0]).suffix:
        return pair[1], "", pair[0]  # [path, caption], as lists in JSON have it
    raise ValueError(
        f"{where}: expected a caption and the address of its image, in either order, found {shown(pair)}; give one of "
        "each, or a line of names above"
    )


def _rows_of_texts(faults: Faults, other: Path) -> Iterator[Row]:
    """The rows of SBU's captions and addresses, which run in parallel."""
    urls = stream_lines(Faults(other), blank=True)
    captions = stream_lines(faults, blank=True)
    for number, pair in enumerate(_in_parallel(captions, urls, faults.source, other)):
        (where, caption), (_, url) = pair
        row = None
        with faults:
            if not is_url(url.strip()):
                raise ValueError(f"{other}: line {number + 1}: expected an address, found {shown(url.strip())}")
            row = Row(where, number, keep_captions([(where, caption)], faults), url.strip(), "", None)
        if row is not None:
            yield row


def _rows_of_lists(faults: Faults) -> Iterator[Row]:
    """The rows of an object with the lists ``image_urls`` and ``captions``."""
    urls, captions = (stream_json(faults, f"{key}.item") for key in ("image_urls", "captions"))
    found = _in_parallel(captions, urls, f"{faults.source}: captions", f"{faults.source}: image_urls")
    return _rows_of(((number, (c[0], [c[1], u[1]])) for number, (c, u) in enumerate(found)), faults)


def _in_parallel(first: Iterator[Any], second: Iterator[Any], name: Any, other: Any) -> Iterator[tuple[Any, Any]]:
    end, count = object(), 0
    while True:
        pair = next(first, end), next(second, end)
        if end in pair:
            if pair != (end, end) or not count:
                where = f"one ends after {count:,}" if count else "there is none"
                raise ValueError(f"{name} and {other}: expected as many entries in both, but {where}; copy both again")
            return
        count += 1
        yield pair
