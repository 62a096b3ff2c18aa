"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg): precision at K, the share of expressions whose object is found.

An object is found at K if one of the K best boxes overlaps the right one by at least the threshold. The data are those
of Yu et al., "Modeling Context in Referring Expressions" (ECCV 2016) and Mao et al. (CVPR 2016). Public code measures
the overlap in three ways, which give different numbers (`criterion`):

* "iou": intersection over union of continuous boxes, the usual one;
* "giou": *generalized* IoU, as in MDETR's evaluator (ashkamath/mdetr, `datasets/refexp.py`), the strictest;
* "inclusive_iou": IoU of boxes whose last pixel belongs to them (widths are x2 - x1 + 1), the older convention.

What differs from MDETR's evaluator: arithmetic is float64, and an expression for which no box is predicted is missed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from fiber_eval.files import Id, check_entry, holds_boolean, naming, read_json, shown, some
from fiber_eval.samples import MetricOptions, PerSampleMetric, as_numbers, as_tensors

Criterion = Literal["iou", "giou", "inclusive_iou"]
Box = Tensor | Sequence[float]
Boxes = Tensor | Sequence[Sequence[float]]
Prediction = tuple[Boxes, Tensor | Sequence[float]]

MISSED = 0  # the outcome of an expression without a box that fits; of others, the rank of the first one, from 1
UNNAMED = "all"  # the data set of expressions for which none is named


