"""The plain form, its lines and its tables: questions, statements, boxes, phrases, expressions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from fuzz.target import Documents
from fuzz.targets.box_readers import CategoriesTarget
from fuzz.targets.readers import ReaderTarget

_IMAGES = ("a.jpg", "b/c.jpg", "caf\u00e9.jpg")
_BESIDE = tuple(f"images/{name}" for name in _IMAGES)
_SIZE = {"height": 48, "width": 64}


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    listed = list(rows)
    return "".join(",".join(map(str, each)) + "\n" for each in (listed[0], *(row.values() for row in listed)))


_QUESTIONS: list[dict[str, Any]] = [
    {"image": _IMAGES[0], "question": "What color is the dog?", "answer": "brown", "id": 1},
    {"image": _IMAGES[0], "question": "How many boats?", "answers": ["2", "two", "2"], "id": "q2", "image_id": 7},
    {"file_name": _IMAGES[1], "question": "Wo ist der Hund – links?", "id": 3},
    {"image": _IMAGES[2], "question": "Is it raining?", "answers": [{"answer": "yes"}, {"answer": "no"}], "id": 4},
    {"image": _IMAGES[2], "question": "How many?", "answer": 3, "question_id": 5},
]
_ASKED = [
    {"image": image, "question": f"Where is number {row}?", "answer": ("left", "überall")[row % 2], "id": 10 + row}
    for row, image in enumerate((*_IMAGES, _IMAGES[0]))
]
_STATEMENTS: list[dict[str, Any]] = [
    {"images": [_IMAGES[0], _IMAGES[1]], "sentence": "Both are dark.", "label": True, "id": "s1"},
    {"left": _IMAGES[1], "right": _IMAGES[2], "sentence": "One image shows a Hund – läuft.", "label": "False", "id": 2},
    {"images": [_IMAGES[2], _IMAGES[0]], "statement": "No boat is left.", "label": 1, "id": 3},
    {"images": [_IMAGES[2], _IMAGES[0]], "sentence": "Nobody knows.", "identifier": "x"},
]
_BOXES: list[dict[str, Any]] = [
    {
        "image": _IMAGES[0],
        **_SIZE,
        "boxes": [{"name": "dog", "box": [1, 2, 30, 40]}, {"name": "café", "bbox": [3, 3, 9, 9]}],
    },
    {"file_name": _IMAGES[1], **_SIZE, "boxes": []},
    {"image": _IMAGES[2], "id": 5, **_SIZE, "name": "dog", "box": [4, 4, 20.5, 20]},
    {"image": _IMAGES[2], "id": 5, **_SIZE, "category": "traffic light", "x1": 1, "y1": 2, "x2": 3, "y2": 4},
]
_CORNERS = [
    {"image": image, "name": name, "x1": 2, "y1": 3, "x2": 40 + row, "y2": 30.5, **_SIZE}
    for row, (image, name) in enumerate([(_IMAGES[0], "dog"), (_IMAGES[0], "cat"), (_IMAGES[1], "dog")])
]
_CAPTION = "a dog beside two café tables"
_PHRASES: list[dict[str, Any]] = [
    {
        **{"image": _IMAGES[0], "caption": _CAPTION, **_SIZE, "id": 1},
        "boxes": [{"phrase": "a dog", "box": [1, 2, 30, 40]}, {"span": [13, 28], "bbox": [3, 3, 9, 9]}],
    },
    {"image": _IMAGES[1], "caption": "Ein Hund läuft", **_SIZE, "spans": [[0, 3], [4, 8]], "box": [4, 4, 20.5, 20]},
    {"image": _IMAGES[1], "caption": "Ein Hund läuft", **_SIZE, "phrase": "läuft", "box": [5, 5, 20, 20]},
    {"image": _IMAGES[2], "caption": "nothing to see", **_SIZE, "boxes": []},
]
_EXPRESSIONS: list[dict[str, Any]] = [
    {"image": _IMAGES[0], "expression": "the left dog", "box": [1, 2, 30, 40], **_SIZE, "id": "e1"},
    {"image": _IMAGES[0], "expression": "der Hund – rechts", "bbox": [3, 3, 9, 9], **_SIZE, "image_id": 5},
    {"file_name": _IMAGES[1], "caption": "a boat", "x1": 1, "y1": 2, "x2": 30, "y2": 40, **_SIZE},
    {"image": _IMAGES[2], "sentence": "all of them", "boxes": [{"box": [1, 1, 9, 9]}, {"box": [2, 1, 9, 9]}], **_SIZE},
]


class PlainTarget(ReaderTarget):
    """Lines of which several may be of one sample: one that goes elsewhere changes both samples and is a third."""

    def budget(self, documents: Documents, touched: int) -> int | None:
        return super().budget(documents, 2 * touched)


class PlainBoxesTarget(CategoriesTarget, PlainTarget):
    """The same with categories."""


def _rows(documents: Documents) -> list[dict[str, Any]]:
    """The records of the one file, also of a table."""
    ((name, content),) = documents.items()
    if not name.endswith(".csv"):
        return list(content)
    names, *rows = content
    return [dict(zip(names, row, strict=False)) for row in rows]


def _name(row: Mapping[str, Any]) -> str:
    written = row["image"] if row.get("image") is not None else row["file_name"]
    return str(PurePosixPath(written.strip('"').replace("\\", "/"))).casefold()


def _each(documents: Documents) -> Mapping[str, int]:
    return {"samples": len(_rows(documents))}


def _boxes_of(rows: Iterable[Mapping[str, Any]]) -> int:
    own = [row for row in rows if row.get("boxes") is None]
    several = sum(len(row["boxes"]) for row in rows if row.get("boxes") is not None)
    return several + sum(any(row.get(key) is not None for key in ("box", "bbox", "x1")) for row in own)


def _of_images(documents: Documents) -> Mapping[str, int]:
    rows = _rows(documents)
    return {"samples": len({_name(row) for row in rows}), "boxes": _boxes_of(rows)}


def _of_captions(documents: Documents) -> Mapping[str, int]:
    rows = _rows(documents)
    keys = ("expression", "caption", "sentence")
    texts = {(_name(row), next(row[key] for key in keys if row.get(key) is not None)) for row in rows}
    return {"samples": len(texts), "boxes": _boxes_of(rows)}


_SHARED: dict[str, Any] = {"split": None, "beside": _BESIDE, "share": 0.3}
_ASKING: dict[str, Any] = {"sample": "QuestionSample", "counted": {}, "expected": _each, **_SHARED}
_BOXED: dict[str, Any] = {"sample": "DetectionSample", "counted": {"boxes": "boxes"}, "expected": _of_images, **_SHARED}
_WORDS: dict[str, Any] = {
    "sample": "GroundingSample",
    "counted": {"boxes": "boxes"},
    "expected": _of_captions,
    **_SHARED,
}
TARGETS = [
    PlainTarget("plain_questions", {"questions.jsonl": _lines(_QUESTIONS)}, format="plain_questions", **_ASKING),
    PlainTarget("plain_question_table", {"questions.csv": _table(_ASKED)}, format="plain_questions", **_ASKING),
    PlainTarget(
        "plain_statements",
        {"statements.jsonl": _lines(_STATEMENTS)},
        format="plain_statements",
        **{**_ASKING, "sample": "ReasoningSample"},
    ),
    PlainBoxesTarget("plain_boxes", {"boxes.jsonl": _lines(_BOXES)}, format="plain_boxes", **_BOXED),
    PlainBoxesTarget("plain_box_table", {"boxes.csv": _table(_CORNERS)}, format="plain_boxes", **_BOXED),
    PlainTarget("plain_phrases", {"phrases.jsonl": _lines(_PHRASES)}, format="plain_phrases", **_WORDS),
    PlainTarget("plain_expressions", {"expressions.jsonl": _lines(_EXPRESSIONS)}, format="plain_expressions", **_WORDS),
]
