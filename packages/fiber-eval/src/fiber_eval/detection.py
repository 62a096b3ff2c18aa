"""Object detection and instance segmentation: COCO average precision, the official twelve numbers.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); matching and accumulation are those of the
official code (cocodataset/cocoapi, PyPI `pycocotools`) in its faster twin `faster-coco-eval`, or itself: equal numbers.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

from torch import Tensor

from fiber_eval._coco_evaluation import (
    AREAS,
    Backend,
    average_precisions,
    categories_ap,
    check_backend,
    evaluate,
    mean,
)
from fiber_eval._regions import (
    GroundTruth,
    IouType,
    Regions,
    category_ids,
    read_annotations,
    read_detections,
    read_target,
)
from fiber_eval._tensors import BoxFormat, OfImage, as_entries, image_size
from fiber_eval.files import Id, shown, some
from fiber_eval.samples import MetricOptions, RecordMetric, as_numbers, as_tensors

COCO_MAX_DETECTIONS = (1, 10, 100)  # of a category in an image


def coco_ap(
    predictions: Sequence[Mapping[str, Any]] | Path | str,
    annotations: Mapping[str, Any] | Path | str,
    *,
    iou_type: IouType = "bbox",
    backend: Backend = "faster_coco_eval",
    per_category: bool = False,
) -> dict[str, Tensor]:
    """COCO average precision and recall of a list of detections.

    An image without detections is simply an image where nothing was found. Detections of equal score keep their order
    within an image; images go by their ids. At most 100 detections of a category count in an image, the best ones.

    Args:
        predictions: A COCO results file or its contents: `image_id`, `category_id`, `score`, and `bbox` or, for masks,
            `segmentation` in run lengths. A detection that comes twice counts twice.
        annotations: A COCO annotation file (`.json` or `.json.gz`) or its contents: `images`, `annotations` (without
            `area`, that of the box or mask; without `iscrowd`, 0) and `categories`. Ids need not be contiguous; those
            of images may be texts.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        backend: The evaluator: faster-coco-eval, or the official pycocotools, several times as slow.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` in 0..1, or -1 where the
        annotations hold nothing of the kind; scalars in float64 on the CPU.

    Raises:
        ValueError: A malformed entry, an id that the annotations lack, an id given twice, or a bad option; names the
            file and the entry.

    Example:
        >>> from fiber_eval.detection import coco_ap
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0, "id": 1}
        >>> annotations = {"images": [{"id": 7}], "categories": [{"id": 1, "name": "dog"}], "annotations": [truth]}
        >>> result = coco_ap([{"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 40], "score": 0.9}], annotations)
        >>> round(result["AP50"].item(), 6), round(result["AP"].item(), 6)  # IoU 0.8 passes 7 of 10 thresholds
        (1.0, 0.7)
    """
    truth = read_annotations(annotations, iou_type)
    return as_tensors(summarize(read_detections(predictions, truth), truth, backend, per_category))


def score_files(
    annotations: Path,
    results: Path,
    *,
    iou_type: IouType = "bbox",
    backend: Backend = "faster_coco_eval",
    per_category: bool = False,
) -> dict[str, float]:
    """Score a results file in COCO's format.

    Args:
        annotations: COCO's instances_*.json
        results: JSON [{image_id, category_id, bbox: [x, y, width, height] or segmentation, score}]
        iou_type: As of `coco_ap`, like the two that follow.
        backend: The evaluator.
        per_category: Whether to add `AP/<category id>` for each category.

    Returns:
        As `coco_ap`, in Python's numbers.

    Raises:
        ValueError: As `coco_ap`.

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
    return as_numbers(coco_ap(results, annotations, iou_type=iou_type, backend=backend, per_category=per_category))


class DetectionMetric(RecordMetric):
    """A metric that keeps the predictions of each image once and scores them against all targets."""

    truth: GroundTruth | None
    """What the annotation file holds; None where targets come with the predictions."""

    def __init__(
        self,
        truth: GroundTruth | None,
        *,
        iou_type: IouType,
        box_format: BoxFormat,
        backend: Backend,
        per_category: bool,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        super().__init__(**kwargs)
        for name, value, known in (("iou_type", iou_type, IouType), ("box_format", box_format, BoxFormat)):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, but is {shown(value)}")
        check_backend(backend)
        self.truth = truth
        self.iou_type, self.box_format, self.backend, self.per_category = iou_type, box_format, backend, per_category

    def compute(self) -> dict[str, Tensor]:
        """Score all images that came, over all processes.

        Returns:
            As the function; the same on every process.

        Raises:
            ValueError: An image of the annotations never came, or without annotations none came at all.
        """
        found, truth = self._against_file(self.truth) if self.truth else self._against_targets()
        return as_tensors(self._score(found, truth))

    def _score(self, found: Regions, truth: GroundTruth) -> dict[str, float]:
        raise NotImplementedError

    def _update_known(self, truth: GroundTruth, predictions: Sequence[OfImage], ids: Tensor | Sequence[Id]) -> None:
        """Add predictions of images that an annotation file holds."""
        listed = _listed(
            [truth.numbers.get(name, name) if isinstance(name, str) else name for name in ids], predictions
        )
        if unknown := [image_id for image_id in listed if image_id not in truth.images]:
            raise ValueError(f"{some(unknown)}: no image of the annotations has such an id; give their ids")
        found = []
        for image_id, prediction in zip(listed, predictions, strict=True):
            name = f"the prediction of image {image_id}"
            found.append(read_detections(self._entries(prediction, name, image_id, ("scores", "labels")), truth, name))
        for image_id, regions in zip(listed, found, strict=True):
            self.keep(pickle.dumps((image_id, regions, None)))

    def _entries(
        self, part: OfImage, name: str, image_id: int, needed: Sequence[str], optional: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        return as_entries(
            part,
            name,
            image_id=image_id,
            needed=needed,
            optional=optional,
            iou_type=self.iou_type,
            box_format=self.box_format,
        )

    def _records(self) -> Iterator[tuple[int | None, Regions, GroundTruth | None]]:
        """Image id, what was found and, if it came along, what is right; the lowest rank's first."""
        for part in self.kept():
            own: dict[int, tuple[Regions, GroundTruth | None]] = {}
            stream = io.BytesIO(part)
            while stream.tell() < len(part):
                image_id, found, truth = pickle.load(stream)
                if image_id is not None:
                    _check_again(image_id, (found, truth), own.setdefault(image_id, (found, truth)))
                yield image_id, found, truth

    def _against_file(self, truth: GroundTruth) -> tuple[Regions, GroundTruth]:
        seen: dict[int | None, Regions] = {}
        for image_id, regions, _ in self._records():
            seen.setdefault(image_id, regions)
        missing = [image_id for image_id in truth.images if image_id not in seen]
        if missing and not self._batch_only:
            raise ValueError(
                f"{len(missing)} of {len(truth.images)} images of the annotations never came: {some(missing)}; "
                "update with each image, also where nothing was detected"
            )
        truth = truth.without(missing)
        return Regions.join([truth.regions[:0], *(seen[image_id] for image_id in truth.images)]), truth

    def _against_targets(self) -> tuple[Regions, GroundTruth]:
        named: dict[int, tuple[Regions, GroundTruth]] = {}
        unnamed: list[tuple[Regions, GroundTruth]] = []
        for image_id, found, truth in self._records():
            assert truth is not None
            if image_id is None:
                unnamed.append((found, truth))
            else:
                named.setdefault(image_id, (found, truth))
        if not named and not unnamed:
            raise ValueError("no image came; update with predictions and targets before compute")
        named = dict(sorted(named.items()) + list(enumerate(unnamed, max(named, default=0) + 1)))
        return Regions.join([found.of_image(key) for key, (found, _) in named.items()]), GroundTruth.join(
            {key: truth for key, (_, truth) in named.items()}
        )


class CocoAP(DetectionMetric):
    """COCO average precision of a detector, against an annotation file or against targets that come in batches.

    With annotations, image ids decide what belongs together, so batches, order and the number of processes are free. An
    image seen again counts once (the first is kept), which undoes the padding of a distributed sampler; within a
    process, other predictions or targets under its id are an error. Every image of the annotations must come, with an
    empty prediction where nothing was found.

    Without annotations, targets come with the predictions, as in `torchmetrics.detection.MeanAveragePrecision`. Ids are
    then optional: an image without one counts each time that it comes, the padding of a distributed sampler, too.

    Args:
        annotations: A COCO annotation file or its contents; None where targets come in batches.
        iou_type: What overlaps: boxes ("bbox") or masks ("segm").
        box_format: Of all boxes that `update` gets: corners ("xyxy"), corner and size ("xywh"), or center and size
            ("cxcywh").
        backend: As in `coco_ap`, like `per_category`.
        per_category: Whether to add `AP/<category id>` for each category.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: Malformed annotations or a bad option.

    Example:
        >>> import torch
        >>> from fiber_eval.detection import CocoAP
        >>> labels = torch.tensor([1])
        >>> found = {"boxes": torch.tensor([[10.0, 10, 60, 50]]), "scores": torch.tensor([0.9]), "labels": labels}
        >>> metric = CocoAP()
        >>> metric.update([found], [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": labels}])
        >>> round(metric.compute()["AP"].item(), 6)
        0.7
        >>> truth = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0, "id": 1}
        >>> annotations = {"images": [{"id": 7}], "categories": [{"id": 1, "name": "dog"}], "annotations": [truth]}
        >>> metric = CocoAP(annotations)
        >>> metric.update([found], ids=[7])
        >>> round(metric.compute()["AP"].item(), 6)
        0.7
    """

    def __init__(
        self,
        annotations: Mapping[str, Any] | Path | str | None = None,
        *,
        iou_type: IouType = "bbox",
        box_format: BoxFormat = "xyxy",
        backend: Backend = "faster_coco_eval",
        per_category: bool = False,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        truth = None if annotations is None else read_annotations(annotations, iou_type)
        super().__init__(
            truth, iou_type=iou_type, box_format=box_format, backend=backend, per_category=per_category, **kwargs
        )

    def update(
        self,
        predictions: Sequence[OfImage],
        targets: Sequence[OfImage] | None = None,
        *,
        ids: Tensor | Sequence[Id] | None = None,
    ) -> None:
        """Add the detections of some images.

        Args:
            predictions: B of them, an image without detections too: `boxes` [N, 4] in pixels of the original image
                (for masks not needed), `scores` [N], `labels` [N] (category ids), and for masks `masks`: [N, H, W] of
                the image's size, true inside, or N COCO run lengths.
            targets: B of them, an image without objects too, unless there are annotations: `boxes` or `masks` as above,
                `labels` [N], and as wanted `iscrowd` [N] (0 without it) and `area` [N] (without it, of box or mask).
            ids: [B]: the images' ids in the annotations, integers or texts; without annotations they are optional,
                and integers.

        Raises:
            ValueError: A part is missing, shapes disagree, an id is unknown, a value is NaN or a box negative, or
                targets came beside annotations.
        """
        if self.truth is not None:
            if targets is not None or ids is None:
                raise ValueError("annotations hold the targets; update with predictions and ids=[...] of their images")
            self._update_known(self.truth, predictions, ids)
            return
        if targets is None or len(targets) != len(predictions):
            came = "none" if targets is None else len(targets)
            raise ValueError(f"targets must be one for each of the {len(predictions)} predictions, but {came} came")
        listed = [None] * len(predictions) if ids is None else _listed(ids, predictions)
        pairs = [self._pair(*each) for each in zip(range(len(predictions)), predictions, targets, strict=True)]
        for image_id, (found, truth) in zip(listed, pairs, strict=True):
            self.keep(pickle.dumps((image_id, found, truth)))

    def _pair(self, index: int, prediction: OfImage, target: OfImage) -> tuple[Regions, GroundTruth]:
        """One image's prediction and target."""
        name, target_name = f"prediction {index}", f"target {index}"
        entries = self._entries(prediction, name, 0, ("scores", "labels"))
        right = self._entries(target, target_name, 0, ("labels",), ("iscrowd", "area"))
        image: dict[str, Any] = {"id": 0}
        if size := image_size([target, prediction]):
            image["height"], image["width"] = size
        labels = category_ids([*entries, *right], f"{name} or its target")
        truth = read_target(right, image, labels, self.iou_type, target_name)
        return read_detections(entries, truth, name), truth

    def _score(self, found: Regions, truth: GroundTruth) -> dict[str, float]:
        return summarize(found, truth, self.backend, self.per_category)


def summarize(found: Regions, truth: GroundTruth, backend: Backend, per_category: bool) -> dict[str, float]:
    """The twelve numbers of COCO, as `coco_ap` gives them."""
    curves = evaluate(found, truth, backend, COCO_MAX_DETECTIONS)
    result = average_precisions(curves.precision[..., -1])
    for index, count in enumerate(COCO_MAX_DETECTIONS):
        result[f"AR{count}"] = mean(curves.recall[:, :, 0, index])
    result |= {f"AR{name}": mean(curves.recall[:, :, index, -1]) for name, index in AREAS.items()}
    return result | (categories_ap(truth, curves) if per_category else {})


def _check_again(
    image_id: int, again: tuple[Regions, GroundTruth | None], first: tuple[Regions, GroundTruth | None]
) -> None:
    """Refuse another image under the id of one that came before in the same process."""
    parts = [(again[0], first[0])]
    if again[1] is not None and first[1] is not None:
        parts.append((again[1].regions, first[1].regions))
    if not all(one.resembles(other) for one, other in parts):
        raise ValueError(
            f"image {image_id} came twice with different predictions or targets; give each image an id of its own over "
            "the whole data set (not its index in the batch), and reset the metric between evaluations"
        )


def _listed(ids: Tensor | Sequence[Id], predictions: Sequence[OfImage]) -> list[Any]:
    """As many ids as predictions; a text is unknown."""
    listed = (
        ids.tolist() if isinstance(ids, Tensor) else [each.item() if hasattr(each, "item") else each for each in ids]
    )
    if strange := [each for each in listed if not isinstance(each, int | str) or isinstance(each, bool)]:
        came = shown(strange[0])
        raise ValueError(f"ids must be those of the annotations, whole numbers or texts, but one is {came}")
    if len(listed) != len(predictions):
        raise ValueError(f"update needs an id for each prediction, but got {len(listed)} ids, {len(predictions)}")
    return listed
