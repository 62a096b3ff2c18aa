"""GLIP's tables of boxes, such as Objects365: images in base 64, read from their place when they are asked for.

``NAME.yaml`` says which files belong together: ``img`` (rows of key and image, the image in the last column), ``label``
(key and JSON: objects ``{class, rect: [x1, y1, x2, y2]}``, or these under ``objects``), ``hw`` (height and width),
``linelist`` (rows to use), ``labelmap`` or ``jsondict`` (names to numbers). ``.lineidx`` beside an image table has
where its rows begin; without it the table is read through once for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, Unpack, cast

from fiber_data.formats.boxes import read_size
from fiber_data.formats.detection import DetectionData, DetectionSample
from fiber_data.formats.faults import BadEntries, Faults
from fiber_data.formats.files import FileOfSplitNotFoundError, SplitFile, check_folder
from fiber_data.formats.ids import Id, read_id, shown, shown_path, whole
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.plain_records import read_boxes_of, read_size_of
from fiber_data.formats.records import stream_lines
from fiber_data.formats.samples import read_json, read_name, read_text, require
from fiber_data.formats.splits import collected, of_split
from fiber_data.formats.tables import StoredImage

_LINE = re.compile(r"""(\w+)\s*:\s*["']?([^"'#]+?)["']?\s*(#.*)?""")
_DIGITS = 19  # of a number that 64 bits do not always hold
_TAIL = 64  # bytes in which the line ends of a last row lie, blank lines too
_HEAD = 2**16  # bytes in which all columns but the image lie
_CHUNK = 2**24


class GlipOptions(TypedDict, total=False):
    """What `read_glip_tsv` takes beside root and split.

    - ``check_images``: is taken for likeness with other readers; images are in the table;
    - ``hold_out``: about which share of the images is ``"val"`` where no file has a split in its name;
    - ``annotation_file``: the ``.yaml`` file, if several would fit.
    """

    check_images: bool
    hold_out: float | None
    annotation_file: str | Path | None


def iterate_glip_tsv(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[GlipOptions]
) -> Iterator[DetectionSample]:
    """The samples of `read_glip_tsv`, one by one; of the image table only where rows begin is read."""
    given = options.get("annotation_file")
    path = _find_file(Path(root), split) if given is None else Path(given)
    files = _files_of(path)
    faults.source = files["label"]
    numbers = {name: number for number, name in read_glip_categories(path).items()}

    def make(counted: Faults) -> Iterator[dict[str, Any]]:
        lines = {line for _, line in _whole_numbers(files["linelist"])} if "linelist" in files else None
        seen: set[Id] = set()
        number = -1
        for number, (image, (key, content), size) in enumerate(_rows(files, counted)):
            sample = None
            if lines is not None and number not in lines:
                continue
            with counted:
                found = _read_row(number, image, key, content, size, numbers, counted)
                seen.add(read_id(key, "key", f"{counted.source}: line {number + 1}", seen))
                sample = found
            if sample is not None:
                yield sample
        if beyond := sum(line > number for line in lines or ()):
            counted.note(f"the rows that {files['linelist'].name} names", "are none of the tables", count=beyond)

    is_named = _split_of(path) is not None
    samples = of_split(make, None if is_named else split, options.get("hold_out"), "images", faults)
    yield from cast(Iterator[DetectionSample], samples)


def read_glip_tsv(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[GlipOptions]
) -> DetectionData:
    """Reads the boxes of a split, by the ``*<split>*.yaml`` that the folder holds.

    Args:
        root: Folder of the tables.
        split: Such as ``"train"``; None takes the one file that there is.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `GlipOptions`.

    Returns:
        A sample for each row, whose image is a `fiber_data.formats.tables.StoredImage`; ``id`` is the row's key.

    Raises:
        FileNotFoundError: There is no such folder or file.
        KeyError: A key of the format is missing.
        ValueError: A row is out of format, or the tables do not run in parallel.
        SplitNotFoundError: The folder holds no such file.
    """
    samples = collected(iterate_glip_tsv, root, split, bad_entries, **options)
    given = options.get("annotation_file")
    path = _find_file(Path(root), split) if given is None else Path(given)
    return DetectionData(samples, read_glip_categories(path), path=path, faults=samples.faults)


def find_glip_tsv(root: Path) -> list[SplitFile]:
    """The sets of tables that a folder holds."""
    return [SplitFile(path, _split_of(path), {"annotation_file": path}) for path in _sets(root)]


def read_glip_categories(path: Path) -> dict[int, str]:
    """Names by number: of the label map, else all that the labels name, in alphabetical order.

    Args:
        path: The ``.yaml`` file.
    """
    files = _files_of(path)
    if (file := files.get("labelmap") or files.get("jsondict")) is None:
        quiet, names = Faults(files["label"], strict=False), set[str]()
        for _, content in _texts(quiet):
            with quiet:
                names |= {_class(entry, "") for entry in _objects(content, "")}
        return dict(enumerate(sorted(names), start=1))
    if file.suffix != ".json":
        names_of = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        return dict(enumerate(names_of, start=1))
    content = read_json(file)
    found = content.get("label_to_idx", content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or any(whole(number) is None for number in found.values()):
        raise ValueError(f"{file}: expected numbers by names, found {shown(content)}")
    return dict(sorted((int(number), name) for name, number in found.items() if int(number) > 0))


def _split_of(path: Path) -> str | None:
    found = re.search(r"train|val|test|mini", path.stem)
    return found[0] if found else None


def _sets(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob("*.yaml")) if {"img", "label"} <= _entries(path).keys()]


def _entries(path: Path) -> dict[str, str]:
    try:
        lines = read_text(path).splitlines()
    except ValueError:
        return {}
    return {found[1]: found[2] for line in lines if (found := _LINE.fullmatch(line.strip()))}


def _files_of(path: Path) -> dict[str, Path]:
    files = {key: path.parent / name for key, name in _entries(path).items() if name not in ("null", "~")}
    for key in ("img", "label"):
        if key not in files:
            raise KeyError(f"{path}: no key {key!r}, which names a table")
    listing = FolderListing()
    for file in files.values():
        if file not in listing:
            raise FileNotFoundError(f"{shown_path(file)}: no such file, which {path.name} names")
    return files


def _find_file(root: Path, split: str | None) -> Path:
    check_folder(root)
    there = _sets(root)
    files = [path for path in there if split is None or _split_of(path) == split]
    files = files or [path for path in there if _split_of(path) is None]
    if len(files) == 1:
        return files[0]
    names = ", ".join(path.name for path in files or there) or "no such file"
    if files:
        raise ValueError(f"{root}: several files would fit ({names}); say which with annotation_file")
    raise FileOfSplitNotFoundError(f"{root}: no *.yaml of tables of split {split!r}; there is {names}")


def _rows(files: dict[str, Path], faults: Faults) -> Iterator[tuple[StoredImage, tuple[str, str], str | None]]:
    """The rows of the tables, which run in parallel."""
    sizes = _texts(Faults(files["hw"])) if "hw" in files else None
    for image, label in zip_longest(_images(files["img"]), _texts(faults)):
        if image is None or label is None:
            short, other = (files["label"], files["img"]) if label is None else (files["img"], files["label"])
            raise ValueError(f"{short}: expected as many rows as {other} has, found fewer; copy both again")
        key, size = (image.key, None) if sizes is None else next(sizes, ("", ""))
        if key != image.key:
            raise ValueError(
                f"{files['hw']}: expected the key {shown(image.key)} of {image.file.name}, found {shown(key)}"
            )
        yield image, label, size


def _texts(faults: Faults) -> Iterator[tuple[str, str]]:
    """The key and the other columns of each row."""
    for _, row in stream_lines(faults, blank=True):
        key, _, content = row.rstrip("\r\n").partition("\t")
        yield key, content


def _whole_numbers(path: Path) -> Iterator[tuple[str, int]]:
    """The numbers of a file with one a line, each with its location."""
    for where, line in stream_lines(Faults(path)):
        text = line.strip()
        if not (text.isdecimal() and len(text) < _DIGITS):
            raise ValueError(f"{where}: expected a whole number from 0 on, found {shown(text)}")
        yield where, int(text)


def _images(path: Path) -> Iterator[StoredImage]:
    """The images of a table, none of which is read."""
    starts = _starts(path)
    end, start = path.stat().st_size, next(starts, None)
    with path.open("rb") as file:
        while start is not None:
            following = next(starts, None)
            yield _image(path, file, start, end if following is None else following)
            start = following


def _starts(path: Path) -> Iterator[int]:
    """Where the rows of a table begin."""
    index = path.with_suffix(".lineidx")
    start, size = 0, path.stat().st_size
    if index.is_file():
        before = -1
        for where, begin in _whole_numbers(index):
            if not before < begin < size:
                raise ValueError(
                    f"{where}: expected where a row of {path.name} begins, found {begin}; delete {index.name}"
                )
            yield begin
            before = begin
        return
    with path.open("rb") as file:
        yield from [0] if size else []
        while chunk := file.read(_CHUNK):
            yield from (place for found in re.finditer(b"\n", chunk) if (place := start + found.end()) < size)
            start += len(chunk)


def _image(path: Path, file: BinaryIO, start: int, end: int) -> StoredImage:
    file.seek(start)
    head = file.read(min(_HEAD, end - start))
    first = head.rfind(b"\t") + 1
    key = head.partition(b"\t")[0].decode(errors="replace")
    file.seek(max(start, end - _TAIL))
    tail = file.read(end - max(start, end - _TAIL))
    ending = len(tail) - len(tail.rstrip(b"\r\n"))
    return StoredImage(path, key, start + first, max(0, end - ending - start - first), is_text=True)


def _objects(content: str, where: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    found = require(found, "objects", where) if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{where}: expected labels as a list of objects, found {shown(found)}")
    return found


def _read_row(
    number: int, image: StoredImage, key: str, content: str, size: str | None, numbers: dict[str, int], faults: Faults
) -> dict[str, Any]:
    where = f"{faults.source}: line {number + 1}"
    if image.key != key:
        found = f"found {shown(key)}; they run apart"
        raise ValueError(f"{where}: expected the key {shown(image.key)} of {image.file.name}, {found}")
    height_width = _size(size, image, where)
    boxes, labels = [], []
    for place, entry in enumerate(_objects(content, where)):
        own = f"{where}.objects[{place}]"
        name = _class(entry, own)
        if name not in numbers:
            raise ValueError(f"{own}: expected a class of the label map, found {shown(name)}")
        rect = {"boxes": [{"box": require(entry, "rect", own)}]}
        for _, box, _ in read_boxes_of(rect, height_width, own, faults):
            boxes.append(box)
            labels.append(numbers[name])
    return {
        **{"image": image, "id": key, "size": height_width, "boxes": boxes, "labels": labels},
        "area": [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes],
        "iscrowd": [False] * len(boxes),
    }


def _class(entry: dict[str, Any], where: str) -> str:
    name = require(entry, "class", where)
    return str(name) if whole(name) is not None else read_name(name, "a class", where)


def _size(text: str | None, image: StoredImage, where: str) -> tuple[int, int]:
    """Height and width: of their table, in JSON or as two numbers, else of the image itself."""
    if text is None:
        return read_size_of({}, image, where)
    try:
        found = json.loads(text)
        found = found[0] if isinstance(found, list) else found
    except (ValueError, IndexError, RecursionError):
        parts = text.split()
        is_pair = len(parts) == 2 and all(part.isdecimal() and len(part) < _DIGITS for part in parts)
        found = dict(zip(("height", "width"), map(int, parts), strict=True)) if is_pair else text
    return read_size(found, where)
