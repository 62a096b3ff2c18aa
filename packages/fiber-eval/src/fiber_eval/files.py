"""Readers of JSON and text files, and errors that name the file and the entry."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Id = int | str

LISTED = 20  # ids that an error names before it counts the rest
SHOWN = 80  # characters of a value that an error quotes


class _RepeatedKeyError(Exception):
    """A key that an object of JSON has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys all differ."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(key)
        found[key] = value
    return found


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Put the file's name before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path | str, *, unique_keys: bool = False) -> Any:
    """The contents of a JSON file, packed by gzip if its name ends so.

    Args:
        path: The file.
        unique_keys: Whether keys that repeat in an object are refused, as where they are ids; else the last one counts.

    Raises:
        ValueError: The file is no JSON, was cut off, or has keys that repeat.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        return json.loads(content, object_pairs_hook=_unique if unique_keys else None)
    except _RepeatedKeyError as error:
        raise ValueError(
            f"{path}: the key {shown(error.args[0])} came before in its object; keep one of each"
        ) from None
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


def check_ids(ids: Iterable[Any], name: str) -> None:
    """ValueError if one of the ids that things are known by is none: null, NaN, true or false.

    Args:
        ids: The ids, of any type.
        name: What one of the things is called, such as "question".
    """
    for index, own in enumerate(ids):
        if own is None or isinstance(own, bool) or own != own:
            raise ValueError(
                f"{name} {index}: expected an id, a whole number or text, found {shown(own)}; give each {name} its own"
            )


def check_entry(entry: object, keys: Sequence[str], name: str) -> Mapping[str, Any]:
    """The entry; ValueError unless it is an object with `keys`, of which the first is an id."""
    if not isinstance(entry, Mapping) or any(key not in entry for key in keys):
        raise ValueError(f"{name} must be an object with {', '.join(keys)}, but is {shown(entry)}")
    if not isinstance(entry[keys[0]], int | str) or isinstance(entry[keys[0]], bool):
        raise ValueError(f"{name}: {keys[0]} must be a whole number or text, but is {shown(entry[keys[0]])}")
    return entry


def some(ids: Sequence[Id]) -> str:
    """The first ids, as many as a sentence has room for, and how many more there are."""
    named = [shown(sample) for sample in ids[:LISTED]]
    while len(named) > 1 and sum(map(len, named)) > 3 * SHOWN:
        named.pop()
    more = f" and {len(ids) - len(named)} more" if len(ids) > len(named) else ""
    return ", ".join(named) + more


def shown(value: object) -> str:
    """A value as errors quote it: in one line, and its beginning only if it is long."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def holds_boolean(values: object) -> bool:
    """Whether one of the numbers in lists, or of a tensor or an array, is true or false, which count as 1 or 0."""
    pending = [values]  # no recursion, which deep lists would exhaust
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
            return True
    return False
