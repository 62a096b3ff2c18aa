"""Rows of Arrow and parquet files, one at a time, whose images are read from their place when they are asked for.

Columns of bytes, and Hugging Face's images (bytes and path), are images. Of Arrow files without compression, as they
are mostly written, an image is a part of the file (`StoredImage`); of others, and of parquet, a cell (`TableImage`),
for which a whole group of rows is read: in order that is quick, in random order it is not.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fiber_data.formats.files import ImageFinder, portable_names
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import read_name
from fiber_data.urls import is_url

_ROWS = 1000  # made to Python's values at once


@dataclass(frozen=True)
class StoredImage:
    """An image file inside of another file; `fiber_data.load_image` takes it as a file object.

    Attributes:
        file: The file that holds it.
        key: What it is called there.
        offset: Where its bytes begin.
        size: How many they are.
        is_text: Whether they are written in base 64.
    """

    file: Path
    key: str
    offset: int
    size: int
    is_text: bool = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.file}: {self.key}"

    def read(self, _size: int = -1, /) -> bytes:
        """The whole image file.

        Raises:
            OSError: The file is gone, has become shorter, or holds no base 64 there.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.file} ends inside of {self.key}; copy it again")
        try:
            return base64.b64decode(content, validate=True) if self.is_text else content
        except binascii.Error as error:
            raise OSError(f"{self.name}: expected base 64 ({error})") from error


@dataclass(frozen=True)
class TableImage:
    """An image in a cell of a table that is compressed; `fiber_data.load_image` takes it as a file object.

    Attributes:
        file: An Arrow or parquet file.
        column: The column, or ``column.bytes``.
        group: The number of its group of rows.
        row: The row in that group.
    """

    file: Path
    column: str
    group: int
    row: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.file}: {self.column}, row {self.row} of group {self.group}"

    def read(self, _size: int = -1, /) -> bytes:
        """The whole image file.

        Raises:
            OSError: The table is gone, cannot be read, or has nothing there.
        """
        import pyarrow as pa

        try:
            about = self.file.stat()
            column = _column(self.file, self.column, self.group, (about.st_mtime_ns, about.st_size))
            content = column[self.row].as_py()
        except (pa.ArrowException, IndexError, KeyError, StopIteration) as error:
            raise OSError(f"{self.name}: cannot be read ({error})") from error
        if content is None:
            raise OSError(f"{self.name}: the cell is empty")
        return content


def stream_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, each with its location.

    Args:
        path: An Arrow file (of either kind) or a parquet file.

    Returns:
        Rows as dicts; images are a `StoredImage` or `TableImage`, or a text where the table has no more than a path.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table, or is cut off.
    """
    import pyarrow as pa

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    number = 0
    try:
        for group in _parquet(path) if path.suffix == ".parquet" else _arrow(path):
            for row in group:
                yield f"{path}: row[{number}]", row
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: row[{number}]: cannot be read ({reason}); copy the file again") from error


def image_of_cell(value: Any, finder: ImageFinder, where: str) -> Any:
    """The image of a cell: as it is stored, or the file that a text names.

    Args:
        value: As `stream_table` gives it, also None.
        finder: Where files are sought.
        where: File and row, for messages.

    Raises:
        ValueError: It is no image.
    """
    if value is None or isinstance(value, StoredImage | TableImage | bytes) or is_url(value):
        return value
    return finder.find(portable_names(read_name(value, "an image, as bytes or as the name of a file,", where)))


def finder_beside(path: Path, root: Path, listing: FolderListing) -> ImageFinder:
    """Where the files lie that a table names: beside it, or in the folder of the data set, mostly below ``images``."""
    return ImageFinder([each for base in (path.parent, root) for each in (base, base / "images")], listing)


def column_names(path: Path) -> list[str]:
    """The names of a table's columns; none of what is no table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names if path.suffix == ".parquet" else next(_batches(path))[0].names
    except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError):
        return []


