"""Numbers of an evaluation keep their names, baselines and directions, in files and where the best is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fiber_train.best import keep_best
from fiber_train.evaluation import Evaluation, LeftOut, Measure, read_evaluation, write_json
from fiber_train.tasks.recall import recall_measures

FOUND = Evaluation(
    [Measure("accuracy", 0.5, 0.25, "chance", title="right"), Measure("mean_rank", 3.0, higher_is_better=False)],
    {"predictions.json": "[]"},
    {"num_images": 4},
    {"a": "yes"},
    [Measure("words/mean", 7.0, unit=" words")],
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluation.json", FOUND.to_json())
    again = read_evaluation(tmp_path)
    assert (again.measures, again.extra, again.counts) == (FOUND.measures, FOUND.extra, FOUND.counts)
    assert again.find("accuracy") == FOUND.measures[0]
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["counts"] == {"num_images": 4}
    assert content["measures"][0]["baseline_name"] == "chance"
    with pytest.raises(FileNotFoundError, match="a report needs a finished run"):
        read_evaluation(tmp_path / "nowhere")


def test_numbers_to_log_have_their_baselines() -> None:
    assert FOUND.numbers() == {
        "num_images": 4,
        "accuracy": 0.5,
        "accuracy/baseline": 0.25,
        "mean_rank": 3.0,
        "words/mean": 7.0,
    }
    assert FOUND["words/mean"] == 7.0
    assert [str(measure) for measure in FOUND] == [
        "right          0.500 (chance 0.250)",
        "mean_rank      3.000",
        "words/mean     7.000 words",
    ]
    with pytest.raises(KeyError, match="no measure 'recall'; it has accuracy, mean_rank, words/mean"):
        FOUND["recall"]


def test_parts_are_joined(tmp_path: Path) -> None:
    both = FOUND + Evaluation([Measure("AP", 0.1)], {"boxes.json": "{}"}, {"num_boxes": 2}, {"b": "no"})
    assert [measure.name for measure in both] == ["accuracy", "mean_rank", "AP", "words/mean"]
    assert (both.counts, both.outputs) == ({"num_images": 4, "num_boxes": 2}, {"a": "yes", "b": "no"})
    both.write_predictions(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.json", "boxes.json"}


def best_of(values: list[float], name: str, out: Path, **options) -> tuple[int, float]:
    for step, value in enumerate(values):
        found = Evaluation([Measure(name, value, **options)])
        keep_best(out, name, found, step, lambda folder: (folder / "weights").write_text("x"))
    content = json.loads((out / "best" / "evaluation.json").read_text())
    return content["step"], Evaluation.from_json(content)[name]


def test_the_best_is_the_highest_or_the_lowest(tmp_path: Path) -> None:
    assert best_of([0.1, 0.4, 0.4, 0.2], "accuracy", tmp_path / "a") == (1, 0.4)
    assert best_of([9.0, 3.0, 5.0], "mean_rank", tmp_path / "b", higher_is_better=False) == (1, 3.0)


def test_a_monitor_that_is_not_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"task.monitor: .*no measure 'acuracy'.*; it has accuracy, mean_rank, words/mean"
    ):
        keep_best(tmp_path, "acuracy", FOUND, 1, lambda folder: None)
    with pytest.raises(ValueError, match=r"it has none; set data.eval_split .*or task.monitor=none to keep no best"):
        keep_best(tmp_path, "acuracy", Evaluation(counts={"num_images": 4}), 1, lambda folder: None)
    keep_best(tmp_path, None, FOUND, 1, lambda folder: None)
    assert not (tmp_path / "best").exists()


def test_what_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="accuracy is nan after step 1, which is never kept as the best"):
        assert best_of([0.3, math.nan, 0.2], "accuracy", tmp_path) == (0, 0.3)


def test_another_measure_may_keep_the_best_from_now_on(tmp_path: Path) -> None:
    best_of([0.3], "accuracy", tmp_path)
    assert best_of([0.1], "other", tmp_path) == (0, 0.1)


def test_what_is_left_out_is_counted_named_and_written() -> None:
    gone = LeftOut.of("phrases", [7, 7, "b", 8, 9, 10, 11], 9, "no box", "mixed")
    found = Evaluation([Measure("recall", 0.5)], counts={"num_phrases": 2}, left_out=gone)
    found += Evaluation(left_out=LeftOut.of("images", [1, 2], 2, "no annotations") + LeftOut.of("images", [], 2, "odd"))
    assert found.numbers() == {"num_phrases": 2, "left_out/mixed/phrases": 7, "left_out/images": 2, "recall": 0.5}
    assert list(map(str, found.left_out)) == [
        "7 of 9 phrases (mixed) not measured: no box (7, b, 8, 9, 10, ...)",
        "2 of 2 images not measured: no annotations",
    ]
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))).left_out == found.left_out


def test_ranks_are_better_low_and_recalls_have_chance() -> None:
    numbers = {"image_to_text_recall@1": 0.5, "image_to_text_median_rank": 2.0, "mean_recall": 0.4}
    measures = {measure.name: measure for measure in recall_measures(numbers, [1] * 10)}
    assert measures["image_to_text_recall@1"].baseline == pytest.approx(0.1)
    assert not measures["image_to_text_median_rank"].higher_is_better
    assert (measures["mean_recall"].baseline, measures["mean_recall"].higher_is_better) == (None, True)


def test_chance_counts_every_caption_of_an_image() -> None:
    """Of two images, one with both of the three captions: two of the three orders begin with one of its own."""
    found = Evaluation(
        recall_measures(dict.fromkeys(["image_to_text_recall@1", "text_to_image_recall@1"], 0.0), [2, 1])
    )
    assert [measure.baseline for measure in found.measures] == pytest.approx([(2 / 3 + 1 / 3) / 2, 1 / 2])
    one = {f"image_to_text_recall@{k}": 0.0 for k in (5, 10)}
    five, ten = recall_measures(one, [5] * 4)  # of twenty captions five are right
    assert five.baseline == pytest.approx(1 - 15 * 14 * 13 * 12 * 11 / (20 * 19 * 18 * 17 * 16))
    assert ten.baseline == pytest.approx(0.98375, abs=1e-5)
    assert recall_measures(one, [2] * 3)[1].baseline == 1
