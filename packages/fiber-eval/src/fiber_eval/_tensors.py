"""Predictions and targets of one image, in the form that torchmetrics takes them, as entries of COCO's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle_ops
from torch import Tensor

from fiber_eval._regions import IouType

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
OfImage = Mapping[str, Any]
"""`boxes` or `masks`, `labels`, and `scores` of predictions or, as wanted, `iscrowd` and `area` of targets."""

_KEYS = {"labels": "category_id", "scores": "score", "iscrowd": "iscrowd", "area": "area"}


def as_entries(
    part: OfImage,
    name: str,
    *,
    image_id: int,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    iou_type: IouType,
    box_format: BoxFormat,
) -> list[dict[str, Any]]:
    """An entry for each region of a part, unchecked but for its columns.

    Args:
        part: What was predicted or is right.
        name: What errors call it.
        image_id: The id that its entries get.
        needed: Its columns beside the regions.
        optional: Columns that it may have.
        iou_type: Whether boxes or masks are the regions.
        box_format: Of boxes.

    Raises:
        ValueError: A column is missing, or they are not equally long.
    """
    shape = "masks" if iou_type == "segm" else "boxes"
    needed = [shape, *needed]
    if absent := [key for key in needed if key not in part]:
        raise ValueError(f"{name} lacks {', '.join(absent)}; give {', '.join(needed)}")
    columns = [*needed, *(key for key in optional if key in part)]
    sizes = {key: len(part[key]) for key in columns}
    if len(set(sizes.values())) > 1:
        came = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise ValueError(f"{name} must hold equally many of each, but holds {came}")
    regions = run_lengths(part[shape]) if iou_type == "segm" else _boxes(part[shape], box_format)
    entries = [{"image_id": image_id, "segmentation" if iou_type == "segm" else "bbox": region} for region in regions]
    for column in columns[1:]:
        for entry, value in zip(entries, torch.as_tensor(part[column]).tolist(), strict=True):
            entry[_KEYS[column]] = value
    return entries


def image_size(parts: Sequence[OfImage]) -> tuple[int, int] | None:
    """Height and width of the first mask; None without one."""
    for part in parts:
        masks = part.get("masks", ())
        if isinstance(masks, Tensor | np.ndarray) and masks.ndim == 3:
            return int(masks.shape[1]), int(masks.shape[2])
        if len(masks) and isinstance(masks[0], Mapping) and len(masks[0].get("size", ())) == 2:
            height, width = masks[0]["size"]
            return int(height), int(width)
    return None


def run_lengths(masks: Tensor | NDArray | Sequence[Any]) -> list[Any]:
    """COCO run lengths of [N, H, W] masks; a list is taken for run lengths already."""
    if not isinstance(masks, Tensor | np.ndarray):
        return list(masks)
    masks = torch.as_tensor(masks).detach().cpu().to(torch.uint8).numpy()
    return [rle_ops.encode(np.asfortranarray(mask)) for mask in masks]


def _boxes(boxes: Tensor | NDArray | Sequence[Sequence[float]], box_format: BoxFormat) -> list[list[float]]:
    """Boxes as x, y, width, height; those of another shape as they are, to be refused by name."""
    values = torch.as_tensor(boxes).detach().cpu().double()
    if values.ndim == 2 and values.shape[1] == 4:
        first, second = values[:, :2], values[:, 2:]
        if box_format == "xyxy":
            values = torch.cat([first, second - first], dim=1)
        elif box_format == "cxcywh":
            values = torch.cat([first - second / 2, second], dim=1)
    return values.tolist()