def _batches(path: Path) -> Iterator[tuple[Any, Any, int, int]]:
    """The schema, then each batch with the schema and where the file lies in memory."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        whole = file.read_buffer()
        try:
            reader = pa.ipc.open_file(whole)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pa.ArrowInvalid:  # what `datasets` writes
            reader = pa.ipc.open_stream(whole)
            batches = iter(reader)
        yield reader.schema, None, whole.address, whole.size
        for batch in batches:
            yield reader.schema, batch, whole.address, whole.size


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _image_columns(schema: Any) -> dict[str, bool]:
    """Columns that hold images, and whether bytes stand beside a path."""
    import pyarrow as pa

    found = {}
    for field in schema:
        if _is_bytes(field.type):
            found[field.name] = False
        elif pa.types.is_struct(field.type) and {"bytes", "path"} <= {each.name for each in field.type}:
            found[field.name] = True
    return found


def _arrow(path: Path) -> Iterator[Iterator[dict[str, Any]]]:
    for group, (schema, batch, base, size) in enumerate(_batches(path), start=-1):
        if batch is not None:
            batch.validate(full=True)  # what a damaged file says of places would be read elsewhere in memory
            yield _rows(path, group, schema, batch, base, size)


def _rows(path: Path, group: int, schema: Any, batch: Any, base: int, size: int) -> Iterator[dict[str, Any]]:
    images = _image_columns(schema)
    plain = [name for name in schema.names if name not in images]
    places = {name: _places(batch.column(name), base, size, paired) for name, paired in images.items()}
    for start in range(0, batch.num_rows, _ROWS):
        part = batch.slice(start, _ROWS)
        for step, row in enumerate(part.select(plain).to_pylist() if plain else [{}] * part.num_rows):
            place = start + step
            for name, paired in images.items():
                offsets, paths = places[name]
                column = f"{name}.bytes" if paired else name
                row[name] = _image(path, column, group, place, offsets, paths)
            yield row


def _image(path: Path, column: str, group: int, row: int, offsets: Any, paths: Any) -> Any:
    if offsets is None:
        return TableImage(path, column, group, row)
    first, data, valid = offsets
    if not valid[row].as_py():
        return None if paths is None else paths[row].as_py()
    start, end = int(first[row]), int(first[row + 1])
    return StoredImage(path, f"{column}, row {row} of group {group}", data + start, end - start)


def _places(column: Any, base: int, size: int, paired: bool) -> tuple[Any, Any]:
    """Where bytes lie in the file: offsets, their origin and what is null; None where they are compressed."""
    import numpy as np
    import pyarrow as pa

    paths = column.field("path") if paired else None
    values = column.field("bytes") if paired else column
    _, offsets, data = values.buffers()
    if data is None:
        return (np.zeros(len(values) + 1, np.int64), 0, values.is_valid()), paths
    if not base <= data.address <= base + size:
        return None, paths
    kind = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    return (np.frombuffer(offsets, kind)[values.offset :], data.address - base, values.is_valid()), paths


def _parquet(path: Path) -> Iterator[Iterator[dict[str, Any]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        images = _image_columns(file.schema_arrow)
        plain = [name for name in file.schema_arrow.names if name not in images]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=plain)
            table.validate(full=True)
            rows = table.to_pylist()
            rows = rows or [{} for _ in range(file.metadata.row_group(group).num_rows)]
            for place, row in enumerate(rows):
                for name, paired in images.items():
                    row[name] = TableImage(path, f"{name}.bytes" if paired else name, group, place)
            yield iter(rows)


@lru_cache(maxsize=2)
def _column(path: Path, column: str, group: int, stamp: tuple[int, int]) -> Any:
    """A column of one group of rows of the file as it is now; some are kept, for rows are mostly read in order."""
    import pyarrow.parquet as pq

    name, _, part = column.partition(".")
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
    else:
        values = next(batch for number, (_, batch, *_) in enumerate(_batches(path), start=-1) if number == group)[name]
    values.validate(full=True)
    return values.field(part) if part else values
