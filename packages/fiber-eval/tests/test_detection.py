"""COCO AP equals the official evaluator with both backends, whatever the batches, repeats and processes."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fiber_eval.detection import CocoAP, coco_ap, score_files
from pycocotools import mask as rle_ops
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BACKENDS = ["pycocotools", "faster_coco_eval"]


@pytest.fixture(scope="module")
def coco_reference(eval_reference: Path) -> Path:
    return eval_reference / "coco_det"


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def official(annotations: dict[str, Any], found: list[dict[str, Any]], iou_type: str = "bbox") -> dict[str, float]:
    """pycocotools, called as its demo does."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(NAMES, evaluator.stats.tolist(), strict=True))


def scene(num_images: int = 12, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Crowds, tied scores, repeated boxes, empty images, images without detections, and one with 150 of a category."""
    random = np.random.default_rng(seed)
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    image_ids = random.permutation(1000)[:num_images].tolist()
    for index, image_id in enumerate(image_ids):
        crowded = index == 3
        count = 0 if index == 1 else 30 if crowded else int(random.integers(1, 8))
        for _ in range(count):
            size = np.exp(random.uniform(2, 5, 2))
            box = [*random.uniform(0, 300 - size), *size]
            label = 17 if crowded else int(random.choice([3, 17, 90]))
            crowd = int(random.random() < 0.15)
            truth = {"image_id": image_id, "category_id": label, "bbox": box, "area": float(size.prod()) * 0.8}
            truths.append(truth | {"id": len(truths) + 100, "iscrowd": crowd})
            for _ in range(5 if crowded else 3):
                moved = np.array(box) + random.normal(0, 0.06, 4) * np.array([*size, *size])
                found.append({"image_id": image_id, "category_id": label, "bbox": moved.tolist(), "score": 0.0})
        if index != 2:
            found.append({"image_id": image_id, "category_id": 3, "bbox": [5.0, 5.0, 40.0, 40.0], "score": 0.0})
    found = [
        entry | {"score": float(random.integers(1, 12)) / 12} for entry in found if entry["image_id"] != image_ids[4]
    ]
    found += found[:3]
    images = [{"id": image_id, "height": 300, "width": 300} for image_id in image_ids]
    categories = [{"id": number, "name": str(number)} for number in (90, 3, 17, 44)]
    return {"images": images, "annotations": truths, "categories": categories}, found


def predictions(annotations: dict[str, Any], found: list[dict[str, Any]]) -> dict[int, dict[str, torch.Tensor]]:
    result = {}
    for image in annotations["images"]:
        rows = [entry for entry in found if entry["image_id"] == image["id"]]
        result[image["id"]] = {
            "boxes": torch.tensor([entry["bbox"] for entry in rows], dtype=torch.float64).reshape(-1, 4),
            "scores": torch.tensor([entry["score"] for entry in rows], dtype=torch.float64),
            "labels": torch.tensor([entry["category_id"] for entry in rows], dtype=torch.int64),
        }
    return result


def one(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One image, one object, one right detection; `changes` go into the detection."""
    truth = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
    annotations = {
        "images": [{"id": 7, "height": 100, "width": 100}],
        "annotations": [truth],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    found = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "score": 0.9} | changes
    return annotations, [found]


# Equal to the official evaluator


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equal_to_the_published_sample(coco_reference: Path, backend: str, iou_type: str):
    golden = json.loads((coco_reference / "golden.json").read_text())[f"val2014_100_{iou_type}"]
    files = coco_reference / "val2014_100_gt.json.gz", coco_reference / f"val2014_100_fake{iou_type}_dt.json.gz"
    result = score_files(*files, iou_type=iou_type, backend=backend, per_category=True)
    expected = golden["stats"] | {f"AP/{name}": value for name, value in golden["per_category_AP"].items()}
    assert result == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("case", ["one_perfect", "one_wrong_class", "only_crowd", "iou_exactly_half"])
def test_tiny_cases(coco_reference: Path, backend: str, case: str):
    golden = json.loads((coco_reference / "golden.json").read_text())[f"tiny_{case}"]
    assert coco_ap(golden["dt"], golden["gt"], backend=backend) == pytest.approx(golden["stats"], rel=0, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_equal_on_crowds_ties_empty_images_and_many_detections(backend: str, seed: int):
    annotations, found = scene(seed=seed)
    expected = official(annotations, found)
    assert coco_ap(found, annotations, backend=backend) == pytest.approx(expected, rel=0, abs=1e-9)
    assert 0.1 < expected["AP"] < 0.9
    assert expected["AR1"] < expected["AR10"] < expected["AR100"]


def test_only_the_best_hundred_of_a_category_count(backend: str):
    annotations, found = one(score=0.5)
    wrong = [{"image_id": 7, "category_id": 1, "bbox": [70, 70, 10, 10], "score": 0.9}]
    assert coco_ap(wrong * 99 + found, annotations, backend=backend)["AP"] == pytest.approx(0.01)
    assert coco_ap(wrong * 100 + found, annotations, backend=backend)["AP"] == 0
    others = [wrong[0] | {"category_id": 2}] * 300
    assert coco_ap(others + found, annotations, backend=backend)["AP"] == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_masks_of_every_form(backend: str):
    annotations, found = scene(6)
    for entry in annotations["annotations"] + found:
        x, y, w, h = (max(0, round(number)) for number in entry["bbox"])
        mask = np.zeros((300, 300), dtype=np.uint8, order="F")
        mask[y : y + h + 1, x : x + w + 1] = 1
        entry["segmentation"] = rle_ops.encode(mask)
        entry["segmentation"]["counts"] = entry["segmentation"]["counts"].decode()
    without_boxes = [{key: value for key, value in entry.items() if key != "bbox"} for entry in found]
    expected = official(annotations, without_boxes, "segm")
    for entry in annotations["annotations"][::2]:  # the same masks, as plain run lengths
        columns = rle_ops.decode(entry["segmentation"]).flatten(order="F")
        edges = np.flatnonzero(np.diff(columns, prepend=0))
        entry["segmentation"] = {"size": [300, 300], "counts": np.diff(edges, prepend=0, append=90000).tolist()}
    assert coco_ap(found, annotations, iou_type="segm", backend=backend) == pytest.approx(expected, rel=0, abs=1e-9)

    metric = CocoAP(annotations, iou_type="segm", backend=backend)
    for image in annotations["images"]:
        rows = [entry for entry in found if entry["image_id"] == image["id"]]
        masks = [torch.from_numpy(rle_ops.decode(entry["segmentation"])).bool() for entry in rows]
        prediction = {
            "masks": torch.stack(masks) if masks else torch.zeros(0, 300, 300, dtype=torch.bool),
            "scores": torch.tensor([entry["score"] for entry in rows], dtype=torch.float64),
            "labels": torch.tensor([entry["category_id"] for entry in rows], dtype=torch.int64),
        }
        metric.update([prediction], ids=[image["id"]])
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(expected, abs=1e-9)


# What differs from calling it directly


def test_annotation_id_zero_is_found(coco_reference: Path, backend: str):
    golden = json.loads((coco_reference / "golden.json").read_text())["tiny_gt_id_0_bug"]
    assert golden["pycocotools"]["AP"] == 0
    assert coco_ap(golden["dt"], golden["gt"], backend=backend)["AP"] == pytest.approx(1)


def test_no_detections_at_all(backend: str):
    annotations, _ = one()
    result = coco_ap([], annotations, backend=backend, per_category=True)
    assert {result[name].item() for name in ("AP", "AP50", "APm", "AR100", "AP/1")} == {0}
    assert {result[name].item() for name in ("APs", "APl", "ARs", "ARl", "AP/2")} == {
        -1
    }  # nothing of the kind is annotated


def test_the_fast_backend_is_the_default():
    annotations, found = scene()
    assert coco_ap(found, annotations) == coco_ap(found, annotations, backend="faster_coco_eval")


def test_inputs_are_left_as_they_were(backend: str):
    annotations, found = scene()
    before = copy.deepcopy((annotations, found))
    coco_ap(found, annotations, backend=backend)
    assert (annotations, found) == before


# The metric


def test_batches_order_and_repeats_change_nothing(backend: str):
    annotations, found = scene()
    expected = coco_ap(found, annotations, backend=backend, per_category=True)
    given = predictions(annotations, found)
    metric = CocoAP(annotations, box_format="xywh", backend=backend, per_category=True)
    ids = list(given)
    for start in range(9, -1, -3):
        metric.update([given[i] for i in ids[start : start + 3]], ids=torch.tensor(ids[start : start + 3]))
    nothing = {name: value[:0] for name, value in given[ids[0]].items()}
    metric.update([given[ids[5]], given[ids[0]]], ids=[ids[5], ids[0]])  # came before: counts once
    assert {name: value.item() for name, value in metric.compute().items()} == expected
    metric.reset()
    metric.update([nothing] * len(ids), ids=ids)
    assert metric.compute()["AP"] == 0
    assert metric(list(given.values()), ids=ids)["AP"].item() == expected["AP"]


def test_boxes_are_corners_unless_told_otherwise(tmp_path: Path):
    annotations, _ = one()
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    metric = CocoAP(tmp_path / "truth.json")
    corners = torch.tensor([[10, 10, 60, 60]], dtype=torch.bfloat16)
    metric.update([{"boxes": corners, "scores": torch.tensor([1.0]), "labels": torch.tensor([1])}], ids=[7])
    assert metric.compute()["AP"].item() == pytest.approx(1)


def test_images_that_never_came():
    annotations, found = scene()
    given = predictions(annotations, found)
    metric = CocoAP(annotations, box_format="xywh")
    first = list(given)[:10]
    metric.update([given[i] for i in first], ids=first)
    missing = ", ".join(map(str, sorted(set(given) - set(first))))
    with pytest.raises(ValueError, match=f"2 of 12 images of the annotations never came: {missing}; update with each"):
        metric.compute()


@pytest.mark.parametrize(
    ("ids", "change", "message"),
    [
        ([8], {}, "8: no image of the annotations has such an id"),
        ([7, 7], {}, "needs an id for each prediction, but got 2 ids, 1"),
        ([7], {"boxes": None}, "prediction of image 7 lacks boxes; give boxes, scores, labels"),
        ([7], {"scores": torch.ones(2)}, "holds boxes 1, scores 2, labels 1"),
        ([7], {"boxes": torch.ones(1, 5)}, "prediction of image 7, entry 0: bbox must be 4 numbers"),
        ([7], {"boxes": torch.tensor([[20.0, 10, 10, 60]])}, "entry 0: bbox must not have a negative width or height"),
        ([7], {"labels": torch.tensor([5])}, "entry 0: category_id must be one of the 2 in the annotations, but is 5"),
        ([7], {"scores": torch.tensor([math.nan])}, "entry 0: score must be finite, but is nan"),
    ],
)
def test_update_refuses(ids: list[int], change: dict[str, Any], message: str):
    annotations, _ = one()
    right = {"boxes": torch.tensor([[10, 10, 60, 60]]), "scores": torch.ones(1), "labels": torch.tensor([1])}
    metric = CocoAP(annotations)
    with pytest.raises(ValueError, match=message):
        metric.update([{key: value for key, value in (right | change).items() if value is not None}], ids=ids)
    metric.update([right], ids=[7])  # nothing of the refused batch stayed
    assert metric.compute()["AP"].item() == pytest.approx(1)


def test_mask_of_another_size():
    annotations, _ = one()
    annotations["annotations"][0]["segmentation"] = [[10, 10, 60, 10, 60, 60]]
    metric = CocoAP(annotations, iou_type="segm")
    prediction = {"masks": torch.ones(1, 50, 100), "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"the mask is of size \[50, 100\], but its image 7 of \[100, 100\]"):
        metric.update([prediction], ids=[7])


# Files


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"annotations": []}, "results.json must hold a list of detections, but holds a dict"),
        ([[1, 2]], "results.json, entry 0: must be a dictionary, but is a list"),
        (one()[1] + [{"image_id": 7}], "results.json, entry 1: category_id is missing; there are image_id"),
        (one(image_id=9)[1], "results.json, entry 0: image_id must be one of the 1 in the annotations, but is 9"),
        (one(image_id=9)[1] * 2 + one(image_id=8)[1], "but is 9; unknown are 8, 9"),
        (one(image_id="7")[1], "results.json, entry 0: image_id must be an integer, but is '7'"),
        (one(category_id=3)[1], "results.json, entry 0: category_id must be one of the 2 .* but is 3"),
        (one()[1] + one(score=math.nan)[1], "results.json, entry 1: score must be finite, but is nan"),
        (one(score=None)[1], "results.json, entry 0: score must be a number, but is None"),
        (one()[1] + one(bbox=[1, 2, 3])[1], r"results.json, entry 1: bbox must be 4 numbers, but is \[1, 2, 3\]"),
        (one(bbox=[1, 2, -3, 4])[1], "results.json, entry 0: bbox must not have a negative width or height"),
        (one(bbox=[1, 2, math.inf, 4])[1], "results.json, entry 0: bbox must be finite"),
    ],
)
def test_malformed_results(tmp_path: Path, results: Any, message: str):
    (tmp_path / "truth.json").write_text(json.dumps(one()[0]))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        score_files(tmp_path / "truth.json", tmp_path / "results.json")


