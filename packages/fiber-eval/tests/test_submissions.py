"""Files for servers are refused in a sentence that names the entry, before the server does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fiber_eval.submissions import check_submission

ANSWER = {"question_id": 1, "answer": "two"}
CAPTION = {"image_id": 1, "caption": "a dog"}
BOX = {"image_id": 1, "category_id": 3, "bbox": [0.5, 1, 20, 0], "score": 0.25}


@pytest.mark.parametrize(("name", "content", "ids"), [
    ("vqa", [ANSWER, ANSWER | {"question_id": 2}], [2, 1]),
    ("captions", [CAPTION], [1]),
    ("coco", [BOX] * 100, [1, 2]),
    ("lvis", [BOX] * 300, None),
    ("coco", [], [1]),
    ("nlvr2", "test1-0-0-0,True\ntest1-0-0-1,False\n", ["test1-0-0-1", "test1-0-0-0"]),
])  # fmt: skip
def test_what_a_server_takes(name: str, content: Any, ids: list[Any] | None) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    check_submission(name, text, ids)
    check_submission(name, text.encode(), ids)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("vqa", "[", "the file is no JSON"),
    ("vqa", ANSWER, "expected a list of objects with question_id, answer, found {'question_id': 1"),
    ("vqa", [ANSWER | {"answer": 2}], "entry 0: answer must be text, is 2"),
    ("vqa", [ANSWER | {"question_id": "1"}], "entry 0: question_id must be a whole number, is '1'"),
    ("vqa", [ANSWER | {"score": 1}], "entry 0: expected question_id, answer alone, found 'score' too; leave it out"),
    ("vqa", [ANSWER, ANSWER], "1 questions come more than once: 1; keep one prediction of each"),
    ("vqa", [], "1 of 1 questions have no prediction: 1; predict for each"),
    ("captions", [CAPTION | {"image_id": 2}], "1 images are not of the split: 2"),
    ("captions", [{"image_id": 1}], "entry 0 must be an object with image_id, caption"),
    ("coco", [BOX] * 101, "1 images have more than 100 detections: 1; keep the best 100 of each"),
    ("lvis", [BOX] * 301, "more than 300 detections"),
    ("coco", [BOX | {"bbox": [0, 0, -1, 2]}], r"entry 0: bbox must be \[x, y, width, height\] in pixels, is \[0, 0, -1"),
    ("coco", [BOX | {"bbox": [0, 0, 1]}], "bbox must be"),
    ("coco", [BOX | {"score": True}], "score must be a number, is True"),
    ("coco", [BOX | {"category_id": "dog"}], "category_id must be a whole number, is 'dog'"),
    ("coco", [BOX | {"image_id": 9}], "1 images are not of the split: 9"),
    ("nlvr2", "a,True\nb,yes\n", "line 2: expected 'identifier,True' or 'identifier,False', found 'b,yes'"),
    ("nlvr2", "1,True\n1,True\n", "1 examples come more than once"),
    ("refcoco", [], "expected a format of vqa, captions, coco, lvis, nlvr2, not 'refcoco'"),
])  # fmt: skip
def test_what_a_server_refuses_is_one_sentence(name: str, content: Any, message: str) -> None:
    ids = None if name == "nlvr2" else [1]
    with pytest.raises(ValueError, match=message):
        check_submission(name, content if isinstance(content, str) else json.dumps(content), ids)
