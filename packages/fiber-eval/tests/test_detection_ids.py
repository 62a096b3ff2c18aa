"""Ids of images as people's files have them: texts, and whole numbers that a tool wrote as floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fiber_eval.detection import CocoAP, coco_ap
from fiber_eval.lvis import lvis_ap

BOX = [10.0, 10.0, 50.0, 50.0]


def files(names: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Detections of two images, of which those of the second are a little off, and annotations."""
    more = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth = {
        "images": [{"id": name, **more} for name in names],
        "categories": [{"id": 1, "frequency": "f"}],
        "annotations": [
            {"id": place, "image_id": name, "category_id": 1, "bbox": BOX, "area": 2500.0}
            for place, name in enumerate(names)
        ],
    }
    found = [
        {"image_id": name, "category_id": 1, "bbox": [10, 10, 50, 50 - 12 * place], "score": 0.9 - place / 10}
        for place, name in enumerate(names)
    ]
    return found, truth


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg"], [397133.0, 37777.0], ["a", 7]])
def test_the_numbers_are_those_of_whole_numbers(names: list[Any]) -> None:
    for score in (coco_ap, lvis_ap):
        expected = {name: value.item() for name, value in score(*files([1, 2])).items()}
        assert {name: value.item() for name, value in score(*files(names)).items()} == expected
        assert 0.5 < expected["AP"] < 1


def test_a_metric_takes_texts() -> None:
    found, truth = files(["a.jpg", "b.jpg"])
    metric = CocoAP(truth, box_format="xywh")
    for row in reversed(found):
        boxes = {"boxes": torch.tensor([row["bbox"]]), "scores": torch.tensor([row["score"]])}
        metric.update([{**boxes, "labels": torch.tensor([1])}], ids=[row["image_id"]])
    assert metric.compute() == coco_ap(found, truth)
    with pytest.raises(ValueError, match=r"'c\.jpg': no image of the annotations has such an id"):
        metric.update([{**boxes, "labels": torch.tensor([1])}], ids=["c.jpg"])


@pytest.mark.parametrize("bad", [1.5, float("nan"), float("inf"), None, "x"])
def test_other_ids_are_refused(bad: Any) -> None:
    found, truth = files([1, 2])
    truth["annotations"][1]["image_id"] = bad
    with pytest.raises(ValueError, match="annotations, entry 1: image_id must be an integer"):
        coco_ap(found, truth)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ([[0, 0, 4, float("inf"), 4, 4]], "segmentation must be polygons or run lengths"),
        ([[0, 0, 1e9, 0, 4, 4]], "segmentation must be polygons or run lengths"),
        ({"size": [8, 8], "counts": [60, 5]}, "add up to"),
        ({"size": [8, 8], "counts": [-1, 65]}, "add up to"),
    ],
)
def test_masks_that_no_evaluator_survives_are_refused(shape: object, sentence: str) -> None:
    """pycocotools crashes on them, or never comes back."""
    annotations = {
        "images": [{"id": 1, "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "segmentation": shape,
                "area": 5,
                "iscrowd": 0,
                "bbox": [0, 0, 4, 4],
            }
        ],
    }
    with pytest.raises(ValueError, match=sentence):
        coco_ap([], annotations, iou_type="segm")


def test_a_boolean_among_ids_is_no_id() -> None:
    annotations = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    row = {"category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}
    with pytest.raises(ValueError, match="image_id must be an integer, but is True"):
        coco_ap([{"image_id": 2, **row}, {"image_id": True, **row}], annotations)
