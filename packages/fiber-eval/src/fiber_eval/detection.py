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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pycocotools import mask as rle_ops
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

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
from fiber_eval.files import read_json, some

BoxFormat = Literal["xyxy", "xywh"]
COCO_MAX_DETECTIONS = (1, 10, 100)  # of a category in an image


def coco_ap(
    annotations: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    iou_type: IouType = "bbox",
    backend: Backend = "auto",
    per_category: bool = False,
) -> dict[str, float]:
    """COCO average precision and recall of a list of detections.

    An image without detections is simply an image where nothing was found. Detections of equal score keep their order
    within an image; images go by their ids. At most 100 detections of a category count in an image, the best ones.

    Args:
        annotations: The contents of a COCO annotation file: `images`, `annotations` (each with `area`; `iscrowd` is 0
            where it is absent) and `categories`. Ids need not be contiguous.
        detections: The contents of a COCO results file: `image_id`, `category_id`, `score`, and `bbox` or, for masks,
            `segmentation` in run lengths. A detection that comes twice counts twice.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        backend: The evaluator. "auto" takes faster-coco-eval where it is installed, otherwise pycocotools.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` in 0..1, or -1 where the
        annotations hold nothing of the kind.

    Raises:
        ValueError: A malformed entry, an id that the annotations lack, an id given twice, or a bad option.
        ModuleNotFoundError: The backend is not installed.

    Example:
        >>> from fiber_eval.detection import coco_ap
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0, "id": 1}
        >>> annotations = {"images": [{"id": 7}], "categories": [{"id": 1, "name": "dog"}], "annotations": [truth]}
        >>> result = coco_ap(annotations, [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 40], "score": 0.9}])
        >>> round(result["AP50"], 6), round(result["AP"], 6)  # an overlap of 0.8 passes 7 of 10 thresholds
        (1.0, 0.7)
    """
    truth = read_annotations(annotations, iou_type, "annotations")
    found = read_detections(detections, truth, "detections")
    return summarize(truth, found, backend, per_category)


def score_files(
    annotations: Path,
    results: Path,
    *,
    iou_type: IouType = "bbox",
    backend: Backend = "auto",
    per_category: bool = False,
) -> dict[str, float]:
    """`coco_ap` of an annotation file and a results file in COCO's JSON formats; `.json.gz` is read too.

    Args:
        annotations: As `instances_val2017.json`.
        results: A list of detections, as submitted to the COCO server.
        iou_type: As in `coco_ap`, like the two that follow.
        backend: The evaluator.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        As `coco_ap`.

    Raises:
        ValueError: As `coco_ap`, naming the file and the entry.
        ModuleNotFoundError: The backend is not installed.
    """
    truth = read_annotations(read_json(annotations), iou_type, str(annotations))
    found = read_detections(read_json(results), truth, str(results))
    return summarize(truth, found, backend, per_category)


class DetectionMetric(Metric):
    """What detection metrics share: predictions by image id, kept once, scored against a whole annotation file."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    predictions: list[Tensor]

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
        if isinstance(annotations, Path | str):
            self.truth = self._read(read_json(Path(annotations)), iou_type, str(annotations))
        else:
            self.truth = self._read(annotations, iou_type, "annotations")
        self.iou_type, self.box_format, self.backend, self.per_category = iou_type, box_format, backend, per_category
        # Each image's regions, pickled: they gather as one tensor, whatever the images hold.
        self.add_state("predictions", default=[], dist_reduce_fx=None)

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
            packed = bytearray(pickle.dumps((image_id, regions)))
            self.predictions.append(torch.frombuffer(packed, dtype=torch.uint8).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Score all images that came, over all processes.

        Returns:
            Scalars in float64 on the CPU under the names of the function; the same on every process.

        Raises:
            ValueError: An image of the annotations never came.
        """
        seen: dict[int, Regions] = {}
        stream = io.BytesIO(self._whole().cpu().numpy().tobytes())
        while stream.tell() < len(stream.getbuffer()):
            image_id, regions = pickle.load(stream)
            seen.setdefault(image_id, regions)
        if missing := [image_id for image_id in self.truth.images if image_id not in seen]:
            raise ValueError(
                f"{len(missing)} of {len(self.truth.images)} images of the annotations never came: {some(missing)}; "
                "update with each image, also where nothing was detected."
            )
        found = Regions.join([seen[image_id] for image_id in self.truth.images])
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self._score(found).items()}

    @staticmethod
    def _read(contents: Any, iou_type: IouType, source: str) -> GroundTruth:
        return read_annotations(contents, iou_type, source)

    def _score(self, found: Regions) -> dict[str, float]:
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

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None) -> None:
        # torchmetrics gathers a list element by element, which hangs where processes hold different numbers of them.
        self.predictions = [self._whole()]
        super()._sync_dist(dist_sync_fn, process_group)

    def _whole(self) -> Tensor:
        return torch.cat([torch.empty(0, dtype=torch.uint8, device=self.device), *self.predictions])


class CocoAP(DetectionMetric):
    """COCO average precision of a detector, against a whole annotation file.

    Image ids decide what belongs together, so batches, order and the number of processes are free. An image seen again
    counts once (the first is kept, the others are ignored), which undoes the padding of a distributed sampler. Every
    image of the annotations must come, with an empty prediction where nothing was found.

    `forward` (calling the metric) also scores the batch by itself, which needs all images; `update` does not.

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

    def _score(self, found: Regions) -> dict[str, float]:
        return summarize(self.truth, found, self.backend, self.per_category)


def summarize(
    truth: GroundTruth, found: Regions, backend: Backend = "auto", per_category: bool = False
) -> dict[str, float]:
    """The twelve numbers of COCO, as `coco_ap` gives them."""
    curves = evaluate(truth, found, backend, COCO_MAX_DETECTIONS)
    result = average_precisions(curves.precision[..., -1])
    for place, count in enumerate(COCO_MAX_DETECTIONS):
        result[f"AR{count}"] = mean(curves.recall[:, :, 0, place])
    result |= {f"AR{name}": mean(curves.recall[:, :, place, -1]) for name, place in AREAS.items()}
    return result | (categories_ap(truth, curves) if per_category else {})


def _run_lengths(masks: Any) -> list[Any]:
    """COCO run lengths of [N, H, W] masks; a list is taken for run lengths already."""
    if not isinstance(masks, Tensor | np.ndarray):
        return list(masks)
    masks = torch.as_tensor(masks).detach().cpu().to(torch.uint8).numpy()
    return [rle_ops.encode(np.asfortranarray(mask)) for mask in masks]
