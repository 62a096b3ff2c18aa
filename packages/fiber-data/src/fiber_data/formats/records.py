"""Records of large files one at a time, in bounded memory: JSON Lines, CSV and TSV, and lists in JSON; also in gzip.

What cannot be read of a file is a fault of it: of a line, where the others still can be; of the whole, where a file is
cut off. What was read until then is given.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from fiber_data.formats.faults import Faults
from fiber_data.formats.ids import number
from fiber_data.formats.samples import list_some, parse_line
from fiber_data.formats.sources import note_file
from fiber_data.formats.streams import check_depth

TABLES = (".csv", ".tsv")
RECORDS = (".jsonl", *TABLES)
_LISTS = ("answers", "bbox", "box", "boxes", "captions", "images", "objects", "phrases", "span", "spans")
_NUMBERS = ("height", "width", "x1", "x2", "y1", "y2")
DAMAGES = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a file in gzip raises."""
_END: Any = object()


def kind_of(path: Path) -> str:
    """The ending that tells a file's kind, lower case and without that of gzip: ``".jsonl"`` of ``a.jsonl.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def open_bytes(path: Path) -> IO[bytes]:
    """A file as it is, or unpacked, behind its byte-order mark.

    Raises:
        FileNotFoundError: There is no such file.
    """
    note_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    file = cast(BufferedReader, (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb"))
    try:
        if file.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
            file.read(len(BOM_UTF8))
    except DAMAGES:
        file.seek(0)  # said by whoever reads on
    return file


def stream_lines(faults: Faults, *, blank: bool = False) -> Iterator[tuple[str, str]]:
    """The lines of a file that hold anything, each with its location for messages.

    Args:
        faults: Of the file; counts lines that are not in UTF-8.
        blank: Whether lines that hold nothing, or are left out, come too, empty, so that those of two files run in
            parallel.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not in UTF-8, or the file is cut off; not, if the faults are counted.
    """
    path, place = faults.source, 0
    with TextIOWrapper(open_bytes(path), encoding="utf-8", errors="surrogateescape") as lines:
        while True:
            line, text = "", ""
            with faults:
                line = _next_line(lines, path)
            if not line:
                return
            place += 1
            with faults:
                text = _checked(line, f"{path}: line {place}")
            if blank or text.strip():
                yield f"{path}: line {place}", text


def stream_records(faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file, each with its location: objects of JSON Lines, or rows of a table with a line of names.

    Cells of a table are texts, but for numbers of pixels and lists, which are written in JSON. Empty cells are not
    among a row's keys.

    Args:
        faults: Of the file; counts what is out of format.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As of `stream_lines`, or a line is no object, or no row of the table; not, if these are counted.
    """
    if kind_of(faults.source) in TABLES:
        yield from _stream_rows(faults)
        return
    for where, line in stream_lines(faults):
        record = None
        with faults:
            record = parse_line(line, where)
        if record is not None:
            yield where, record


def stream_json(faults: Faults, prefix: str = "item") -> Iterator[tuple[str, Any]]:
    """The entries of a list in a JSON file that need not fit into memory, each with its location.

    Args:
        faults: Of the file.
        prefix: Where the list is, as ijson says it: ``"item"`` for a file that is a list, ``"images.item"`` for one
            below a key.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON in UTF-8, or cut off; not, if this is counted.
    """
    import ijson

    path, place = faults.source, 0
    name = prefix.removesuffix("item").rstrip(".") or "entry"
    with open_bytes(path) as file:
        items = ijson.items(_Shallow(file), prefix, use_float=True)
        while True:
            item = _END
            with faults:
                try:
                    item = next(items, _END)
                except (ijson.JSONError, ValueError, *DAMAGES) as error:
                    reason = str(error).strip().partition("\n")[0]
                    raise ValueError(f"{path}: not valid JSON ({reason}); is the download complete?") from error
            if item is _END:
                return
            yield f"{path}: {name}[{place}]", item
            place += 1


class _Shallow:
    """A file of JSON, read as long as it does not go too deep."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        check_depth(content)
        return content


def _next_line(lines: TextIOWrapper, path: Path) -> str:
    try:
        return lines.readline()
    except DAMAGES as error:
        raise ValueError(f"{path}: cut off or damaged ({error}); copy it again") from error


def _checked(line: str, where: str) -> str:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        found = f"byte {ord(line[error.start]) - 0xDC00:#04x}"
        raise ValueError(f"{where}: expected text in UTF-8, found {found}; save the file as UTF-8") from error
    return line


def _stream_rows(faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = stream_lines(faults)
    header = next(lines, None)
    if header is None:
        return
    delimiter = max("\t,;", key=header[1].count)
    where, names = header[0], None
    with faults:
        names = _names(_next_row(csv.reader([header[1]], delimiter=delimiter, strict=True), lambda: header[0]), where)
    if names is None:
        return

    def texts() -> Iterator[str]:
        nonlocal where
        for where, line in lines:  # noqa: B007  # the location of the row that the reader is at
            yield line

    rows = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        cells: list[str] | None = []
        row = None
        with faults:
            if (cells := _next_row(rows, lambda: where)) is not None:
                row = _row(names, cells, where)
        if cells is None:
            return
        if row is not None:
            yield where, row


def _next_row(rows: Iterator[list[str]], where: Callable[[], str]) -> list[str] | None:
    try:
        return next(rows, None)
    except csv.Error as error:
        remedy = "close the quotes around a text, and double those inside of it"
        raise ValueError(f"{where()}: not a row of a table ({error}); {remedy}") from error


def _names(cells: list[str] | None, where: str) -> list[str]:
    names = [name.strip() for name in cells or []]
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise ValueError(f"{where}: expected each name of a column once, found {list_some(twice)} more than once")
    return names


def _row(names: list[str], cells: list[str], where: str) -> dict[str, Any]:
    if len(cells) > len(names):
        raise ValueError(
            f"{where}: expected {len(names)} cells, found {len(cells)}; put texts that hold the separator in quotes"
        )
    return {name: _cell(name, cell, where) for name, cell in zip(names, cells, strict=False) if cell.strip()}


def _cell(name: str, cell: str, where: str) -> Any:
    """What a cell holds: text, but for lists and numbers of pixels."""
    if name not in _NUMBERS and not (name in _LISTS and cell.lstrip()[:1] in ("[", "{")):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected {name} in JSON, such as [1, 2], found {cell[:40]!r}") from error
    if name in _NUMBERS and number(value) is None:
        raise ValueError(f"{where}: expected {name} as a number, found {cell[:40]!r}")
    return value


def find_records(folder: Path, name: str) -> Path | None:
    """The file of records of a name, such as ``questions``: in JSON Lines or a table, plain or in gzip.

    Raises:
        ValueError: There are several.
    """
    ways = [folder / f"{name}{kind}{packed}" for kind in RECORDS for packed in ("", ".gz")]
    for path in ways:
        note_file(path)
    files = [path for path in ways if path.is_file()]
    if len(files) > 1:
        raise ValueError(f"{folder}: several files would fit ({', '.join(path.name for path in files)}); keep one")
    return files[0] if files else None
