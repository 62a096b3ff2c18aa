"""Ids decide what belongs together: those that are null, or stand for two things, are refused by every metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_eval import (
    CocoAP,
    PhraseGroundingRecall,
    RetrievalRecall,
    coco_ap,
    phrase_grounding_recall,
    referring_accuracy,
    score_captions,
    vqa_accuracy,
)
from fiber_eval.captioning import CaptionScores
from fiber_eval.cli import main
from fiber_eval.flickr30k_entities import Phrase, Sentence

DOG = Phrase("a dog", 0, (), ((10, 10, 50, 50),))
KIND = {"question_type": "is", "answer_type": "yes/no", "answers": [{"answer": "yes"}]}
LABELS = torch.tensor([1])
TRUTH = {"category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}


def annotations(*images: Any) -> dict[str, Any]:
    boxes = [{**TRUTH, "id": number, "image_id": image} for number, image in enumerate(images, 1)]
    return {"images": [{"id": image} for image in images], "categories": [{"id": 1}], "annotations": boxes}


def found(x: float, score: float = 0.9) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor([[x, 10, x + 50, 60]]), "scores": torch.tensor([score]), "labels": LABELS}


@pytest.mark.parametrize("null", [None, float("nan"), True])
def test_null_ids_are_refused(null: Any) -> None:
    expected = "expected an id, a whole number or text, found"
    with pytest.raises(ValueError, match=f"image 1: {expected}"):
        score_captions({2: "a dog", null: "a cat"}, {2: ["a dog"], null: ["a cat"]})
    with pytest.raises(ValueError, match=f"image 0: {expected}"):
        CaptionScores({null: ["a cat"]})
    with pytest.raises(ValueError, match=f"expression 0: {expected}"):
        referring_accuracy({null: ([[0, 0, 9, 9]], [0.5])}, {null: [0, 0, 9, 9]})
    with pytest.raises(ValueError, match="question_id must be a whole number or text"):
        vqa_accuracy({null: "yes"}, [{"question_id": null, **KIND}])
    with pytest.raises(ValueError, match=f"image or sentence 0: {expected}"):
        PhraseGroundingRecall([Sentence(null, 0, "a dog", (DOG,))])
    with pytest.raises(ValueError, match=f"image or sentence 0: {expected}"):
        phrase_grounding_recall({(null, 0): [[[0, 0, 9, 9]]]}, [Sentence("7", 0, "a dog", (DOG,))])
    with pytest.raises(ValueError, match="ids must be those of the annotations, whole numbers or texts"):
        CocoAP(annotations(1)).update([found(10)], ids=[null])
    with pytest.raises(ValueError, match="id must be an integer"):
        coco_ap([], annotations(null))
    with pytest.raises(ValueError, match="image_ids must be integers"):
        RetrievalRecall().update(image_features=torch.ones(1, 2), image_ids=[null])


@pytest.mark.parametrize(
    ("own", "sentence"),
    [("1", "no image of the annotations has such an id"), (1.9, "ids must be"), (torch.tensor(1.0), "ids must be")],
)
def test_ids_of_detection_are_not_rounded(own: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CocoAP(annotations(1)).update([found(10)], ids=[own])


def test_another_image_under_an_id_that_came_before_is_refused() -> None:
    metric = CocoAP(annotations(1))
    metric.update([found(10)], ids=[1])
    metric.update([found(10.01, 0.899)], ids=[1])  # the same, as another batch rounds it
    assert metric.compute()["AP"].item() == pytest.approx(1)
    metric.update([found(10, 0.2)], ids=[1])
    with pytest.raises(
        ValueError, match="image 1 came twice with different predictions or targets; give each image an"
    ):
        metric.compute()
    metric = CocoAP()
    for width in (50, 30):
        metric.update([found(10)], [{"boxes": torch.tensor([[10.0, 10, 10 + width, 60]]), "labels": LABELS}], ids=[7])
    with pytest.raises(ValueError, match="image 7 came twice"):
        metric.compute()


def test_two_sentences_of_one_number_are_refused() -> None:
    with pytest.raises(ValueError, match="sentence 0 of image 7 is annotated twice"):
        PhraseGroundingRecall([Sentence("7", 0, "a dog", (DOG,)), Sentence("7", 0, "a cat", ())])


CAPTION = {"image_id": 1, "caption": "a dog"}
RIGHT = {"image_id": 4, "bbox": [0, 0, 10, 10]}
BEST = '{"boxes": [[0, 0, 10, 10]], "scores": [0.9]}'


@pytest.mark.parametrize(
    ("benchmark", "truth", "results", "message"),
    [
        ("captions", {"images": [{"id": 1}, {"id": 1}], "annotations": [CAPTION]}, [CAPTION], "image 1: id 1 came before"),
        ("captions", {"images": [{"id": None}], "annotations": [CAPTION]}, [CAPTION], "image 0: id must be a whole number"),
        ("captions", {"annotations": [CAPTION]}, [{**CAPTION, "image_id": None}], "image_id must be a whole number or text"),
        ("captions", {"annotations": [CAPTION]}, [CAPTION, CAPTION], "entry 1: image 1 came before"),
        (
            "refcoco",
            {"images": [{"id": 4}], "annotations": [RIGHT]},
            f'{{"4": {BEST}, "4": {BEST}}}',
            "the key '4' came before in its object; keep one of each",
        ),
        (
            "refcoco",
            {"images": [{"id": 4}, {"id": "4"}], "annotations": [RIGHT, {**RIGHT, "image_id": "4"}]},
            f'{{"4": {BEST}}}',
            "the key '4' stands for two expressions, 4 and '4'",
        ),
        ("coco", annotations(1, 1), [], "id 1 is given 2 times"),
        ("coco", annotations(1), [{**TRUTH, "image_id": None, "score": 1}], "image_id must be an integer, but is None"),
    ],
)  # fmt: skip
def test_files_with_such_ids_are_refused(benchmark, truth, results, message, tmp_path: Path, capsys) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    words = [benchmark, "--annotations", str(tmp_path / "truth.json"), "--results", str(tmp_path / "results.json")]
    assert main(words) == 1
    assert message in capsys.readouterr().err
