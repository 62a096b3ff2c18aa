"""Captions of the web with the addresses of their images, and Visual Genome's regions and questions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

from fuzz.target import Documents
from fuzz.targets.readers import ReaderTarget

_CAPTIONS = ["a dog runs over the street", "Ein Hund läuft – schnell", "two red squares, left of a circle", "自行车"]
_URLS = [f"http://static.example.org/{row}/{row}_a.jpg?x=1" for row in range(4)]
_BESIDE = tuple(f"images/{row}_a.jpg" for row in range(4))


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def _columns(*columns: list[str]) -> str:
    return "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))


def _regions() -> list[dict[str, Any]]:
    places = [(1, ["a dog", "the red ball"]), (2, ["Straße"]), (5, ["a boat", "two boats", "water"])]
    return [
        {
            "id": number,
            "regions": [
                {"region_id": 10 * number + row, "image_id": number, "phrase": text, "x": 1, "y": 2, "width": 9}
                for row, text in enumerate(texts)
            ],
        }
        for number, texts in places
    ]


def _asked() -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "qas": [
                {"qa_id": 100 * number + row, "image_id": number, "question": f"What is {row}?", "answer": answer}
                for row, answer in enumerate(answers)
            ],
        }
        for number, answers in [(1, ["A dog.", "Nothing."]), (2, ["Überall."]), (5, ["Two."])]
    ]


def _about() -> list[dict[str, Any]]:
    return [{"image_id": number, "coco_id": coco, "url": "http://x"} for number, coco in [(1, 7), (2, None), (5, 9)]]


def _karpathy() -> dict[str, Any]:
    return {"images": [{"cocoid": number, "split": split} for number, split in [(7, "train"), (8, "test"), (9, "val")]]}


def _of_lines(documents: Documents) -> Mapping[str, int]:
    (first, *_) = documents.values()
    return {"samples": sum(bool(row.strip()) if isinstance(row, str) else True for row in first)}


def _of_lists(documents: Documents) -> Mapping[str, int]:
    return {"samples": len(documents["sbu.json"]["captions"])}


def _of_header(documents: Documents) -> Mapping[str, int]:
    (rows,) = documents.values()
    return {"samples": len(rows) - 1}


def _listed(key: str, of_samples: bool = False) -> Callable[[Documents], Mapping[str, int]]:
    def count(documents: Documents) -> Mapping[str, int]:
        (images,) = documents.values()
        things = sum(len(image[key]) for image in images)
        return {"samples": things} if of_samples else {"samples": len(images), "captions": things}

    return count


_SHARED: dict[str, Any] = {"split": None, "sample": "CaptionSample", "counted": {"captions": "captions"}, "share": 0.3}
_WEB: dict[str, Any] = {**_SHARED, "counted": {}, "beside": _BESIDE}
_NUMBERED: dict[str, Any] = {**_WEB, "uncompared": ("id",)}


class ParallelTarget(ReaderTarget):
    """Lists that run in parallel: one that is in another order changes all samples."""

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None


_IN_GENOME = ("VG_100K/1.jpg", "VG_100K/2.jpg", "VG_100K_2/5.jpg")
_ROWS = [
    {"caption": text, "url": url, "id": 7 + row} for row, (text, url) in enumerate(zip(_CAPTIONS, _URLS, strict=True))
]
TARGETS = [
    ParallelTarget(
        "sbu",
        {"sbu_captions.txt": "\n".join(_CAPTIONS), "sbu_urls.txt": "\n".join(_URLS)},
        format="sbu",
        expected=_of_lines,
        **_NUMBERED,
    ),
    ParallelTarget(
        "sbu_lists",
        {"sbu.json": _json({"image_urls": _URLS, "captions": _CAPTIONS})},
        format="sbu",
        expected=_of_lists,
        **_NUMBERED,
    ),
    ReaderTarget(
        "sbu_packed",
        {"sbu.json.gz": gzip.compress(_json(_ROWS).encode(), mtime=0)},
        format="sbu",
        expected=lambda documents: {},
        **_WEB,
    ),
    ReaderTarget("sbu_objects", {"sbu.json": _json(_ROWS)}, format="sbu", expected=_of_lines, **_WEB),
    ReaderTarget(
        "conceptual_captions",
        {"Train_GCC-training.tsv": _columns(_CAPTIONS, _URLS)},
        format="conceptual_captions",
        expected=_of_lines,
        **_NUMBERED,
    ),
    ReaderTarget(
        "conceptual_pairs",
        {"train_annot.json": _json([[f"{row}_a.jpg", text] for row, text in enumerate(_CAPTIONS)])},
        format="conceptual_captions",
        expected=_of_lines,
        **_NUMBERED,
    ),
    ReaderTarget(
        "conceptual_table",
        {"cc12m.tsv": _columns(["url", *_URLS], ["caption", *_CAPTIONS], ["id", "a", "b", "c", "d"])},
        format="conceptual_captions",
        expected=_of_header,
        **_WEB,
    ),
    ReaderTarget(
        "visual_genome",
        {"region_descriptions.json": _json(_regions())},
        format="visual_genome",
        expected=_listed("regions"),
        beside=_IN_GENOME,
        **_SHARED,
    ),
    ReaderTarget(
        "visual_genome_questions",
        {"question_answers.json": _json(_asked())},
        format="visual_genome_questions",
        expected=_listed("qas", of_samples=True),
        beside=_IN_GENOME,
        **{**_SHARED, "counted": {}, "sample": "QuestionSample"},
    ),
]
