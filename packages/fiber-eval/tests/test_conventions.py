"""One type of result, options by keyword, messages in one punctuation: the same in every metric and function."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fiber_eval
import pytest
import torch
from fiber_eval import captioning
from torchmetrics import Metric

PUBLIC = {name: getattr(module, name) for module in (fiber_eval, captioning) for name in module.__all__}
DATA = {"annotations", "targets"}  # with a default, since another form goes without them
SOURCES = sorted(Path(fiber_eval.__file__).parent.rglob("*.py"))

BOX = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50]}
LISTS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
TRUTH = {
    "images": [{"id": 7} | LISTS],
    "categories": [{"id": 1, "frequency": "r"}],
    "annotations": [BOX | {"id": 1, "area": 2500}],
}
FOUND = {"boxes": torch.tensor([[10, 10, 60, 50]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([1])}
ENTRY = BOX | {"bbox": [10, 10, 50, 40], "score": 0.5}
QUESTION = {"question_id": 1, "question_type": "is", "answer_type": "yes/no", "answers": [{"answer": "no"}] * 3}
SENTENCE = fiber_eval.Sentence("7", 0, "a dog", (fiber_eval.Phrase("a dog", 0, ("animals",), ((0, 0, 9, 9),)),))
EYE = {"image_features": torch.eye(2), "image_ids": [0, 1]}
EYE |= {"text_features": torch.eye(2), "text_ids": [0, 1], "text_image_ids": [0, 1]}
# The metric, what `update` takes, and the function with what it takes.
CASES: dict[str, tuple[Metric, tuple, dict[str, Any], Any]] = {
    "coco": (fiber_eval.CocoAP(TRUTH), ([FOUND],), {"ids": [7]}, fiber_eval.coco_ap([ENTRY], TRUTH)),
    "lvis": (fiber_eval.LvisAP(TRUTH), ([FOUND],), {"ids": [7]}, fiber_eval.lvis_ap([ENTRY], TRUTH)),
    "vqa": (
        fiber_eval.VQAAccuracy([QUESTION]),
        (["no"],),
        {"ids": [1]},
        fiber_eval.vqa_accuracy({1: "no"}, [QUESTION]),
    ),
    "nlvr2": (
        fiber_eval.NLVR2Accuracy({"dev-0-0-0": True}),
        ([True],),
        {"ids": ["dev-0-0-0"]},
        fiber_eval.nlvr2_accuracy({"dev-0-0-0": True}, {"dev-0-0-0": True}),
    ),
    "refcoco": (
        fiber_eval.ReferringAccuracy({1: [0, 0, 9, 9]}),
        ([[[0, 0, 9, 9]]], [[0.5]]),
        {"ids": [1]},
        fiber_eval.referring_accuracy({1: ([[0, 0, 9, 9]], [0.5])}, {1: [0, 0, 9, 9]}),
    ),
    "flickr30k": (
        fiber_eval.PhraseGroundingRecall([SENTENCE]),
        ([[[[0, 0, 9, 9]]]],),
        {"ids": [("7", 0)]},
        fiber_eval.phrase_grounding_recall({("7", 0): [[[0, 0, 9, 9]]]}, [SENTENCE]),
    ),
    "captions": (
        fiber_eval.CaptionScores({1: ["a dog runs"]}),
        (["a dog"],),
        {"ids": [1]},
        fiber_eval.score_captions({1: "a dog"}, {1: ["a dog runs"]}),
    ),
    "retrieval": (fiber_eval.RetrievalRecall(), (), EYE, fiber_eval.retrieval_recall(torch.eye(2), [0, 1])),
}


def leaves(result: Mapping[str, Any]) -> Iterator[Any]:
    for value in result.values():
        assert isinstance(value, torch.Tensor) or type(value) is dict
        yield from leaves(value) if isinstance(value, Mapping) else [value]


@pytest.mark.parametrize("name", CASES)
def test_metric_and_function_give_the_same(name: str):
    metric, positional, keywords, expected = CASES[name]
    assert not hasattr(metric, "result")
    metric.update(*positional, **keywords)
    result = metric.compute()
    assert result == expected
    assert type(result) is type(expected) is dict
    for value in [*leaves(result), *leaves(expected)]:
        assert value.dtype == torch.float64
        assert value.shape == ()
        assert value.device.type == "cpu"


def test_the_average_is_of_the_same_type():
    result = fiber_eval.odinw_average({"a": torch.tensor(0.5), "b": 0.25}, datasets=["a", "b"])
    assert {name: value.item() for name, value in result.items()} == {"average": 0.375, "a": 0.5, "b": 0.25}
    assert {value.dtype for value in leaves(result)} == {torch.float64}


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if callable(thing)])
def test_options_are_keywords(name: str):
    called = [PUBLIC[name], *([PUBLIC[name].update] if hasattr(PUBLIC[name], "update") else [])]
    for parameter in (each for one in called for each in inspect.signature(one).parameters.values()):
        if parameter.default is not parameter.empty and parameter.name not in DATA:
            assert parameter.kind is parameter.KEYWORD_ONLY, parameter


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_messages_end_without_a_period(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for each in node.exc.args:
                last = each.values[-1] if isinstance(each, ast.JoinedStr) else each
                if isinstance(last, ast.Constant) and isinstance(last.value, str):
                    assert not last.value.endswith("."), f"{path}:{node.lineno}"
