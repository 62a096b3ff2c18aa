"""What every caption reader gives, and what all readers share: reading JSON with clear errors, texts, ids."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.ids import shown
from fiber_data.formats.sources import note_file
from fiber_data.formats.streams import JsonStream, is_large

if TYPE_CHECKING:
    from fiber_data.formats.faults import Faults
    from fiber_data.images import ImageSource

_LISTED = 5  # ids that a message names


class CaptionSample(TypedDict):
    """An image with its captions. Readers of other formats have keys of their own (boxes, questions, spans)."""

    image: ImageSource
    """A path from our readers; anything that `fiber_data.load_image` takes from yours."""
    captions: list[str]
    id: str | int
    split: NotRequired[str | None]


class SplitNotFoundError(ValueError):
    """The data set has no such split. The message names those that it has."""


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without the byte-order mark that Windows puts before it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is in another encoding.
    """
    _check_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte {error.object[error.start]:#04x}"
        raise ValueError(
            f"{path}: line {line}: expected text in UTF-8, found {found}; save the file as UTF-8"
        ) from error


def _check_file(path: Path) -> None:
    note_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON in UTF-8; the message names the line.
    """
    text = read_text(path)
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); is the download complete?") from error


def open_json(path: Path) -> Any:
    """The content of a JSON file for `entries`; a large one is not read but as its entries are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON in UTF-8; of a large file `entries` raises it.
    """
    _check_file(path)
    return JsonStream(path) if is_large(path) else read_json(path)


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one a line, each with its location for messages, such as ``captions.jsonl: line 3``.

    Raises:
        ValueError: The file is not in UTF-8, or a line is not JSON, or no object.
    """
    for where, line in read_lines(path):
        yield where, parse_line(line, where)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that hold anything, each with its location for messages."""
    _check_file(path)
    lines = _lines_of_large(path) if is_large(path) else io.StringIO(read_text(path), newline=None)
    return ((f"{path}: line {number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def _lines_of_large(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError:
        read_text(path)  # which knows the line
        raise


def parse_line(line: str, where: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: It is not JSON, or no object.
    """
    try:
        record = _parse(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object, found {type(record).__name__}")
    return record


def entries(path: Path, content: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The entries of one list of a file, each with its location for messages, such as ``captions.json: images[3]``.

    Args:
        path: The file.
        content: As of `open_json`.
        key: The key of the list.

    Raises:
        KeyError: The file has no such list.
        ValueError: What it has is no list.
    """
    if isinstance(content, JsonStream):
        return _streamed(path, content, key)
    found = require(content, key, str(path))
    if not isinstance(found, list):
        raise ValueError(f"{path}: expected {key!r} as a list, found {type(found).__name__}")
    return ((f"{path}: {key}[{position}]", entry) for position, entry in enumerate(found))


def _streamed(path: Path, content: JsonStream, key: str) -> Iterator[tuple[str, Any]]:
    position = -1
    for position, entry in enumerate(content.items(key)):
        yield f"{path}: {key}[{position}]", entry
    if position < 0:  # an empty list, or what `entries` refuses
        yield from entries(path, content.outline(), key)


def require(record: Any, key: str, where: str) -> Any:
    """The value of a key that the format prescribes.

    Args:
        record: A JSON object, or what stands in its place.
        key: The key.
        where: File and location in it, such as ``captions.json: annotations[3]``.

    Raises:
        ValueError: It is no object.
        KeyError: It has no such key.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object with {key!r}, found {type(record).__name__}")
    if key not in record:
        raise KeyError(f"{where}: no key {key!r}, only {list_some(record) or 'an empty object'}")
    return record[key]


def clean_caption(text: Any, where: str) -> str:
    """A caption with its white space made single; people's files hold stray line ends.

    Halves of characters (surrogates), which no tokenizer takes, become question marks, here and in other texts.

    Raises:
        ValueError: The caption is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"{where}: expected a caption as text, found {type(text).__name__}")
    return " ".join(whole_characters(text).split())


def keep_captions(texts: Iterable[tuple[str, Any]], faults: Faults) -> list[str]:
    """The captions that say anything, see `clean_caption`; those that do not are counted.

    Args:
        texts: Each with its location.
        faults: Counts what is left out.

    Raises:
        ValueError: A caption is no text.
    """
    captions = [(where, clean_caption(text, where)) for where, text in texts]
    for where, caption in captions:
        if not caption:
            faults.note("the captions", "are left out, being empty", where)
    return [caption for _, caption in captions if caption]


def clean_text(text: Any, what: str, where: str) -> str:
    """A text with its white space made single.

    Args:
        text: What the file holds.
        what: What it ought to be, such as ``"a question"``.
        where: File and location in it.

    Raises:
        ValueError: It is no text, or empty.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: expected {what} as text, found {shown(text)}")
    return " ".join(whole_characters(text).split())


def whole_characters(text: str) -> str:
    """The same text with a question mark for each half of a character, as texts that were cut at a byte have."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def read_name(value: Any, what: str, where: str) -> str:
    """A name of a file, as it is written.

    Raises:
        ValueError: It is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: expected {what} as text, found {shown(value)}")
    return value


def list_some(ids: Iterable[Any]) -> str:
    """The first few of some ids, and how many more there are."""
    listed = list(ids)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(shown(each) for each in listed[:_LISTED]) + more
