"""NLVR2 accuracy and consistency equal the official code; metrics by sample bear batches, repeats and processes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_eval.question_answering import VQAAccuracy
from fiber_eval.reasoning import NLVR2Accuracy, nlvr2_accuracy, score_files
from fiber_eval.referring import ReferringAccuracy
from fiber_eval.samples import PerSampleMetric

LABELS = {"dev-1-0-0": True, "dev-1-1-0": False, "dev-1-2-0": True, "dev-1-0-1": False}


@pytest.fixture(scope="module")
def nlvr2_reference(eval_reference: Path) -> Path:
    return eval_reference / "nlvr2"


def unpack(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def label_lines(labels: dict[str, Any]) -> str:
    return "".join(json.dumps({"identifier": name, "label": label}) + "\n" for name, label in labels.items())


# Equal to the official code


@pytest.mark.parametrize("split", ["dev", "test1"])
def test_official_numbers(nlvr2_reference: Path, tmp_path: Path, split: str):
    golden = json.loads((nlvr2_reference / "golden.json").read_text())["golden"][split]
    rows = unpack(nlvr2_reference / f"{split}_id_label_pred.json.gz")
    labels = {name: label for name, label, _ in rows}
    (tmp_path / "labels.json").write_text(label_lines(labels))
    (tmp_path / "predictions.csv").write_text("".join(f"{name},{prediction}\n" for name, _, prediction in rows))
    parts = ("balanced", "unbalanced") if split == "dev" else ()
    for part in parts:
        members = unpack(nlvr2_reference / f"{part}_dev_ids.json.gz")
        (tmp_path / part).write_text(label_lines({name: labels[name] for name in members}))
    subsets = {part: tmp_path / part for part in parts}

    result = score_files(tmp_path / "labels.json", tmp_path / "predictions.csv", subsets=subsets)
    assert result.pop("accuracy") == pytest.approx(golden["accuracy"], rel=0, abs=1e-9)
    assert result.pop("consistency") == pytest.approx(golden["consistency"], rel=0, abs=1e-9)
    percents = {f"{name}_percent": 100 * value for name, value in result.items()}
    assert percents == pytest.approx({name: golden[name] for name in percents}, rel=0, abs=1e-9)
    assert len(percents) == len(parts)


# What counts


def test_a_sentence_is_consistent_if_right_with_all_its_pairs():
    right = {name: str(label).lower() for name, label in LABELS.items()}
    assert nlvr2_accuracy(right, LABELS) == {"accuracy": 1, "consistency": 1}
    assert nlvr2_accuracy({**right, "dev-1-2-0": "FALSE"}, LABELS) == {"accuracy": 0.75, "consistency": 0.5}
    assert nlvr2_accuracy({**right, "dev-1-0-1": "true"}, LABELS) == {"accuracy": 0.75, "consistency": 0.5}


def test_subsets_and_single_examples():
    metric = NLVR2Accuracy(LABELS, subsets={"first": ["dev-1-0-0", "dev-1-0-1", "dev-1-0-0"]})
    metric.update(torch.tensor([True, True, True, True]), ids=list(LABELS))
    assert metric.compute()["first_accuracy"] == 0.5
    assert metric.per_example() == {"dev-1-0-0": True, "dev-1-1-0": False, "dev-1-2-0": True, "dev-1-0-1": False}


def test_a_repeated_sample_counts_once():
    metric = NLVR2Accuracy(LABELS)
    metric.update([True, True, True], ids=["dev-1-1-0", "dev-1-1-0", "dev-1-0-0"])
    metric.update([True, False, True], ids=["dev-1-2-0", "dev-1-0-1", "dev-1-1-0"])
    assert metric.compute()["accuracy"] == 0.75


def test_forward_scores_the_batch_and_adds_it():
    metric = NLVR2Accuracy(LABELS, subsets={"first": ["dev-1-0-0"]})
    assert metric([True, True], ids=["dev-1-0-0", "dev-1-1-0"])["accuracy"] == 0.5
    assert metric([True, False], ids=["dev-1-2-0", "dev-1-0-1"])["accuracy"] == 1
    assert metric.compute()["accuracy"] == 0.75


def test_reset_forgets():
    metric = NLVR2Accuracy(LABELS)
    metric.update([False] * 4, ids=list(LABELS))
    assert metric.compute()["accuracy"] == 0.5
    metric.reset()
    metric.update(list(LABELS.values()), ids=list(LABELS))
    assert metric.compute()["accuracy"] == 1


# Errors


def test_another_prediction_for_a_sample_that_came():
    metric = NLVR2Accuracy(LABELS)
    metric.update(list(LABELS.values()), ids=list(LABELS))
    with pytest.raises(ValueError, match=r"'dev-1-0-0' came twice with different predictions.* reset the metric"):
        metric.update([False], ids=["dev-1-0-0"])


def test_missing_predictions_are_listed():
    labels = {f"dev-{number}-0-0": True for number in range(30)}
    metric = NLVR2Accuracy(labels)
    metric.update([True], ids=["dev-4-0-0"])
    with pytest.raises(ValueError, match=r"29 of 30 examples have no prediction: 'dev-0-0-0', .* and 9 more"):
        metric.compute()


@pytest.mark.parametrize(
    ("ids", "predictions", "message"),
    [
        (["dev-2-0-0", "dev-1-0-0"], [True, True], "^'dev-2-0-0': no example of the 4 annotated ones"),
        (["dev-1-0-0"], ["yes"], "the prediction of 'dev-1-0-0' must be true or false, but is 'yes'"),
        (["dev-1-0-0"], torch.tensor([0.7]), "must be true or false, but is 0.69"),
        (["dev-1-0-0"], [True, False], "predictions must be one for each of the 1 ids, but 2 came"),
    ],
)
def test_update_refuses(ids: list, predictions: Any, message: str):
    with pytest.raises(ValueError, match=message):
        NLVR2Accuracy(LABELS).update(predictions, ids=ids)


@pytest.mark.parametrize(
    ("labels", "subsets", "message"),
    [
        ({}, None, "the annotations hold no example"),
        ({"dev-1-0": True}, None, "must have the form split-set-pair-sentence, but one is 'dev-1-0'"),
        ({"dev-1-0-0": "maybe"}, None, "the label of 'dev-1-0-0' must be true or false, but is 'maybe'"),
        (LABELS, {"balanced": []}, "subset 'balanced': it is empty"),
        (LABELS, {"balanced": ["dev-7-0-0"]}, "subset 'balanced': 'dev-7-0-0': no example"),
    ],
)
def test_labels_refused(labels: dict, subsets: dict | None, message: str):
    with pytest.raises(ValueError, match=message):
        NLVR2Accuracy(labels, subsets=subsets)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ("[]\n", "", "labels.json, line 1: the example must be an object with identifier, label"),
        ('{"identifier"\n', "", "labels.json, line 1: expected a JSON object with identifier"),
        (label_lines(LABELS) * 2, "", "labels.json, line 5: 'dev-1-0-0' came before"),
        (label_lines(LABELS), "\ndev-1-0-0 True\n", "predictions.csv, line 2: expected 'identifier,prediction'"),
        (label_lines(LABELS), "dev-1-0-0,True\n" * 2, "predictions.csv, line 2: 'dev-1-0-0' came before"),
        (label_lines(LABELS), "dev-1-0-0,1\n", "predictions.csv: the prediction of 'dev-1-0-0' must be true or false"),
        (label_lines(LABELS), "dev-1-0-0,True\n", "predictions.csv: 3 of 4 examples have no prediction: 'dev-1-1-0'"),
        (label_lines(LABELS), "dev-5-0-0,True\n", "predictions.csv: 'dev-5-0-0': no example"),
    ],
)
def test_malformed_files(tmp_path: Path, labels: str, predictions: str, message: str):
    (tmp_path / "labels.json").write_text(labels)
    (tmp_path / "predictions.csv").write_text(predictions)
    with pytest.raises(ValueError, match=message):
        score_files(tmp_path / "labels.json", tmp_path / "predictions.csv")


# Several processes


def metrics_and_batches() -> list[tuple[PerSampleMetric, dict[str, list]]]:
    """Each metric by sample, with all of its samples as the arguments of `update`."""
    generator = torch.Generator().manual_seed(0)
    coin = torch.randint(0, 2, (2, 24), generator=generator).bool().tolist()
    names = [f"dev-{number // 4}-{number % 4}-0" for number in range(24)]
    people = [{"answer": text} for text in ["yes"] * 6 + ["no"] * 2 + ["maybe"] * 2]
    kind = {"question_type": "is", "answer_type": "yes/no", "answers": people}
    boxes = 10 * torch.rand(24, 3, 2, generator=generator).repeat(1, 1, 2)
    boxes[..., 2:] += 20
    return [
        (NLVR2Accuracy(dict(zip(names, coin[0], strict=True))), {"ids": names, "predictions": coin[1]}),
        (
            VQAAccuracy([{"question_id": 5 * number, **kind} for number in range(24)]),
            {"ids": list(range(0, 120, 5)), "answers": [("yes", "no", "never")[n % 3] for n in range(24)]},
        ),
        (
            ReferringAccuracy({number: [3, 3, 24, 24] for number in range(24)}),
            {"ids": list(range(24)), "boxes": list(boxes), "scores": list(torch.rand(24, 3, generator=generator))},
        ),
    ]


def whole() -> list[dict]:
    results = []
    for metric, batch in metrics_and_batches():
        metric.update(**batch)
        results.append(metric.compute())
    return results


def work(rank: int, folder: str) -> None:
    """Uneven shards that overlap, then one process with everything and one with nothing."""
    spread, idle, single = [], [], []
    shard = slice(0, 9) if rank == 0 else slice(7, None)
    for metric, batch in metrics_and_batches():
        metric.update(**{name: values[shard] for name, values in batch.items()})
        spread.append(metric.compute())
        if isinstance(metric, NLVR2Accuracy):
            single = [metric.per_example(), int((metric.outcomes >= 0).sum())]  # all, then its own again
    for metric, batch in metrics_and_batches():
        if rank == 0:
            metric.update(**batch)
        idle.append(metric.compute())
    torch.save((spread, idle, single), f"{folder}/{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_one(tmp_path: Path, two_processes: Callable[..., None]):
    two_processes(work)
    expected = whole()
    assert 0 < expected[0]["accuracy"] < 1
    assert 0 < expected[1]["overall"] < 100
    assert 0 < expected[2]["all"]["P@1"] < expected[2]["all"]["P@5"]
    for rank, own in ((0, 9), (1, 17)):
        spread, idle, (examples, counted) = torch.load(tmp_path / f"{rank}.pt")
        assert spread == expected
        assert idle == expected
        assert sum(examples.values()) / len(examples) == expected[0]["accuracy"]
        assert (len(examples), counted) == (24, own)
