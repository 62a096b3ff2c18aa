"""COCO AP of targets that come in batches equals pycocotools, the annotation file and torchmetrics' own class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fiber_eval import CocoAP
from pycocotools import mask as rle_ops
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
THEIRS = [f"map{name}" for name in ("", "_50", "_75", "_small", "_medium", "_large")]
THEIRS += [f"mar_{name}" for name in (1, 10, 100, "small", "medium", "large")]

Parts = list[dict[str, torch.Tensor]]


def scenes(count: int = 10, *, areas: bool = True) -> tuple[Parts, Parts]:
    """Predictions and targets, xyxy in quarters of a pixel: crowds, images without either; 9 is predicted only."""
    random = np.random.default_rng(0)
    predictions, targets = [], []
    for index in range(count):
        size = (np.exp(random.uniform(2, 5, (0 if index == 2 else 6, 2))) * 4).round() / 4
        first = (random.uniform(0, 100, size.shape) * 4).round() / 4
        boxes, labels = np.concatenate([first, first + size], 1), random.choice([3, 5, 7], len(size))
        target = {"boxes": boxes, "labels": labels, "iscrowd": (random.random(len(size)) < 0.15).astype(int)}
        targets.append(target | ({"area": size.prod(1) * 0.75} if areas else {}))
        if index == 4:
            boxes, labels = boxes[:0], labels[:0]
        moved = (boxes + random.normal(0, 0.04, boxes.shape) * (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]) * 4
        extra = np.array([[5.0, 5, 40, 40]])
        predictions.append(
            {
                "boxes": np.concatenate([moved.round() / 4, extra]),
                "labels": np.append(labels, 9),
                "scores": random.permutation(len(labels) + 1) / 16 + index / 1024,
            }
        )
    predictions, targets = (
        [{k: torch.tensor(v) for k, v in each.items()} for each in part] for part in (predictions, targets)
    )
    return predictions, targets


def as_xywh(boxes: torch.Tensor) -> list[list[float]]:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


def contents(predictions: Parts, targets: Parts, first_id: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as COCO's files hold it."""
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id, (prediction, target) in enumerate(zip(predictions, targets, strict=True), first_id):
        for row, box in enumerate(as_xywh(target["boxes"])):
            area = target["area"][row].item() if "area" in target else box[2] * box[3]
            truth = {"id": len(truths) + 1, "image_id": image_id, "bbox": box, "area": area}
            truths.append(truth | {"category_id": int(target["labels"][row]), "iscrowd": int(target["iscrowd"][row])})
        for row, box in enumerate(as_xywh(prediction["boxes"])):
            label, score = int(prediction["labels"][row]), prediction["scores"][row].item()
            found.append({"image_id": image_id, "bbox": box, "category_id": label, "score": score})
    images = [{"id": image_id, "height": 300, "width": 300} for image_id in range(first_id, first_id + len(targets))]
    return {"images": images, "annotations": truths, "categories": [{"id": label} for label in (3, 5, 7, 9)]}, found


def official(annotations: dict[str, Any], found: list[dict[str, Any]], iou_type: str = "bbox") -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(found), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(NAMES, evaluator.stats.tolist(), strict=True))


# Equal


@pytest.mark.parametrize("areas", [True, False])
@pytest.mark.parametrize("backend", ["faster_coco_eval", "pycocotools"])
def test_equal_to_pycocotools(backend: str, areas: bool):
    predictions, targets = scenes(areas=areas)
    metric = CocoAP(backend=backend, per_category=True)
    for start in range(0, 10, 3):
        metric.update(predictions[start : start + 3], targets[start : start + 3])
    result = {name: value.item() for name, value in metric.compute().items()}
    expected = official(*contents(predictions, targets))
    assert {name: result[name] for name in NAMES} == pytest.approx(expected, rel=0, abs=1e-9)
    assert 0.1 < expected["AP"] < 0.9
    assert sorted(set(result) - set(NAMES)) == ["AP/3", "AP/5", "AP/7", "AP/9"]
    assert result["AP/9"] == -1