def annotated(part: str, **changes: Any) -> dict[str, Any]:
    """Annotations of which the first entry of a part is changed; None takes a key away."""
    annotations, _ = one()
    annotations[part][0] = {key: value for key, value in (annotations[part][0] | changes).items() if value is not None}
    return annotations


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "truth.json must hold a list under 'images'"),
        (one()[0] | {"images": []}, "truth.json holds no image"),
        (one()[0] | {"categories": None}, "truth.json must hold a list under 'categories'"),
        (one()[0] | {"images": [{"id": 7}, {"id": 7}]}, "truth.json: images: id 7 is given 2 times"),
        (one()[0] | {"annotations": one()[0]["annotations"] * 2}, "truth.json: annotations: id 1 is given 2 times"),
        (annotated("annotations", image_id=3), "truth.json: annotations, entry 0: image_id must be one of the 1"),
        (one()[0] | {"annotations": ""}, "truth.json must hold a list under 'annotations'"),
        (annotated("annotations", iscrowd="no"), "entry 0: iscrowd must be 0 or 1, but is 'no'"),
        (annotated("annotations", area="9"), "truth.json: annotations, entry 0: area must be a number, but is '9'"),
        (annotated("annotations", area=-1), "truth.json: annotations, entry 0: area must not be negative, but is -1"),
    ],
)
def test_malformed_annotations(tmp_path: Path, contents: Any, message: str):
    (tmp_path / "truth.json").write_text(json.dumps(contents))
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match=message):
        score_files(tmp_path / "truth.json", tmp_path / "results.json")


