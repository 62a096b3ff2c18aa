"""Precision at K of referring expressions equals MDETR's evaluator, and plain IoU where that is wanted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from fiber_eval.referring import Criterion, ReferringAccuracy, referring_accuracy, score_files

CRITERIA: dict[Criterion, str] = {
    "iou": "IoU>=0.5 (torchvision box_iou)",
    "giou": "mdetr_official_GIoU>=0.5",
    "inclusive_iou": "IoU>=0.5 with +1 pixel widths",
}
TARGETS = {1: [0, 0, 10, 10], 2: [20, 20, 40, 40]}


@pytest.fixture(scope="module")
def refcoco(eval_reference: Path) -> tuple[dict, dict, dict]:
    """Annotations, predictions, official numbers."""
    folder = eval_reference / "refcoco"
    data = json.loads(gzip.decompress((folder / "synth900.json.gz").read_bytes()))
    return data["annotations"], data["predictions"], json.loads((folder / "golden.json").read_text())["golden"]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(targets: dict = TARGETS) -> dict:
    boxes = {name: [x1, y1, x2 - x1, y2 - y1] for name, (x1, y1, x2, y2) in targets.items()}
    return {
        "images": [{"id": name, "dataset_name": "refcoco"} for name in boxes],
        "annotations": [{"image_id": name, "bbox": box} for name, box in boxes.items()],
    }


def hit(box: list[float], target: list[float], **options) -> bool:
    return referring_accuracy({1: ([box], [1.0])}, {1: target}, ks=(1,), **options)["all"]["P@1"] == 1


# Equal to the official evaluator


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("form", ["object", "list"])
def test_official_numbers(refcoco: tuple[dict, dict, dict], tmp_path: Path, criterion: Criterion, form: str):
    annotations, predictions, golden = refcoco
    results: dict | list = predictions
    if form == "list":
        results = [
            {"image_id": int(name), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for name, found in predictions.items()
            for (x1, y1, x2, y2), score in zip(found["boxes"], found["scores"], strict=True)
        ]
    files = write(tmp_path / "annotations.json", annotations), write(tmp_path / "results.json", results)
    result = score_files(*files, criterion=criterion)
    assert set(result) == {"refcoco", "refcoco+", "refcocog"}
    for dataset, precisions in result.items():
        assert precisions == pytest.approx(golden[CRITERIA[criterion]][dataset], rel=0, abs=1e-9)


def test_splits_in_batches(refcoco: tuple[dict, dict, dict]):
    annotations, predictions, golden = refcoco
    splits = {image["id"]: f"{image['dataset_name']}/{image['split']}" for image in annotations["images"]}
    targets = {}
    for each in annotations["annotations"]:
        x, y, width, height = each["bbox"]
        targets[each["image_id"]] = torch.tensor([x, y, x + width, y + height], dtype=torch.float64)
    metric = ReferringAccuracy(targets, datasets=splits, ks=(1,))
    for start in range(0, 900, 70):  # the last of a batch comes again with the next
        ids = torch.arange(1 + start, min(901, 72 + start))
        found = [predictions[str(number)] for number in ids.tolist()]
        boxes = [torch.tensor(each["boxes"], dtype=torch.float64) for each in found]
        metric.update(boxes, [torch.tensor(each["scores"]) for each in found], ids=ids)
    expected = {name: value["P@1"] for name, value in golden[CRITERIA["iou"]].items() if "/" in name}
    assert len(expected) == 9
    result = {split: precisions["P@1"].item() for split, precisions in metric.compute().items()}
    assert result == pytest.approx(expected, rel=0, abs=1e-9)


# What counts


def test_overlap_of_exactly_the_threshold_is_right():
    assert hit([0, 0, 10, 5], [0, 0, 10, 10])
    assert not hit([0, 0, 10, 4.99], [0, 0, 10, 10])
    assert not hit([0, 0, 10, 5], [0, 0, 10, 10], threshold=0.51)


def test_criteria_differ():
    apart = [4.0, 3.0, 14.0, 10.0]  # beside the target by more than its height
    target = [0.0, 0.0, 12.0, 10.0]
    assert hit(apart, target, threshold=0.4)  # IoU 56 / 134
    assert not hit(apart, target, threshold=0.4, criterion="giou")  # less 6 / 140
    narrow, wide = [0.0, 0.0, 9.0, 0.4], [0.0, 0.0, 9.0, 1.0]
    assert not hit(narrow, wide)
    assert hit(narrow, wide, criterion="inclusive_iou")  # 1.4 of 2 rows of pixels


def test_boxes_rank_by_score_whatever_their_order():
    boxes, scores = [[20, 20, 40, 40], [0, 0, 10, 10], [0, 0, 1, 1]], [0.2, 0.1, 0.9]
    metric = ReferringAccuracy({1: [0, 0, 10, 10]}, ks=(1, 2, 3))
    metric.update([boxes], [scores], ids=[1])
    metric.update([boxes[::-1]], [scores[::-1]], ids=[1])
    assert metric.compute() == {"all": {"P@1": 0, "P@2": 0, "P@3": 1}}
    assert metric.per_expression() == {1: 3}


def test_equal_scores_rank_by_coordinates_as_in_mdetr():
    wrong, right = [20.0, 20, 40, 40], [0.0, 0, 10, 10]
    for boxes in ([wrong, right], [right, wrong]):
        assert referring_accuracy({1: (boxes, [0.5, 0.5])}, {1: right}, ks=(1, 2))["all"] == {"P@1": 0, "P@2": 1}
        assert referring_accuracy({1: (boxes, [0.5, 0.5])}, {1: wrong}, ks=(1, 2))["all"] == {"P@1": 1, "P@2": 1}


def test_no_box_is_a_miss(tmp_path: Path):
    metric = ReferringAccuracy(TARGETS)
    metric.update([torch.empty(0, 4), [[20, 20, 40, 40]]], [torch.empty(0), [0.1]], ids=[1, 2])
    assert metric.per_expression() == {1: None, 2: 1}
    results = {"1": {"boxes": [], "scores": []}, "2": {"boxes": [[20, 20, 40, 40]], "scores": [0.1]}}
    files = write(tmp_path / "annotations.json", coco()), write(tmp_path / "results.json", results)
    assert score_files(*files, ks=[1]) == {"refcoco": {"P@1": 0.5}}


def test_boxes_without_area_fit_nothing():
    for criterion in CRITERIA:
        assert not hit([5, 5, 5, 5], [0, 0, 10, 10], criterion=criterion)
    assert not hit([5, 5, 5, 5], [5, 5, 5, 5])
    assert not hit([5, 5, 5, 5], [5, 5, 5, 5], criterion="giou")


# Errors


@pytest.mark.parametrize(
    ("ids", "boxes", "scores", "message"),
    [
        ([3], [[[0, 0, 1, 1]]], [[1.0]], "^3: no expression of the 2 annotated ones"),
        ([1, 2], [[[0, 0, 1, 1]]], [[1.0], [1.0]], "boxes must be one for each of the 2 ids, but 1 came"),
        (
            [1],
            [[[5, 5, 4, 9]]],
            [[1.0]],
            r"boxes of expression 1 must be finite and of no negative size, but one .*4\.0",
        ),
        ([1], [[[0, 0, float("inf"), 1]]], [[1.0]], "boxes of expression 1 must be finite"),
        ([1], [torch.zeros(2, 5)], [[1.0, 1.0]], r"boxes of expression 1 must have shape \[N, 4\], but have \(2, 5\)"),
        (
            [1],
            [
                [[0, 0, 1]],
            ],
            [[1.0]],
            r"boxes of expression 1 must have shape \[N, 4\]",
        ),
        ([1], [[[0, 0, 1, 1], [2]]], [[1.0, 1.0]], "boxes of expression 1 must be numbers in lists of equal length"),
        ([1], [[[0, 0, True, 1]]], [[1.0]], "boxes of expression 1 must be numbers .* but are .*True"),
        ([1], [[[0, 0, 1, 1]]], [torch.tensor([True])], "scores of expression 1 must be numbers"),
        ([1], [[[0, 0, 1, 1]]], [[float("nan")]], r"scores of expression 1 must be 1 numbers, .* but are \[nan\]"),
        ([1], [[[0, 0, 1, 1]]], [[0.5, 0.4]], "scores of expression 1 must be 1 numbers"),
        ([1, 1], [[[0, 0, 1, 1]], [[0, 0, 10, 10]]], [[1.0], [1.0]], "expression 1 came twice with different"),
    ],
)
def test_update_refuses(ids: list, boxes: list, scores: list, message: str):
    with pytest.raises(ValueError, match=message):
        ReferringAccuracy(TARGETS).update(boxes, scores, ids=ids)


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ({1: [0, 0, 1]}, {}, r"target of expression 1 must be x1, y1, x2, y2, but has shape \(3,\)"),
        ({1: [0, 5, 1, 4]}, {}, "target of expression 1 must be finite and of no negative size"),
        (TARGETS, {"datasets": {1: "refcoco"}}, "expression 2 is of no data set"),
        (TARGETS, {"ks": [0]}, r"ks must be whole numbers from 1 on, but is \(0,\)"),
        (TARGETS, {"criterion": "GIoU"}, "criterion must be one of iou, giou, inclusive_iou, but is 'GIoU'"),
        (TARGETS, {"threshold": 50}, "threshold must be above 0 and at most 1, but is 50"),
    ],
)
def test_options_refused(targets: dict, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ReferringAccuracy(targets, **options)


BOX = {"image_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("nothing", "Expecting value"),
        ("3", "expected a JSON list of detections, or an object"),
        ([BOX], "1 of 2 expressions have no prediction: 2;"),
        ([BOX, {**BOX, "image_id": 7}], "7: no expression of the 2"),
        ([BOX, {"image_id": 2}], "entry 1 must be an object with image_id, bbox, score"),
        ([BOX, {**BOX, "bbox": [0, 0, -1, 4]}], r"entry 1: bbox must be finite .* but is \[0, 0, -1, 4\]"),
        ([BOX, {**BOX, "bbox": [0, 0, 1]}], "entry 1: bbox must be finite"),
        ([BOX, {**BOX, "score": float("nan")}], "entry 1: score must be a number, but is nan"),
        ([BOX, {**BOX, "score": True}], "entry 1: score must be a number, but is True"),
        ([BOX, {**BOX, "bbox": [0, 0, True, 4]}], r"entry 1: bbox must be numbers .* but are \[0, 0, True, 4\]"),
        ({"1": [[0, 0, 1, 1]]}, "entry '1' must be an object with boxes and scores"),
        ({"9": {"boxes": [], "scores": []}}, "'9': no expression of the 2"),
        (
            {"1": {"boxes": [[4, 0, 1, 1]], "scores": [1]}},
            "boxes of expression 1 must be finite and of no negative size",
        ),
    ],
)
def test_malformed_results(tmp_path: Path, results: object, message: str):
    files = write(tmp_path / "annotations.json", coco()), write(tmp_path / "results.json", results)
    with pytest.raises(ValueError, match=rf"results\.json.*{message}"):
        score_files(*files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "expected a JSON object with the lists 'images' and 'annotations'"),
        ({"images": [{"name": 1}]}, "image 0 must be an object with id"),
        ({"annotations": coco()["annotations"][:1]}, "1 images have no annotation: 2;"),
        ({"images": coco()["images"] * 2}, "image 2: id 1 came before"),
        ({"images": [{"id": 1, "dataset_name": ["refcoco"]}]}, "image 0: dataset_name must be text, but is"),
        ({"annotations": coco()["annotations"] * 2}, "annotation 2: image 1 must be among the images and have one box"),
        ({"annotations": [{"image_id": 1, "bbox": [0, 0, 0, -2]}]}, "annotation 0: bbox must be finite"),
    ],
)
def test_malformed_annotations(tmp_path: Path, change: dict, message: str):
    files = write(tmp_path / "annotations.json", {**coco(), **change}), write(tmp_path / "results.json", [BOX])
    with pytest.raises(ValueError, match=rf"annotations\.json: .*{message}"):
        score_files(*files)
