"""VQA accuracy equals the official evaluator, question by question."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from fiber_eval.question_answering import VQAAccuracy, normalize_answer, score_files, strip_punctuation, vqa_accuracy


@pytest.fixture(scope="module")
def vqa_reference(eval_reference: Path) -> Path:
    return eval_reference / "vqa"


def question(number: int | list, answers: list[str], answer_type: str = "other", question_type: str = "what") -> dict:
    people = [{"answer": text, "answer_id": index} for index, text in enumerate(answers, 1)]
    return {"question_id": number, "question_type": question_type, "answer_type": answer_type, "answers": people}


def accuracy(answer: str, people: list[str]) -> float:
    return vqa_accuracy({1: answer}, [question(1, people)])["overall"]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# Equal to the official evaluator


def test_official_numbers(vqa_reference: Path):
    golden = json.loads((vqa_reference / "golden.json").read_text())
    result = score_files(vqa_reference / "annotations.json.gz", vqa_reference / "results.json.gz", per_question=True)
    per_question = {str(number): percent for number, percent in result.pop("perQuestion").items()}
    assert per_question == pytest.approx(golden["per_question"], rel=0, abs=1e-9)
    for group in ("perQuestionType", "perAnswerType"):
        assert result[group] == pytest.approx(golden["accuracy"][group], rel=0, abs=1e-9)
    assert result["overall"] == pytest.approx(golden["accuracy"]["overall"], rel=0, abs=1e-9)


def test_official_numbers_from_batches(vqa_reference: Path):
    annotations = json.loads(gzip.decompress((vqa_reference / "annotations.json.gz").read_bytes()))["annotations"]
    results = json.loads(gzip.decompress((vqa_reference / "results.json.gz").read_bytes()))
    golden = json.loads((vqa_reference / "golden.json").read_text())
    metric = VQAAccuracy(annotations)
    for start in range(0, 600, 64):  # backwards, and every batch holds some samples of the last again
        batch = results[max(0, 536 - start) : 610 - start]
        metric.update([each["answer"] for each in batch], ids=torch.tensor([each["question_id"] for each in batch]))
    result = metric.compute()
    assert result["overall"].item() == golden["accuracy"]["overall"]
    assert {name: value.item() for name, value in result["perAnswerType"].items()} == golden["accuracy"][
        "perAnswerType"
    ]
    assert {str(name): value for name, value in metric.per_question().items()} == golden["per_question"]


def test_official_normalization(vqa_reference: Path):
    cases = json.loads((vqa_reference / "normalise_cases.json").read_text())
    assert len(cases) == 173
    assert {case["input"]: normalize_answer(case["input"]) for case in cases} == {
        case["input"]: case["normalised"] for case in cases
    }
    tidy = {case["input"]: case["input"].replace("\n", " ").replace("\t", " ").strip() for case in cases}
    assert {case["input"]: strip_punctuation(tidy[case["input"]]) for case in cases} == {
        case["input"]: case["after_punctuation"] for case in cases
    }


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        # the official table: two apostrophes, each way to lose one of them
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("y'alldve", "y'alldve"),
        ("y'all'dve", "y'all'd've"),
        ("'ows'at", "'ow's'at"),
        # its gaps and its slip
        ("its", "its"),
        ("shes", "shes"),
        ("Im", "im"),
        ("somebody'd", "somebodyd"),
        # none of the official code's periods after the thirty-second goes away
        ("." * 40, "." * 8),
    ],
)
def test_quirks_of_the_official_code(text: str, normalized: str):
    assert normalize_answer(text) == normalized


# What counts


@pytest.mark.parametrize(("agree", "percent"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (9, 100)])
def test_agreement_with_all_but_one(agree: int, percent: float):
    assert accuracy("cat", ["cat"] * agree + [f"dog {index}" for index in range(10 - agree)]) == percent


def test_unanimous_people_are_compared_as_they_wrote():
    assert accuracy("Yes", ["yes"] * 10) == 0
    assert accuracy(" yes\n", ["yes"] * 10) == 100
    assert accuracy("Yes", ["yes"] * 9 + ["yes."]) == 100  # not all the same: both sides are normalized


def test_equal_answers_need_no_answer_id():
    entry = question(1, ["cat"] * 8 + ["dog"] * 2)
    for each in entry["answers"]:
        del each["answer_id"]
    assert vqa_accuracy({1: "cat"}, [entry])["overall"] == 100
    assert vqa_accuracy({1: "dog"}, [entry])["overall"] == 60


def test_groups_and_rounding():
    annotations = [
        question(1, ["2"] * 10, "number", "how many"),
        question(2, ["no"] * 10, "yes/no", "is it"),
        question(3, ["yes"] * 10, "yes/no", "is it"),
        question(4, ["no"] * 10, "yes/no", "is there"),
    ]
    result = vqa_accuracy({1: "2", 2: "no", 3: "no", 4: "yes"}, annotations)
    assert result["perAnswerType"] == {"number": 100, "yes/no": 33.33}
    assert result["perQuestionType"] == {"how many": 100, "is it": 50, "is there": 0}
    assert result["overall"] == 50


# Errors


@pytest.mark.parametrize(
    ("ids", "answers", "message"),
    [
        ([9], ["yes"], "^9: no question of the 2 annotated ones"),
        ([1, 2], ["yes"], "answers must be one for each of the 2 ids, but 1 came"),
        ([1], [None], "the answer to question 1 must be text, but is None"),
        ([1, 1], ["yes", "no"], "question 1 came twice with different predictions"),
    ],
)
def test_update_refuses(ids: list, answers: list, message: str):
    metric = VQAAccuracy([question(1, ["yes"] * 10), question(2, ["no"] * 10)])
    with pytest.raises(ValueError, match=message):
        metric.update(answers, ids=ids)
    metric.update(["yes", "no"], ids=[1, 2])  # nothing of the refused batch stayed
    assert metric.compute()["overall"] == 100


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([], "the annotations hold no question"),
        ([question(1, ["a"]), question(1, ["a"])], "question 1 is annotated twice"),
        ([{"question_id": 1}], "annotation 0 must be an object with question_id, question_type, answer_type, answers"),
        ([question(1, [])], "annotation 0, question 1, must have a list of at least one answer"),
        ([question([1], ["a"])], r"annotation 0: question_id must be a whole number or text, but is \[1\]"),
        ([question(True, ["a"])], "annotation 0: question_id must be a whole number or text, but is True"),
        ([{**question(1, ["a"]), "answer_type": ["a"]}], r"annotation 0, question 1: answer_type must be text, but is"),
        ([{**question(1, ["a"]), "answers": ["a"]}], "each of its answers must hold a text 'answer'"),
    ],
)
def test_annotations_refused(annotations: list, message: str):
    with pytest.raises(ValueError, match=message):
        VQAAccuracy(annotations)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("[{", "Expecting property name"),
        ({"1": "yes"}, "expected a JSON list of answers, but found dict"),
        (
            [{"question_id": 1, "answer": "yes"}, {"question_id": 2}],
            "entry 1 must be an object with question_id, answer",
        ),
        ([{"question_id": 1, "answer": "yes"}] * 2, "entry 1: question 1 came before"),
        ([{"question_id": 1, "answer": 3}], "the answer to question 1 must be text, but is 3"),
        ([{"question_id": 8, "answer": "yes"}], "8: no question of the 2 annotated ones"),
        ([{"question_id": 1, "answer": "yes"}], "1 of 2 questions have no prediction: 2;"),
    ],
)
def test_malformed_results(tmp_path: Path, results: object, message: str):
    annotations = {"annotations": [question(1, ["yes"] * 10), question(2, ["no"] * 10)]}
    with pytest.raises(ValueError, match=rf"results\.json.*{message}"):
        score_files(write(tmp_path / "annotations.json", annotations), write(tmp_path / "results.json", results))


def test_malformed_annotations(tmp_path: Path):
    annotations = write(tmp_path / "annotations.json", [question(1, ["yes"])])
    with pytest.raises(ValueError, match=r"annotations\.json: expected a JSON object with a list 'annotations'"):
        score_files(annotations, write(tmp_path / "results.json", []))