class ReferringAccuracy(PerSampleMetric):
    """Precision at K for referring expressions, for each data set.

    Boxes rank by score; as in MDETR, those of equal score rank by their coordinates, the larger first, so the order of
    boxes is free. How samples are counted is told at `PerSampleMetric`.

    Args:
        targets: The right box of each expression, by id: x1, y1, x2, y2 in pixels.
        datasets: The data set (or the split) of each expression, by id. Without it, all are one, called "all".
        ks: The K of each precision, at least 1.
        criterion: How overlap is measured, see the module.
        threshold: The least overlap of a box that is right, above 0 and at most 1.
        **kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: No target, a bad box, an expression without a data set, or a bad option.

    Example:
        >>> import torch
        >>> from fiber_eval.referring import ReferringAccuracy
        >>> metric = ReferringAccuracy({4: [0, 0, 10, 10]}, datasets={4: "refcoco"}, ks=(1, 5))
        >>> boxes, scores = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]), torch.tensor([0.3, 0.7])
        >>> metric.update([boxes], [scores], ids=[4])
        >>> {name: value.item() for name, value in metric.compute()["refcoco"].items()}
        {'P@1': 0.0, 'P@5': 1.0}
    """

    def __init__(
        self,
        targets: Mapping[Any, Box],
        *,
        datasets: Mapping[Any, str] | None = None,
        ks: Sequence[int] = (1, 5, 10),
        criterion: Criterion = "iou",
        threshold: float = 0.5,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        super().__init__(list(targets), "expression", **kwargs)
        _check_options(ks, criterion, threshold)
        self.ks, self.criterion, self.threshold = tuple(ks), criterion, threshold
        self.targets = {name: _target(box, name) for name, box in targets.items()}
        self.datasets = dict.fromkeys(targets, UNNAMED) if datasets is None else dict(datasets)
        if unnamed := [name for name in targets if name not in self.datasets]:
            raise ValueError(
                f"expression {shown(unnamed[0])} is of no data set; name one for each expression, or for none"
            )

    def update(
        self, boxes: Sequence[Boxes], scores: Sequence[Tensor | Sequence[float]], *, ids: Tensor | Sequence[Id]
    ) -> None:
        """Add the boxes predicted for some expressions.

        Args:
            boxes: [B], each [N, 4] with x1, y1, x2, y2 in pixels, in any order; N may be 0 and may vary.
            scores: [B], each [N], the higher the better.
            ids: [B] ids of expressions.

        Raises:
            ValueError: An unknown expression, numbers that disagree, a box that is not finite or of negative size, a
                NaN score, or boxes of another rank for an expression that came before.
        """
        listed = self.known(ids, boxes=boxes, scores=scores)
        predictions = zip(listed, boxes, scores, strict=True)
        self.record(listed, [self._rank(name, found, confidence) for name, found, confidence in predictions])

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """The official numbers, over all processes.

        Returns:
            For each data set `P@K` (0..1) for each K; scalars in float64 on the CPU.

        Raises:
            ValueError: An expression was not predicted.
        """
        ranks: dict[str, list[int]] = {}
        for name, rank in self.seen().items():
            ranks.setdefault(self.datasets[name], []).append(rank)
        return {
            dataset: as_tensors(
                {f"P@{k}": sum(MISSED < rank <= k for rank in of_dataset) / len(of_dataset) for k in self.ks}
            )
            for dataset, of_dataset in ranks.items()
        }

    def per_expression(self) -> dict[Id, int | None]:
        """The rank of each expression's first box that fits, from 1; None without one. Every process must call it."""
        return {name: rank or None for name, rank in self.seen_everywhere().items()}

    def _rank(self, name: Id, boxes: Boxes, scores: Tensor | Sequence[float]) -> int:
        found = _boxes(boxes, f"the boxes of expression {shown(name)}")
        confidence = _numbers(scores, f"the scores of expression {shown(name)}")
        if confidence.shape != (len(found),) or confidence.isnan().any():
            raise ValueError(
                f"the scores of expression {shown(name)} must be {len(found)} numbers, one a box, without NaN, but are "
                f"{shown(confidence.tolist())}"
            )
        fits = (_overlap(found, self.targets[name], self.criterion) >= self.threshold).tolist()
        ranked = sorted(zip(confidence.tolist(), found.tolist(), fits, strict=True), reverse=True)
        return next((rank for rank, (_, _, fit) in enumerate(ranked, 1) if fit), MISSED)


def referring_accuracy(
    predictions: Mapping[Any, Prediction],
    targets: Mapping[Any, Box],
    *,
    datasets: Mapping[Any, str] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    criterion: Criterion = "iou",
    threshold: float = 0.5,
) -> dict[str, dict[str, Tensor]]:
    """Precision at K of predictions by expression.

    Args:
        predictions: Boxes and scores of each expression, each as in `ReferringAccuracy.update`.
        targets: As of `ReferringAccuracy`, like all that follow.
        datasets: The data set of each expression.
        ks: The K of each precision.
        criterion: How overlap is measured.
        threshold: The least overlap of a box that is right.

    Returns:
        As `ReferringAccuracy.compute`.

    Raises:
        ValueError: As `ReferringAccuracy`, its `update` and its `compute`.

    Example:
        >>> from fiber_eval.referring import referring_accuracy
        >>> referring_accuracy({4: ([[0, 0, 9, 9]], [0.7])}, {4: [0, 0, 10, 10]}, ks=(1,))["all"]["P@1"].item()
        1.0
    """
    metric = ReferringAccuracy(
        targets, datasets=datasets, ks=ks, criterion=criterion, threshold=threshold, sync_on_compute=False
    )
    _add(metric, predictions)
    return metric.compute()


def score_files(
    annotations: Path,
    results: Path,
    *,
    ks: Sequence[int] = (1, 5, 10),
    criterion: Criterion = "iou",
    threshold: float = 0.5,
) -> dict[str, dict[str, float]]:
    """Score a result file: boxes and scores of each expression.

    Annotations are as MDETR writes them; expressions without `dataset_name` are of the data set "all". Results are COCO
    detections, or an object by image id, which can tell that nothing was found.

    Args:
        annotations: COCO JSON, an expression an image: {images: [{id, dataset_name}], annotations: [{image_id, bbox}]}
        results: JSON [{image_id, bbox: [x, y, width, height], score}] or {id: {boxes: [[x1, y1, x2, y2], ...], scores}}
        ks: As of `ReferringAccuracy`, like the two that follow.
        criterion: How overlap is measured.
        threshold: The least overlap of a box that is right.

    Returns:
        As `referring_accuracy`, in Python's numbers.

    Raises:
        ValueError: A malformed file, an unknown expression, one without a prediction, a bad box or score; names the
            file.

    Source: Yu et al. 2016, Modeling Context in Referring Expressions, https://arxiv.org/abs/1608.00272

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.referring import score_files
        >>> right = {"image_id": 4, "bbox": [0, 0, 10, 10]}
        >>> with tempfile.TemporaryDirectory() as name:
        ...     annotations, results = Path(name, "annotations.json"), Path(name, "results.json")
        ...     _ = annotations.write_text(json.dumps({"images": [{"id": 4}], "annotations": [right]}))
        ...     _ = results.write_text(json.dumps([right | {"score": 0.9}]))
        ...     score_files(annotations, results, ks=[1])
        {'all': {'P@1': 1.0}}
    """
    content = read_json(annotations)
    with naming(annotations):
        targets, datasets = _targets(content)
        metric = ReferringAccuracy(
            targets, datasets=datasets, ks=ks, criterion=criterion, threshold=threshold, sync_on_compute=False
        )
    content = read_json(results, unique_keys=True)
    with naming(results):
        found = _detections(content) if isinstance(content, list) else _predictions(content, targets)
        _add(metric, found)
        return as_numbers(metric.compute())


def _add(metric: ReferringAccuracy, predictions: Mapping[Id, Prediction]) -> None:
    found = predictions.values()
    metric.update([boxes for boxes, _ in found], [scores for _, scores in found], ids=list(predictions))


def _overlap(boxes: Tensor, target: Tensor, criterion: Criterion) -> Tensor:
    """[N] from [N, 4] and [4]; NaN, which no threshold admits, where both have no area."""
    pixel = 1.0 if criterion == "inclusive_iou" else 0.0
    area = (boxes[:, 2:] - boxes[:, :2] + pixel).prod(1)
    target_area = (target[2:] - target[:2] + pixel).prod()
    first, last = torch.maximum(boxes[:, :2], target[:2]), torch.minimum(boxes[:, 2:], target[2:])
    intersection = (last - first + pixel).clamp(min=0).prod(1)
    union = area + target_area - intersection
    iou = intersection / union
    if criterion != "giou":
        return iou
    hull = (torch.maximum(boxes[:, 2:], target[2:]) - torch.minimum(boxes[:, :2], target[:2])).prod(1)
    return iou - (hull - union) / hull


def _check_options(ks: Sequence[int], criterion: str, threshold: float) -> None:
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(f"ks must be whole numbers from 1 on, but is {tuple(ks)}")
    if criterion not in get_args(Criterion):
        raise ValueError(f"criterion must be one of {', '.join(get_args(Criterion))}, but is {criterion!r}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, but is {threshold}")


def _target(box: Box, expression: Id) -> Tensor:
    name = f"the target of expression {shown(expression)}"
    checked = _numbers(box, name)
    if checked.shape != (4,):
        raise ValueError(f"{name} must be x1, y1, x2, y2, but has shape {tuple(checked.shape)}")
    return _boxes(checked[None], name)[0]


def _boxes(boxes: Boxes, name: str) -> Tensor:
    """[N, 4] in float64 on the CPU."""
    checked = _numbers(boxes, name)
    if not checked.numel():
        return checked.reshape(0, 4)
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise ValueError(f"{name} must have shape [N, 4], but have {tuple(checked.shape)}")
    bad = ~checked.isfinite().all(1) | (checked[:, 2:] < checked[:, :2]).any(1)
    if bad.any():
        raise ValueError(
            f"{name} must be finite and of no negative size, but one goes from x1, y1 to x2, y2 as "
            f"{checked[bad][0].tolist()}; convert boxes of another format first"
        )
    return checked


def _numbers(values: object, name: str) -> Tensor:
    try:
        if holds_boolean(values):
            raise ValueError("true and false are no numbers")
        return torch.as_tensor(values, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers in lists of equal length, but are {shown(values)}") from error


def _corners(entry: object, keys: Sequence[str], name: str) -> list[float]:
    """An entry's `bbox`, [x, y, width, height], as x1, y1, x2, y2, after checking that it has all `keys`."""
    bbox = check_entry(entry, keys, name)["bbox"]
    box = _numbers(bbox, f"{name}: bbox")
    if box.shape != (4,) or not box.isfinite().all() or (box[2:] < 0).any():
        raise ValueError(f"{name}: bbox must be finite [x, y, width, height], no size negative, but is {shown(bbox)}")
    return [*box[:2].tolist(), *(box[:2] + box[2:]).tolist()]


def _targets(content: object) -> tuple[dict[Id, Box], dict[Id, str]]:
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError("expected a JSON object with the lists 'images' and 'annotations'")
    datasets: dict[Id, str] = {}
    for index, image in enumerate(content["images"]):
        check_entry(image, ("id",), f"image {index}")
        dataset = image.get("dataset_name", UNNAMED)
        if image["id"] in datasets:
            raise ValueError(f"image {index}: id {shown(image['id'])} came before; give each image its own")
        if not isinstance(dataset, str):
            raise ValueError(f"image {index}: dataset_name must be text, but is {shown(dataset)}")
        datasets[image["id"]] = dataset
    targets: dict[Id, Box] = {}
    for index, entry in enumerate(content["annotations"]):
        box = _corners(entry, ("image_id", "bbox"), f"annotation {index}")
        if entry["image_id"] in targets or entry["image_id"] not in datasets:
            raise ValueError(
                f"annotation {index}: image {shown(entry['image_id'])} must be among the images and have one box only"
            )
        targets[entry["image_id"]] = box
    if bare := [image for image in datasets if image not in targets]:
        raise ValueError(f"{len(bare)} images have no annotation: {some(bare)}; give each expression its box")
    return targets, datasets


def _detections(entries: list[Any]) -> dict[Id, Prediction]:
    found: dict[Id, tuple[list[list[float]], list[float]]] = {}
    for index, entry in enumerate(entries):
        corners = _corners(entry, ("image_id", "bbox", "score"), f"entry {index}")
        score = entry["score"]
        if not isinstance(score, int | float) or isinstance(score, bool) or math.isnan(score):
            raise ValueError(f"entry {index}: score must be a number, but is {shown(score)}")
        boxes, scores = found.setdefault(entry["image_id"], ([], []))
        boxes.append(corners)
        scores.append(score)
    return dict(found)


def _predictions(content: object, targets: Mapping[Id, Box]) -> dict[Id, Prediction]:
    if not isinstance(content, dict):
        raise ValueError("expected a JSON list of detections, or an object from image id to boxes and scores")
    names: dict[str, Id] = {str(name): name for name in targets}  # keys of JSON objects are text
    if len(names) < len(targets):
        alike = next(name for name in targets if names[str(name)] != name)
        raise ValueError(
            f"the key {shown(str(alike))} stands for two expressions, {shown(alike)} and "
            f"{shown(names[str(alike)])}; give a list of detections, or ids that differ as text"
        )
    found: dict[Id, Prediction] = {}
    key: str
    for key, entry in content.items():
        if not isinstance(entry, dict) or not {"boxes", "scores"} <= entry.keys():
            raise ValueError(f"entry {shown(key)} must be an object with boxes and scores, but is {shown(entry)}")
        name = names.get(key, key)
        found[name] = (entry["boxes"], entry["scores"])
    return found
