"""Precision and recall of detections, accumulated by faster-coco-eval or, as the reference, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fiber_eval._regions import GroundTruth, IouType, Regions
from fiber_eval.files import shown

Backend = Literal["faster_coco_eval", "pycocotools"]
AREAS = {"s": 1, "m": 2, "l": 3}  # small, medium, large: their indices among the evaluators' ranges; 0 is all


@dataclass(frozen=True)
class Curves:
    """What an evaluator accumulated; -1 where nothing is annotated.

    Axes: T thresholds of overlap, R of recall, K categories in the order of ids, A areas (all, small, medium, large),
    M numbers of detections.
    """

    precision: NDArray[np.float64]
    """[T, R, K, A, M]."""
    recall: NDArray[np.float64]
    """[T, K, A, M]."""


def evaluate(found: Regions, truth: GroundTruth, backend: Backend, max_detections: Sequence[int]) -> Curves:
    """Precision and recall of every category, each by itself on the images that hold it.

    Args:
        found: The detections; those of one score count in the order of images' ids, and within one as they stand.
        truth: The annotations.
        backend: The evaluator.
        max_detections: M numbers of detections of a category that count in an image, rising.

    Raises:
        ValueError: There is no such backend.
    """
    check_backend(backend)
    dataset_class, evaluator_class, parameters = _load(backend, truth.iou_type)
    size = (len(truth.categories), len(AREAS) + 1, len(max_detections))
    precision = -np.ones((len(parameters.iouThrs), len(parameters.recThrs), *size))
    recall = -np.ones((len(parameters.iouThrs), *size))
    annotated, detected = _by_category(truth.regions), _by_category(found)
    nothing = found[:0]
    for index, category_id in enumerate(truth.categories):
        if category_id not in annotated:
            continue
        pair = [annotated[category_id], detected.get(category_id, nothing)]
        image_ids = sorted({*pair[0].image_ids.tolist(), *pair[1].image_ids.tolist()})
        datasets = []
        for regions in pair:
            dataset = dataset_class()
            dataset.dataset = {
                "images": [truth.images[image_id] for image_id in image_ids],
                "categories": [{"id": category_id}],
                "annotations": _as_entries(regions),
            }
            datasets.append(dataset)
        with contextlib.redirect_stdout(io.StringIO()):
            for dataset in datasets:
                dataset.createIndex()
            evaluator = evaluator_class(*datasets, truth.iou_type)
            evaluator.params.maxDets = list(max_detections)
            evaluator.evaluate()
            evaluator.accumulate()
        precision[:, :, index] = np.reshape(evaluator.eval["precision"], precision[:, :, :1].shape)[:, :, 0]
        recall[:, index] = np.reshape(evaluator.eval["recall"], recall[:, :1].shape)[:, 0]
    return Curves(precision, recall)


def check_backend(backend: Backend) -> None:
    """ValueError unless there is a backend of that name."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, but is {shown(backend)}")


def average_precisions(precision: NDArray[np.float64]) -> dict[str, float]:
    """AP, AP50, AP75 and those of areas, from precision [T, R, K, A]."""
    result = {"AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0])}
    return result | {f"AP{name}": mean(precision[..., index]) for name, index in AREAS.items()}


def categories_ap(truth: GroundTruth, curves: Curves) -> dict[str, float]:
    """AP of each category under its id."""
    return {f"AP/{key}": mean(curves.precision[:, :, index, 0, -1]) for index, key in enumerate(truth.categories)}


def mean(values: NDArray[np.float64]) -> float:
    """The mean over what exists, -1 if nothing does."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _load(backend: str, iou_type: IouType) -> tuple[Any, Any, Any]:
    """The dataset, evaluator and default parameters of a backend."""
    if backend == "faster_coco_eval":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster, COCOeval_faster(iouType=iou_type).params
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval, COCOeval(iouType=iou_type).params


def _by_category(regions: Regions) -> dict[int, Regions]:
    order = regions.category_ids.argsort(kind="stable")
    names, starts = np.unique(regions.category_ids[order], return_index=True)
    ends = [*starts[1:], len(order)]
    return {
        int(name): regions[order[start:end]] for name, start, end in zip(names, starts, ends[: len(names)], strict=True)
    }


def _as_entries(regions: Regions) -> list[dict[str, Any]]:
    """The rows as the evaluators take them, with ids from 1."""
    keys = ("id", "image_id", "category_id", "bbox", "area", "score", "iscrowd", "segmentation")
    columns = (
        regions.image_ids,
        regions.category_ids,
        regions.boxes,
        regions.areas,
        regions.scores,
        regions.crowds,
        regions.rles,
    )
    rows = zip(range(1, len(regions) + 1), *(column.tolist() for column in columns), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in rows]
