"""Readers of JSON and text files, and errors that name the file and the entry."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Id = int | str

LISTED = 20  # ids that an error names before it counts the rest


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Put the file's name before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path | str) -> Any:
    """The contents of a JSON file, packed by gzip if its name ends so.

    Raises:
        ValueError: The file is no JSON, or was cut off.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (ValueError, EOFError, RecursionError, zlib.error, gzip.BadGzipFile) as error:  # no UTF-8: a ValueError
        raise ValueError(f"{path} is no JSON file ({error}); write it anew, for instance with json.dump") from error


def read_text(path: Path | str) -> str:
    """The contents of a text file, without the mark that some editors put before it.

    Raises:
        ValueError: The file is no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file ({error}); save it as UTF-8") from error


def check_entry(entry: object, keys: Sequence[str], name: str) -> Mapping[str, Any]:
    """The entry; ValueError unless it is an object with `keys`, of which the first is an id."""
    if not isinstance(entry, Mapping) or any(key not in entry for key in keys):
        raise ValueError(f"{name} must be an object with {', '.join(keys)}, but is {str(entry)[:80]}")
    if not isinstance(entry[keys[0]], int | str) or isinstance(entry[keys[0]], bool):
        raise ValueError(f"{name}: {keys[0]} must be a whole number or text, but is {entry[keys[0]]!r}")
    return entry


def some(ids: Sequence[Id]) -> str:
    """The first ids, and how many more there are."""
    more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
    return ", ".join(repr(sample) for sample in ids[:LISTED]) + more