def test_equal_to_the_annotation_file():
    predictions, targets = scenes()
    annotations, _ = contents(predictions, targets)
    from_file, from_targets = CocoAP(annotations), CocoAP()
    from_file.update(predictions, ids=range(1, 11))
    from_targets.update(predictions, targets)
    assert from_targets.compute() == from_file.compute()


@pytest.mark.parametrize("backend", ["faster_coco_eval", "pycocotools"])
def test_equal_to_torchmetrics(backend: str):
    predictions, targets = scenes()
    try:
        # Its own thresholds are those of the official code in float32, which moves recalls that lie on one.
        thresholds = {
            "iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(),
            "rec_thresholds": np.linspace(0, 1, 101).tolist(),
        }
        theirs = MeanAveragePrecision(backend=backend, **thresholds)
    except ImportError as error:
        pytest.skip(str(error))
    theirs.update(
        [each | {"boxes": each["boxes"].float(), "scores": each["scores"].float()} for each in predictions],
        [each | {"boxes": each["boxes"].float()} for each in targets],
    )
    expected = theirs.compute()
    result = CocoAP()(predictions, targets)
    for ours, name in zip(NAMES, THEIRS, strict=True):
        assert result[ours].item() == pytest.approx(expected[name].item(), abs=1e-6), name


@pytest.mark.parametrize("box_format", ["xyxy", "xywh", "cxcywh"])
def test_box_formats(box_format: str):
    predictions, targets = scenes()
    expected = CocoAP()(predictions, targets)
    for part in [*predictions, *targets]:
        x1, y1, x2, y2 = part["boxes"].unbind(1)
        w, h = x2 - x1, y2 - y1
        forms = {"xyxy": (x1, y1, x2, y2), "xywh": (x1, y1, w, h), "cxcywh": (x1 + w / 2, y1 + h / 2, w, h)}
        part["boxes"] = torch.stack(forms[box_format], 1)
    assert CocoAP(box_format=box_format)(predictions, targets) == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_masks():
    predictions, targets = scenes(areas=False)
    annotations, found = contents(predictions, targets)
    for entry in [*annotations["annotations"], *found]:
        x, y, w, h = (max(0, round(number)) for number in entry.pop("bbox"))
        mask = np.zeros((300, 300), dtype=np.uint8, order="F")
        mask[y : y + h + 1, x : x + w + 1] = 1
        entry["segmentation"] = rle_ops.encode(mask)
        if "score" not in entry:
            entry["area"] = int(mask.sum())
    for part, rows in ((predictions, found), (targets, annotations["annotations"])):
        for image_id, each in enumerate(part, 1):
            masks = [rle_ops.decode(row["segmentation"]) for row in rows if row["image_id"] == image_id]
            each["masks"] = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, 300, 300))
            del each["boxes"]
    metric = CocoAP(iou_type="segm")
    metric.update(predictions[:5], targets[:5])
    for part, rows in ((predictions, found), (targets, annotations["annotations"])):
        for image_id, each in enumerate(part, 1):  # run lengths do as well
            each["masks"] = [row["segmentation"] for row in rows if row["image_id"] == image_id]
    metric.update(predictions[5:], targets[5:])
    result = {name: value.item() for name, value in metric.compute().items()}
    assert result == pytest.approx(official(annotations, found, "segm"), rel=0, abs=1e-9)


# What counts


def test_ids_are_optional_and_count_once():
    predictions, targets = scenes()
    metric = CocoAP()
    metric.update(predictions, targets, ids=torch.arange(10))
    metric.update(predictions[3:5], targets[3:5], ids=[3, 4])
    assert metric.compute() == CocoAP()(predictions, targets)
    metric = CocoAP()
    metric.update(predictions, targets)
    metric.update(predictions[:1], targets[:1])  # without ids, each time
    again = official(*contents([*predictions, predictions[0]], [*targets, targets[0]]))
    assert metric.compute()["AR100"].item() == pytest.approx(again["AR100"], abs=1e-9)


