"""Boxes as the original detector measures them: a box of corners x1 and x2 is `x2 - x1 + 1` wide.

    Boxes are (..., 4) xyxy in pixels, the last pixel included. Centers are `(x1 + x2) / 2`, without the one, and so is
    the generalized IoU of the loss; everything else here counts it. Released weights were trained so.

After `fine_grained/maskrcnn_benchmark` (`structures/boxlist_ops.py`, `modeling/box_coder.py`) of microsoft/FIBER.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms

SHIFT_WEIGHT, SCALE_WEIGHT = 10.0, 5.0
MAX_LOG_SCALE = math.log(1000 / 16)


def box_sizes(boxes: Tensor) -> Tensor:
    """Widths and heights (..., 2) of boxes (..., 4), one more than the difference of their corners."""
    return boxes[..., 2:] - boxes[..., :2] + 1


def box_centers(boxes: Tensor) -> Tensor:
    """Centers (..., 2) of boxes (..., 4): x, y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def box_areas(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) in pixels; negative or falsely positive where corners are swapped."""
    return box_sizes(boxes).prod(dim=-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) with others (..., 4) that broadcast against them.

    For all pairs of N with M boxes: `box_iou(boxes[:, None], others)`, (N, M).

    Example:
        >>> box_iou(torch.tensor([0.0, 0.0, 9.0, 9.0]), torch.tensor([0.0, 0.0, 9.0, 4.0])).item()
        0.5
    """
    corners = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    common = (corners[1] - corners[0] + 1).clamp(min=0).prod(dim=-1)
    return common / (box_areas(boxes) + box_areas(others) - common)


def generalized_box_iou(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalized IoU (...), in [-1, 1], of boxes (..., 4) with others (..., 4), one to one; for the loss.

    Widths are plain differences here. A box of swapped corners counts as empty. torchvision's loss gives the same
    for proper boxes, but looks up its values on the host.
    """
    ends, other_ends = torch.maximum(boxes[..., :2], boxes[..., 2:]), others[..., 2:]
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(ends, other_ends)
    common = torch.where((high > low).all(dim=-1), (high - low).prod(dim=-1), 0)
    union = (ends - boxes[..., :2]).prod(dim=-1) + (other_ends - others[..., :2]).prod(dim=-1) - common
    outer = torch.maximum(ends, other_ends) - torch.minimum(boxes[..., :2], others[..., :2])
    enclosure = outer.prod(dim=-1)
    return common / (union + eps) - (enclosure - union) / (enclosure + eps)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The boxes (..., 4) that deltas (..., 4) from anchors (..., 4) mean; no more than 62.5 times an anchor's size."""
    anchor_sizes = box_sizes(anchors)
    centers = deltas[..., :2] / SHIFT_WEIGHT * anchor_sizes + box_centers(anchors)
    sizes = (deltas[..., 2:] / SCALE_WEIGHT).clamp(max=MAX_LOG_SCALE).exp() * anchor_sizes
    return torch.cat([centers - (sizes - 1) / 2, centers + (sizes - 1) / 2], dim=-1)


def clip_boxes(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Boxes (..., 4) cut to an image of `image_size` (2,) height, width: x in [0, width - 1], y likewise."""
    return boxes.clamp(min=0).minimum((image_size.flip(0) - 1).to(boxes).repeat(2))


def is_at_least(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes (..., 4) are at least `min_size` pixels wide and high; 0 rejects only those of swapped corners."""
    return (box_sizes(boxes) >= min_size).all(dim=-1)


def class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, max_iou: float) -> Tensor:
    """Non-maximum suppression among the boxes of each label.

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,) int64; boxes of different labels never suppress each other.
        max_iou: A box goes if its IoU with a better one that stays is greater.

    Returns:
        (K,) int64, the rows that stay, best score first.
    """
    # One pixel on the far corner makes torchvision's plain widths ours. In float64 its way of parting labels, moving
    # them far from each other, costs no accuracy, and an IoU equal to the limit stays whatever the limit.
    widened = torch.cat([boxes[:, :2].double(), boxes[:, 2:].double() + 1], dim=-1)
    return batched_nms(widened, scores.double(), labels, max_iou)
