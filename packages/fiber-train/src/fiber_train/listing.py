"""What a command found, image by image: as text, JSON, lines of JSON, a CSV table, or a data set in COCO's form."""

from __future__ import annotations

import csv
import io
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

FORMATS = ("text", "json", "jsonl", "csv")


@dataclass(frozen=True)
class Found:
    """What was found for one image, pair or query.

    Attributes:
        record: For JSON: plain values.
        rows: For CSV: the same, flat; all have the same keys.
        text: For people: lines without the image's name.
        coco: For COCO's form: `(height, width)` of the image, and each box's name, score and corners.
    """

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    text: str
    coco: tuple[tuple[int, int], list[tuple[str, float, list[float]]]] | None = field(default=None, repr=False)


class Listing(Protocol):
    """Takes what is found, one by one, and writes it."""

    def add(self, found: Found) -> None:
        """One more."""

    def close(self) -> None:
        """All were added."""


def add_listing(parser: ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """`--format` and `--out`, for `listing`."""
    parser.add_argument("--format", choices=formats, default="text", help="how to write what is found (%(default)s)")
    parser.add_argument("--out", type=Path, help="file to write it to; printed by default")


@contextmanager
def listing(options: Namespace, several: bool) -> Iterator[Listing]:
    """Where to add what is found.

    Lines appear as they are added, so that nothing is lost if a command is stopped; JSON and COCO's form at the end.

    Args:
        options: With `--format` and `--out`, which was claimed.
        several: Whether text needs the names of the images, or the queries.
    """
    with _opened(options.out) as stream:
        made = _KINDS[options.format](stream, several)
        yield made
        made.close()


@contextmanager
def _opened(path: Path | None) -> Iterator[Any]:
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from fiber_train.writing import explained

    with explained(path), path.open("w", encoding="utf-8", newline="") as file:
        try:
            yield file
        except BaseException:
            file.flush()
            if not path.stat().st_size:
                path.unlink()
            raise


class _Lines:
    """Text, or lines of JSON."""

    def __init__(self, stream: Any, line: Callable[[Found], str]) -> None:
        self._stream, self._line = stream, line

    def add(self, found: Found) -> None:
        self._stream.write(self._line(found))
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to write."""


def _text(stream: Any, several: bool) -> Listing:
    def line(found: Found) -> str:
        name = "  ".join(
            found.record[key] for key in ("image", "left", "right", "query") if several and key in found.record
        )
        return (f"{name}\n" if name else "") + (f"{found.text}\n" if found.text else "") + ("\n" if name else "")

    return _Lines(stream, line)


def _json_lines(stream: Any, several: bool) -> Listing:
    return _Lines(stream, lambda found: json.dumps(found.record, ensure_ascii=False) + "\n")


class _Table:
    """CSV with a line of names."""

    def __init__(self, stream: Any, several: bool) -> None:
        self._stream, self._named = stream, False

    def add(self, found: Found) -> None:
        text = io.StringIO()
        for row in found.rows:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            if not self._named:
                writer.writeheader()
                self._named = True
            writer.writerow(row)
        self._stream.write(text.getvalue())
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to write."""


class _List:
    """One JSON list."""

    def __init__(self, stream: Any, several: bool) -> None:
        self._stream, self._records = stream, list[dict[str, Any]]()

    def add(self, found: Found) -> None:
        self._records.append(found.record)

    def close(self) -> None:
        self._stream.write(json.dumps(self._records, ensure_ascii=False, indent=1) + "\n")


class _Coco:
    """Images, categories and annotations with scores, which annotation tools open."""

    def __init__(self, stream: Any, several: bool) -> None:
        self._stream = stream
        self._images: list[dict[str, Any]] = []
        self._boxes: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, found: Found) -> None:
        assert found.coco is not None, "only boxes have COCO's form"
        (height, width), boxes = found.coco
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": found.record["image"], "width": width, "height": height})
        for name, score, (left, top, right, bottom) in boxes:
            category = self._categories.setdefault(name, len(self._categories) + 1)
            box = {"id": len(self._boxes) + 1, "image_id": image, "category_id": category, "score": score, "iscrowd": 0}
            sides = [left, top, right - left, bottom - top]
            self._boxes.append(box | {"bbox": sides, "area": sides[2] * sides[3]})

    def close(self) -> None:
        categories = [{"id": number, "name": name} for name, number in self._categories.items()]
        content = {"images": self._images, "annotations": self._boxes, "categories": categories}
        self._stream.write(json.dumps(content, ensure_ascii=False) + "\n")


_KINDS: dict[str, Callable[[Any, bool], Listing]] = {
    "text": _text,
    "json": _List,
    "jsonl": _json_lines,
    "csv": _Table,
    "coco": _Coco,
}
