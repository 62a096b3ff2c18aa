"""What every caption reader gives, and what they share: reading JSON with clear errors, missing pictures."""

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict


class CaptionSample(TypedDict):
    """A picture with its captions. Readers of other formats add keys of their own (boxes, questions, spans)."""

    image: Path
    captions: list[str]
    id: str | int
    split: NotRequired[str | None]


class SplitNotFoundError(ValueError):
    """The data set has no such split. The message names those that it has."""


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON; the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); is the download complete?") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one a line, each with its place for messages, such as ``captions.jsonl: line 3``.

    Raises:
        ValueError: A line is not JSON, or no object.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: not valid JSON ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected an object, found {type(record).__name__}")
            yield where, record


def require(record: Any, key: str, where: str) -> Any:
    """The value of a key that the format prescribes.

    Args:
        record: A JSON object, or what stands in its place.
        key: The key.
        where: File and place in it, such as ``captions.json: annotations[3]``.

    Raises:
        ValueError: It is no object.
        KeyError: It has no such key.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object with {key!r}, found {type(record).__name__}")
    if key not in record:
        raise KeyError(f"{where}: no key {key!r}, only {', '.join(map(repr, record)) or 'an empty object'}")
    return record[key]


def clean_caption(text: Any, where: str) -> str:
    """A caption with its white space made single; people's files hold stray line ends.

    Raises:
        ValueError: The caption is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"{where}: expected a caption as text, found {type(text).__name__}")
    return " ".join(text.split())


def find_missing(samples: Iterable[CaptionSample]) -> list[Path]:
    """The pictures that are not on disk, each once; folders are listed once, so that large sets are quick."""
    listed: dict[Path, set[str]] = {}
    missing: dict[Path, None] = {}
    for sample in samples:
        folder = sample["image"].parent
        if folder not in listed:
            listed[folder] = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if sample["image"].name not in listed[folder]:
            missing[sample["image"]] = None
    return list(missing)


def keep_usable(samples: list[CaptionSample], source: Path) -> list[CaptionSample]:
    """Leaves out samples without a picture on disk or without a caption, and says so in one warning.

    Args:
        samples: What a reader found.
        source: The annotation file, for the messages.

    Raises:
        FileNotFoundError: Not one picture is there.
    """
    missing = set(find_missing(samples))
    if missing and all(sample["image"] in missing for sample in samples):
        raise FileNotFoundError(
            f"{source}: none of its {len(missing)} pictures is on disk; the first was sought at "
            f"{samples[0]['image']}: check the image root"
        )
    bare = sum(not sample["captions"] for sample in samples)
    if missing or bare:
        example = f" (the first: {min(missing)})" if missing else ""
        warnings.warn(
            f"{source}: of {len(samples)} pictures {len(missing)} are not on disk{example} and {bare} have no caption; "
            "these are left out",
            stacklevel=3,
        )
    return [sample for sample in samples if sample["captions"] and sample["image"] not in missing]