@pytest.mark.parametrize("name", ["cut.json", "cut.json.gz"])
def test_files_that_are_no_json(tmp_path: Path, name: str):
    text = json.dumps(one()[1]).encode()
    (tmp_path / name).write_bytes(gzip.compress(text)[:-20] if name.endswith("gz") else text[:-20])
    (tmp_path / "truth.json").write_text(json.dumps(one()[0]))
    with pytest.raises(ValueError, match=f"{name} is no JSON file"):
        score_files(tmp_path / "truth.json", tmp_path / name)


@pytest.mark.parametrize(
    ("image", "segmentation", "message"),
    [
        ({}, None, "segmentation must be polygons or run lengths, but is None"),
        ({}, [[1, 2, 3]], "annotations, entry 0: segmentation must be polygons or run lengths"),
        (
            {},
            {"size": [100, 90], "counts": [9000]},
            r"the mask is of size \[100, 90\], but its image 7 of \[100, 100\]",
        ),
        ({"height": None}, [[10, 10, 60, 10, 60, 60]], "masks need the height and width of image 7"),
    ],
)
def test_malformed_masks(image: dict[str, Any], segmentation: Any, message: str):
    annotations = annotated("images", **image)
    annotations["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=message):
        coco_ap([], annotations, iou_type="segm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_type": "keypoints"}, "iou_type must be one of bbox, segm, but is 'keypoints'"),
        ({"backend": "fast"}, "backend must be one of faster_coco_eval, pycocotools, but is 'fast'"),
        ({"box_format": "yxyx"}, "box_format must be one of xyxy, xywh, cxcywh, but is 'yxyx'"),
    ],
)
def test_options_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        CocoAP(one()[0], **options)


# Several processes


def work(rank: int, folder: str) -> None:
    """Uneven shards that overlap; in the second case process 1 has nothing."""
    annotations, found = scene()
    given = predictions(annotations, found)
    ids = list(given)
    spread, idle = (CocoAP(annotations, box_format="xywh") for _ in range(2))
    for start in range(0, 5, 2) if rank == 0 else range(5, 12):
        spread.update([given[i] for i in ids[start : start + 2]], ids=ids[start : start + 2])
    if rank == 0:
        idle.update(list(given.values()), ids=ids)
    torch.save([spread.compute(), idle.compute()], f"{folder}/{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_one(tmp_path: Path, two_processes: Callable[..., None]):
    two_processes(work)
    expected = coco_ap(*reversed(scene()))
    for rank in (0, 1):
        for result in torch.load(tmp_path / f"{rank}.pt"):
            assert {name: value.item() for name, value in result.items()} == expected
