"""Object detection and instance segmentation: COCO average precision, the official twelve numbers.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); matching and accumulation are those of the
official code (cocodataset/cocoapi, PyPI `pycocotools`), or of its faster twin `faster-coco-eval`: equal numbers.
What differs from calling them directly:

* annotation ids are numbered anew from 1: both take an annotation with id 0 for "unmatched" and never find it;
* no detections at all score 0 (`COCO.loadRes([])` fails);
* the size of a detected mask is the mask's, also where its entry holds a box, too (`COCO.loadRes` takes the box's);
* each category is evaluated alone, on the images that hold it; categories do not interact, so no number changes.

Coordinates are absolute pixels, boxes in files are [x, y, width, height], and scores of absent groups are -1, as in
the official code.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pycocotools import mask as rle_ops
from torch import Tensor

from fiber_eval._coco_evaluation import (
    AREAS,
    Backend,
    average_precisions,
    categories_ap,
    choose_backend,
    evaluate,
    mean,
)
from fiber_eval._regions import GroundTruth, IouType, Regions, read_annotations, read_detections
from fiber_eval.files import some
from fiber_eval.samples import RecordMetric

BoxFormat = Literal["xyxy", "xywh"]
COCO_MAX_DETECTIONS = (1, 10, 100)  # of a category in an image


def coco_ap(
    predictions: Sequence[Mapping[str, Any]] | Path | str,
    annotations: Mapping[str, Any] | Path | str,
    *,
    iou_type: IouType = "bbox",
    backend: Backend = "auto",
    per_category: bool = False,
) -> dict[str, float]:
    """COCO average precision and recall of a list of detections.

    An image without detections is simply an image where nothing was found. Detections of equal score keep their order
    within an image; images go by their ids. At most 100 detections of a category count in an image, the best ones.

    Args:
        predictions: A COCO results file or its contents: `image_id`, `category_id`, `score`, and `bbox` or, for masks,
            `segmentation` in run lengths. A detection that comes twice counts twice.
        annotations: A COCO annotation file (`.json` or `.json.gz`) or its contents: `images`, `annotations` (each with
            `area`; `iscrowd` is 0 where it is absent) and `categories`. Ids need not be contiguous.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        backend: The evaluator. "auto" takes faster-coco-eval where it is installed, otherwise pycocotools.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` in 0..1, or -1 where the
        annotations hold nothing of the kind.

    Raises:
        ValueError: A malformed entry, an id that the annotations lack, an id given twice, or a bad option; names the
            file and the entry.
        ModuleNotFoundError: The backend is not installed.

    Example:
        >>> from fiber_eval.detection import coco_ap
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0, "id": 1}
        >>> annotations = {"images": [{"id": 7}], "categories": [{"id": 1, "name": "dog"}], "annotations": [truth]}
        >>> result = coco_ap([{"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 40], "score": 0.9}], annotations)
        >>> round(result["AP50"], 6), round(result["AP"], 6)  # an overlap of 0.8 passes 7 of 10 thresholds
        (1.0, 0.7)
    """
    truth = read_annotations(annotations, iou_type)
    return summarize(read_detections(predictions, truth), truth, backend, per_category)


def score_files(
    annotations: Path,
    results: Path,
    *,
    iou_type: IouType = "bbox",
    backend: Backend = "auto",
    per_category: bool = False,
) -> dict[str, float]:
    """Score a results file.

    Args:
        annotations: COCO's instances_*.json
        results: JSON [{image_id, category_id, bbox: [x, y, width, height] or segmentation, score}]
        iou_type: As of `coco_ap`, like the two that follow.
        backend: The evaluator.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        As `coco_ap`.

    Raises:
        ValueError: As `coco_ap`.
        ModuleNotFoundError: The backend is not installed.

    Source: Lin et al. 2014, Microsoft COCO, https://arxiv.org/abs/1405.0312

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.detection import score_files
        >>> box = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50]}
        >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1}], "annotations": [box | {"id": 1, "area": 2500}]}
        >>> with tempfile.TemporaryDirectory() as name:
        ...     annotations, results = Path(name, "annotations.json"), Path(name, "results.json")
        ...     _ = annotations.write_text(json.dumps(truth))
        ...     _ = results.write_text(json.dumps([box | {"score": 0.9}]))
        ...     round(score_files(annotations, results)["AP"], 6)
        1.0
    """
    return coco_ap(results, annotations, iou_type=iou_type, backend=backend, per_category=per_category)


class DetectionMetric(RecordMetric):
    """What detection metrics share: predictions by image id, kept once, scored against a whole annotation file."""

    def __init__(
        self,
        annotations: Mapping[str, Any] | Path | str,
        *,
        iou_type: IouType = "bbox",
        box_format: BoxFormat = "xyxy",
        backend: Backend = "auto",
        per_category: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if box_format not in get_args(BoxFormat):
            raise ValueError(f"box_format must be one of {', '.join(get_args(BoxFormat))}, but is {box_format!r}.")
        choose_backend(backend)
        self.truth = self._read(annotations, iou_type)
        self.iou_type, self.box_format, self.backend, self.per_category = iou_type, box_format, backend, per_category

    def update(self, image_ids: Tensor | Sequence[int], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Add the detections of some images.

        Args:
            image_ids: [B], ids of the annotations.
            predictions: B of them, an image without detections too: `boxes` [N, 4] in pixels of the original image
                (for masks not needed), `scores` [N], `labels` [N] (category ids), and for masks `masks`: [N, H, W] of
                the image's size, true inside, or N COCO run lengths.

        Raises:
            ValueError: A part is missing, shapes disagree, an id is unknown, or a value is NaN or a box negative.
        """
        ids = [int(i) for i in image_ids]
        if len(ids) != len(predictions):
            raise ValueError(f"update needs a prediction for each image, but got {len(ids)} ids, {len(predictions)}.")
        if unknown := [image_id for image_id in ids if image_id not in self.truth.images]:
            raise ValueError(f"{some(unknown)}: no image of the annotations has such an id; give their ids.")
        rows = [self._regions(*pair) for pair in zip(ids, predictions, strict=True)]
        for image_id, regions in zip(ids, rows, strict=True):
            self.keep(pickle.dumps((image_id, regions)))

    def compute(self) -> dict[str, Tensor]:
        """Score all images that came, over all processes.

        Returns:
            Scalars in float64 on the CPU under the names of the function; the same on every process.

        Raises:
            ValueError: An image of the annotations never came.
        """
        seen: dict[int, Regions] = {}
        stream = io.BytesIO(b"".join(self.kept()))
        while stream.tell() < len(stream.getbuffer()):
            image_id, regions = pickle.load(stream)
            seen.setdefault(image_id, regions)
        missing = [image_id for image_id in self.truth.images if image_id not in seen]
        if missing and not self._batch_only:
            raise ValueError(
                f"{len(missing)} of {len(self.truth.images)} images of the annotations never came: {some(missing)}; "
                "update with each image, also where nothing was detected."
            )
        truth = self.truth.without(missing)
        found = Regions.join([truth.regions[:0], *(seen[image_id] for image_id in truth.images)])
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self._score(found, truth).items()}

    @staticmethod
    def _read(annotations: Any, iou_type: IouType) -> GroundTruth:
        return read_annotations(annotations, iou_type)

    def _score(self, found: Regions, truth: GroundTruth) -> dict[str, float]:
        raise NotImplementedError

    def _regions(self, image_id: int, prediction: Mapping[str, Any]) -> Regions:
        """One image's prediction as checked regions."""
        needed = ["masks" if self.iou_type == "segm" else "boxes", "scores", "labels"]
        if absent := [key for key in needed if key not in prediction]:
            raise ValueError(f"the prediction of image {image_id} lacks {', '.join(absent)}; give {', '.join(needed)}.")
        sizes = {key: len(prediction[key]) for key in needed}
        if len(set(sizes.values())) > 1:
            came = ", ".join(f"{key} {size}" for key, size in sizes.items())
            raise ValueError(f"the prediction of image {image_id} must hold equally many of each, but holds {came}.")
        scores, labels = torch.as_tensor(prediction["scores"]).tolist(), torch.as_tensor(prediction["labels"]).tolist()
        entries: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": label, "score": score}
            for label, score in zip(labels, scores, strict=True)
        ]
        if self.iou_type == "segm":
            key, values = "segmentation", _run_lengths(prediction["masks"])
        else:
            boxes = torch.as_tensor(prediction["boxes"]).detach().cpu().double()
            if self.box_format == "xyxy" and boxes.ndim == 2 and boxes.shape[1] == 4:
                boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
            key, values = "bbox", boxes.tolist()
        for entry, value in zip(entries, values, strict=True):
            entry[key] = value
        return read_detections(entries, self.truth, f"the prediction of image {image_id}")


class CocoAP(DetectionMetric):
    """COCO average precision of a detector, against a whole annotation file.

    Image ids decide what belongs together, so batches, order and the number of processes are free. An image seen again
    counts once (the first is kept, the others are ignored), which undoes the padding of a distributed sampler. Every
    image of the annotations must come, with an empty prediction where nothing was found.

    Args:
        annotations: A COCO annotation file or its contents.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        box_format: Of predicted boxes: corners ("xyxy"), or corner and size ("xywh").
        backend: As in `coco_ap`, like `per_category`.
        per_category: Whether to add `AP/<category id>` for each category.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: Malformed annotations or a bad option.
        ModuleNotFoundError: The backend is not installed.

    Example:
        >>> import torch
        >>> from fiber_eval.detection import CocoAP
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0, "id": 1}
        >>> annotations = {"images": [{"id": 7}], "categories": [{"id": 1, "name": "dog"}], "annotations": [truth]}
        >>> metric = CocoAP(annotations)
        >>> boxes = torch.tensor([[10.0, 10.0, 60.0, 50.0]])
        >>> metric.update([7], [{"boxes": boxes, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}])
        >>> round(metric.compute()["AP"].item(), 6)
        0.7
    """

    def _score(self, found: Regions, truth: GroundTruth) -> dict[str, float]:
        return summarize(found, truth, self.backend, self.per_category)


def summarize(
    found: Regions, truth: GroundTruth, backend: Backend = "auto", per_category: bool = False
) -> dict[str, float]:
    """The twelve numbers of COCO, as `coco_ap` gives them."""
    curves = evaluate(found, truth, backend, COCO_MAX_DETECTIONS)
    result = average_precisions(curves.precision[..., -1])
    for index, count in enumerate(COCO_MAX_DETECTIONS):
        result[f"AR{count}"] = mean(curves.recall[:, :, 0, index])
    result |= {f"AR{name}": mean(curves.recall[:, :, index, -1]) for name, index in AREAS.items()}
    return result | (categories_ap(truth, curves) if per_category else {})


def _run_lengths(masks: Any) -> list[Any]:
    """COCO run lengths of [N, H, W] masks; a list is taken for run lengths already."""
    if not isinstance(masks, Tensor | np.ndarray):
        return list(masks)
    masks = torch.as_tensor(masks).detach().cpu().to(torch.uint8).numpy()
    return [rle_ops.encode(np.asfortranarray(mask)) for mask in masks]