def test_a_batch_by_itself():
    predictions, targets = scenes()
    metric = CocoAP()
    metric.update(predictions[:4], targets[:4])
    assert metric(predictions[4:], targets[4:]) == CocoAP()(predictions[4:], targets[4:])
    assert metric.compute() == CocoAP()(predictions, targets)


# Errors


RIGHT = {"boxes": torch.tensor([[10, 10, 60, 60]]), "scores": torch.ones(1), "labels": torch.tensor([1])}


@pytest.mark.parametrize(
    ("targets", "ids", "message"),
    [
        (None, None, "targets must be one for each of the 1 predictions, but none came"),
        ([], None, "targets must be one for each of the 1 predictions, but 0 came"),
        ([RIGHT], [1, 2], "update needs an id for each prediction, but got 2 ids, 1"),
        ([{"boxes": RIGHT["boxes"]}], None, "target 0 lacks labels; give boxes, labels$"),
        ([RIGHT | {"area": torch.ones(2)}], None, "target 0 must hold equally many of each, but holds .* area 2"),
        ([RIGHT | {"iscrowd": torch.tensor([2])}], None, "target 0, entry 0: iscrowd must be 0 or 1, but is 2"),
        ([RIGHT | {"boxes": torch.tensor([[20, 0, 10, 9]])}], None, "target 0, entry 0: bbox must not have a negative"),
        (
            [RIGHT | {"labels": torch.tensor([0.5])}],
            None,
            "prediction 0 or its target, entry 1: category_id must be an",
        ),
    ],
)
def test_update_refuses(targets: Any, ids: Any, message: str):
    metric = CocoAP()
    with pytest.raises(ValueError, match=message):
        metric.update([RIGHT], targets, ids=ids)
    metric.update([RIGHT], [RIGHT])
    assert metric.compute()["AP"].item() == pytest.approx(1)


def test_annotations_hold_the_targets():
    annotations, _ = contents(*scenes())
    for given in ({"targets": [RIGHT], "ids": [1]}, {}):
        with pytest.raises(ValueError, match="annotations hold the targets; update with predictions and ids"):
            CocoAP(annotations).update([RIGHT], **given)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_came():
    with pytest.raises(ValueError, match="no image came; update with predictions and targets"):
        CocoAP().compute()


def test_mask_of_another_size():
    part = {"scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}
    small, large = part | {"masks": torch.ones(1, 50, 100)}, part | {"masks": torch.ones(1, 100, 100)}
    with pytest.raises(
        ValueError, match=r"prediction 0, entry 0: the mask is of size \[50, 100\], but .* \[100, 100\]"
    ):
        CocoAP(iou_type="segm").update([small], [large])


# Several processes


def work(rank: int, folder: str) -> None:
    """Uneven shards without ids; shards that overlap with ids; all on process 0."""
    predictions, targets = scenes()
    spread, named, idle = CocoAP(), CocoAP(), CocoAP()
    own, overlap = (slice(0, 3), slice(0, 6)) if rank == 0 else (slice(3, 10), slice(4, 10))
    spread.update(predictions[own], targets[own])
    named.update(predictions[overlap], targets[overlap], ids=range(10)[overlap])
    if rank == 0:
        idle.update(predictions, targets)
    torch.save([metric.compute() for metric in (spread, named, idle)], f"{folder}/{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_pycocotools(tmp_path: Path, two_processes: Callable[..., None]):
    two_processes(work)
    expected = official(*contents(*scenes()))
    for rank in (0, 1):
        for result in torch.load(tmp_path / f"{rank}.pt"):
            assert {name: value.item() for name, value in result.items()} == pytest.approx(expected, rel=0, abs=1e-9)
