"""Detection with a long tail of categories: LVIS average precision, standard and fixed.

Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (CVPR 2019), official code
lvis-dataset/lvis-api; fixed AP after Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the
Details" (2021), official code achalddave/large-vocab-devil. The PyPI package `lvis` is not needed.

LVIS says for each image which categories were searched for: those annotated, and those known to be absent
(`neg_category_ids`). Detections of others are dropped, as are regions without area, annotated or detected, before
anything is matched. Where a category was not annotated exhaustively (`not_exhaustive_category_ids`), unmatched
detections are neither right nor wrong. To COCO's evaluators those are detections of no size, since what is outside
the sizes asked for counts only if it matches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fiber_eval._coco_evaluation import AREAS, Backend, average_precisions, categories_ap, evaluate, mean
from fiber_eval._regions import Given, GroundTruth, IouType, Regions, read_annotations, read_detections
from fiber_eval._tensors import BoxFormat, OfImage
from fiber_eval.detection import DetectionMetric
from fiber_eval.files import Id, shown
from fiber_eval.samples import MetricOptions, as_numbers, as_tensors

FREQUENCIES = ("r", "c", "f")  # rare, common, frequent
STANDARD_PER_IMAGE = 300
FIXED_PER_CATEGORY = 10_000
NO_SIZE = -1.0  # an area outside every range


def lvis_ap(
    predictions: Sequence[Mapping[str, Any]] | Path | str,
    annotations: Mapping[str, Any] | Path | str,
    *,
    iou_type: IouType = "bbox",
    fixed: bool = False,
    per_image: int = STANDARD_PER_IMAGE,
    fixed_per_category: int = FIXED_PER_CATEGORY,
    backend: Backend = "faster_coco_eval",
    per_category: bool = False,
) -> dict[str, Tensor]:
    """LVIS average precision and recall of a list of detections.

    Args:
        predictions: A results file in COCO's format or its contents.
        annotations: An LVIS annotation file (`.json` or `.json.gz`) or its contents: as COCO's, with `neg_category_ids`
            and `not_exhaustive_category_ids` in each image and `frequency` ("r", "c" or "f") in each category.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        fixed: Fixed AP: no limit an image, but one a category over the whole data set.
        per_image: Detections of all categories that count in an image, the best ones; not of use in fixed AP.
        fixed_per_category: Detections that count in fixed AP, the best of each category.
        backend: The evaluator: faster-coco-eval, or the official pycocotools, several times as slow.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `APr`, `APc`, `APf`, and `AR@300`, `ARs@300`, `ARm@300`, `ARl@300`
        (in fixed AP `AR@-1` and so on, as the official code names them); in 0..1, or -1 where the annotations hold
        nothing of the kind; scalars in float64 on the CPU.

    Raises:
        ValueError: A malformed entry, an id that the annotations lack, an id given twice, or a bad option; names the
            file and the entry.

    Example:
        >>> from fiber_eval.lvis import lvis_ap
        >>> image = {"id": 7, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
        >>> categories = [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}, {"id": 3, "frequency": "c"}]
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "id": 1}
        >>> found = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "score": 0.9}
        >>> annotations = {"images": [image], "categories": categories, "annotations": [truth]}
        >>> result = lvis_ap([found, found | {"category_id": 3}], annotations)  # nobody searched for category 3
        >>> round(result["APf"].item(), 6), result["APc"].item()
        (1.0, -1.0)
    """
    truth = read_lvis(annotations, iou_type)
    found = read_detections(predictions, truth)
    limits = {"per_image": per_image, "fixed_per_category": fixed_per_category}
    return as_tensors(summarize_lvis(found, truth, fixed=fixed, backend=backend, per_category=per_category, **limits))


def score_files(
    annotations: Path,
    results: Path,
    *,
    iou_type: IouType = "bbox",
    fixed: bool = False,
    per_image: int = STANDARD_PER_IMAGE,
    fixed_per_category: int = FIXED_PER_CATEGORY,
    backend: Backend = "faster_coco_eval",
    per_category: bool = False,
) -> dict[str, float]:
    """Score a results file in COCO's format against LVIS's annotations.

    Args:
        annotations: LVIS's lvis_v1_*.json
        results: JSON [{image_id, category_id, bbox: [x, y, width, height] or segmentation, score}]
        iou_type: As of `lvis_ap`, like all that follow.
        fixed: Whether fixed AP is wanted, or standard.
        per_image: Detections that count in an image.
        fixed_per_category: Detections that count of a category in fixed AP.
        backend: The evaluator.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        As `lvis_ap`, in Python's numbers.

    Raises:
        ValueError: As `lvis_ap`.

    Source: Gupta et al. 2019, LVIS, https://arxiv.org/abs/1908.03195; fixed AP: https://arxiv.org/abs/2102.01066

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.lvis import score_files
        >>> image = {"id": 7, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        >>> box = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50]}
        >>> truth = {"images": [image], "categories": [{"id": 1, "frequency": "r"}]}
        >>> truth["annotations"] = [box | {"id": 1, "area": 2500}]
        >>> with tempfile.TemporaryDirectory() as name:
        ...     annotations, results = Path(name, "annotations.json"), Path(name, "results.json")
        ...     _ = annotations.write_text(json.dumps(truth))
        ...     _ = results.write_text(json.dumps([box | {"score": 0.9}]))
        ...     round(score_files(annotations, results)["APr"], 6)
        1.0
    """
    scores = lvis_ap(
        results,
        annotations,
        iou_type=iou_type,
        fixed=fixed,
        per_image=per_image,
        fixed_per_category=fixed_per_category,
        backend=backend,
        per_category=per_category,
    )
    return as_numbers(scores)


class LvisAP(DetectionMetric):
    """LVIS average precision of a detector, standard or fixed, against a whole annotation file.

    Images, repeats and processes are treated as in `CocoAP`. For fixed AP, give every detection of an image, however
    low its score, or at least many more than 300.

    Args:
        annotations: An LVIS annotation file or its contents.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        fixed: As in `lvis_ap`, like `per_image`, `fixed_per_category`, `backend` and `per_category`.
        per_image: Detections that count in an image.
        fixed_per_category: Detections that count of a category in fixed AP.
        box_format: As in `CocoAP`.
        backend: The evaluator.
        per_category: Whether to add `AP/<category id>` for each category.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: Malformed annotations or a bad option.

    Example:
        >>> import torch
        >>> from fiber_eval.lvis import LvisAP
        >>> image = {"id": 7, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "id": 1}
        >>> categories = [{"id": 1, "frequency": "r"}]
        >>> metric = LvisAP({"images": [image], "categories": categories, "annotations": [truth]}, fixed=True)
        >>> boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
        >>> found = {"boxes": boxes, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        >>> metric.update([found], ids=[7])
        >>> round(metric.compute()["APr"].item(), 6)
        1.0
    """

    def __init__(
        self,
        annotations: Mapping[str, Any] | Path | str,
        *,
        iou_type: IouType = "bbox",
        fixed: bool = False,
        per_image: int = STANDARD_PER_IMAGE,
        fixed_per_category: int = FIXED_PER_CATEGORY,
        box_format: BoxFormat = "xyxy",
        backend: Backend = "faster_coco_eval",
        per_category: bool = False,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        _check_limits(per_image, fixed_per_category)
        self.lvis = read_lvis(annotations, iou_type)
        super().__init__(
            self.lvis, iou_type=iou_type, box_format=box_format, backend=backend, per_category=per_category, **kwargs
        )
        self.fixed, self.per_image, self.fixed_per_category = fixed, per_image, fixed_per_category

    def update(self, predictions: Sequence[OfImage], *, ids: Tensor | Sequence[Id]) -> None:
        """Add the detections of some images.

        Args:
            predictions: As in `CocoAP.update`.
            ids: [B], the images' ids in the annotations.

        Raises:
            ValueError: As `CocoAP.update`.
        """
        self._update_known(self.lvis, predictions, ids)

    def _score(self, found: Regions, truth: GroundTruth) -> dict[str, float]:
        return summarize_lvis(
            found,
            truth,
            fixed=self.fixed,
            per_image=self.per_image,
            fixed_per_category=self.fixed_per_category,
            backend=self.backend,
            per_category=self.per_category,
        )


def read_lvis(given: Given, iou_type: IouType) -> GroundTruth:
    """Check an annotation file in LVIS's format: COCO's, and what LVIS adds to images and categories."""
    truth = read_annotations(given, iou_type)
    source = truth.source
    for image_id, image in truth.images.items():
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = image.get(key)
            if not isinstance(ids, list):
                raise ValueError(f"{source}: image {image_id} must hold a list {key}; give LVIS annotations")
            if unknown := [i for i in ids if type(i) is not int or i not in truth.categories]:
                raise ValueError(f"{source}: {key} of image {image_id} holds {shown(unknown[0])}, which is no category")
    for category_id, category in truth.categories.items():
        if category.get("frequency") not in FREQUENCIES:
            raise ValueError(
                f"{source}: frequency of category {category_id} must be one of {', '.join(FREQUENCIES)}, but is "
                f"{shown(category.get('frequency'))}; give LVIS annotations"
            )
    no_crowds = np.zeros_like(truth.regions.crowds)  # LVIS has none, and its code looks at none
    return replace(truth, regions=replace(truth.regions, crowds=no_crowds))


def summarize_lvis(
    found: Regions,
    truth: GroundTruth,
    *,
    fixed: bool = False,
    per_image: int = STANDARD_PER_IMAGE,
    fixed_per_category: int = FIXED_PER_CATEGORY,
    backend: Backend = "faster_coco_eval",
    per_category: bool = False,
) -> dict[str, float]:
    """The numbers of LVIS, as `lvis_ap` gives them."""
    _check_limits(per_image, fixed_per_category)
    if fixed:
        found = found[_best(found.category_ids, found.scores, fixed_per_category)]
    else:
        found = found[_best(found.image_ids, found.scores, per_image)]
    found, truth = _as_coco(found, truth)
    curves = evaluate(found, truth, backend, [max(1, len(found))])
    result = average_precisions(curves.precision[..., 0])
    frequencies = np.array([category["frequency"] for category in truth.categories.values()])
    for frequency in FREQUENCIES:
        result[f"AP{frequency}"] = mean(curves.precision[:, :, frequencies == frequency, 0])
    for name, index in {"": 0, **AREAS}.items():
        result[f"AR{name}@{-1 if fixed else per_image}"] = mean(curves.recall[:, :, index])
    return result | (categories_ap(truth, curves) if per_category else {})


def _check_limits(per_image: int, fixed_per_category: int) -> None:
    for name, value in (("per_image", per_image), ("fixed_per_category", fixed_per_category)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}")


def _best(groups: NDArray[np.int64], scores: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Which rows are among the `count` best of their group; of equal scores the first."""
    order = np.lexsort((-scores, groups))
    first = np.searchsorted(groups[order], groups[order])
    kept = np.zeros(len(groups), dtype=bool)
    kept[order] = np.arange(len(groups)) - first < count
    return kept


def _as_coco(found: Regions, truth: GroundTruth) -> tuple[Regions, GroundTruth]:
    """What makes COCO's evaluators count as LVIS does: see the head of the module."""
    image_ids, category_ids = (np.fromiter(ids, np.int64, len(ids)) for ids in (truth.images, truth.categories))

    def pairs(images: NDArray[np.int64], categories: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each pair of an image and a category."""
        return np.searchsorted(image_ids, images) * len(category_ids) + np.searchsorted(category_ids, categories)

    def listed(key: str) -> NDArray[np.int64]:
        """The pairs of an image and each of the categories that it lists."""
        rows = [(image_id, category) for image_id, image in truth.images.items() for category in image[key]]
        return pairs(*np.array(rows, dtype=np.int64).reshape(-1, 2).T)

    annotated = truth.regions[truth.regions.areas > 0]
    searched = [pairs(annotated.image_ids, annotated.category_ids), listed("neg_category_ids")]
    found = found[found.areas > 0]
    where = pairs(found.image_ids, found.category_ids)
    areas = np.where(np.isin(where, listed("not_exhaustive_category_ids")), NO_SIZE, found.areas)
    found = replace(found, areas=areas)[np.isin(where, np.concatenate(searched))]
    return found, replace(truth, regions=annotated)
