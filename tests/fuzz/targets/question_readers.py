"""Questions and sentences about images: VQAv2 and NLVR2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fuzz.target import Documents
from fuzz.targets.readers import ReaderTarget

_QUESTIONS = ["What color is the dog?", "How many boats are there?", "Is it raining?", "Wo ist der Hund – links?"]
_ANSWERS = [["brown", "red"], ["2", "two"], ["yes", "no"], ["left", "überall"]]
_TYPES = [("what color is the", "other"), ("how many", "number"), ("is it", "yes/no"), ("none of the above", "other")]


def vqa_annotations(questions: int = len(_QUESTIONS), people: int = 4) -> list[dict[str, Any]]:
    """Annotated questions as VQAv2 has them.

    Args:
        questions: How many, at most those that there are texts for.
        people: How many answered each; the last one differs.
    """
    return [
        {
            "question_id": 1000 + row,
            "image_id": 1 + row // 2,
            "question_type": _TYPES[row][0],
            "answer_type": _TYPES[row][1],
            "multiple_choice_answer": _ANSWERS[row][0],
            "answers": [
                {"answer": _ANSWERS[row][person == people - 1], "answer_confidence": "yes", "answer_id": 1 + person}
                for person in range(people)
            ],
        }
        for row in range(questions)
    ]


def _questions() -> list[dict[str, Any]]:
    return [
        {"question_id": 1000 + row, "image_id": 1 + row // 2, "question": text} for row, text in enumerate(_QUESTIONS)
    ]


def _vqa_files(source: str, subset: str) -> dict[str, str]:
    about = {"data_type": source, "data_subtype": subset, "license": {"name": "CC"}, "info": {"year": 2017}}
    questions = {**about, "task_type": "Open-Ended", "questions": _questions()}
    return {
        f"v2_OpenEnded_{source}_{subset}_questions.json": json.dumps(questions, ensure_ascii=False),
        f"v2_{source}_{subset}_annotations.json": json.dumps(
            {**about, "annotations": vqa_annotations()}, ensure_ascii=False
        ),
    }


def _statements() -> str:
    rows = [
        {"identifier": "dev-850-0-0", "sentence": "There are two dogs.", "label": "True", "validation": {"1": "True"}},
        {"identifier": "dev-850-0-1", "sentence": "One image shows a Hund – läuft.", "label": "False"},
        {"identifier": "dev-7-1-0", "sentence": "The left image is dark.", "label": "False", "synset": "dog"},
        {"identifier": "train-9-3-2", "sentence": "No boat is left.", "label": "True", "directory": "d"},
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _of_questions(documents: Documents) -> Mapping[str, int]:
    (questions,) = (content for name, content in documents.items() if name.endswith("questions.json"))
    (answers,) = (content for name, content in documents.items() if name.endswith("annotations.json"))
    number = sum(len(entry["answers"]) for entry in answers["annotations"])
    return {"samples": len(questions["questions"]), "answers": number}


_VQA: dict[str, Any] = {
    "format": "vqav2",
    "split": "val",
    "sample": "QuestionSample",
    "counted": {"answers": "answers"},
    "expected": _of_questions,
}
_PAIRS = ("dev-850-0", "dev-7-1", "d/train-9-3")
_NAMED = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]}
TARGETS = [
    ReaderTarget(
        "vqav2",
        _vqa_files("mscoco", "val2014"),
        beside=tuple(f"val2014/COCO_val2014_00000000000{number}.jpg" for number in (1, 2)),
        **_VQA,
    ),
    ReaderTarget(
        "vqav2_named_images",
        {**_vqa_files("scenes", "val"), "captions_val.json": json.dumps(_NAMED)},
        beside=("images/val/a.png", "images/val/b.png"),
        **_VQA,
    ),
    ReaderTarget(
        "nlvr2",
        {"dev.json": _statements()},
        forms={"dev.json": ".jsonl"},
        format="nlvr2",
        split="dev",
        sample="ReasoningSample",
        counted={},
        expected=lambda documents: {"samples": len(documents["dev.json"])},
        beside=tuple(f"dev/{pair}-img{side}.png" for pair in _PAIRS for side in (0, 1)),
    ),
]
