"""What is measured and done with boxes: (..., 4) xyxy in pixels, half-open, so that `x2 - x1` is a width.

The original's boxes include their last pixel: with x2 and y2 one greater they are these, and its `x2 - x1 + 1`, its
box coder, its overlaps and its suppression are those of this module (`GroundingConfig.inclusive_boxes` tells of the
rest).

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
    """Widths and heights (..., 2) of boxes (..., 4)."""
    return boxes[..., 2:] - boxes[..., :2]


def box_centers(boxes: Tensor) -> Tensor:
    """Centers (..., 2) of boxes (..., 4): x, y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def box_areas(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) in pixels; negative or falsely positive where corners are swapped."""
    return box_sizes(boxes).prod(dim=-1)


def shrink_boxes(boxes: Tensor, margin: float) -> Tensor:
    """Boxes (..., 4) made smaller by `margin` pixels on every side; corners swap where there are not so many."""
    return torch.cat([boxes[..., :2] + margin, boxes[..., 2:] - margin], dim=-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) with others (..., 4) that broadcast against them.

    For all pairs of N with M boxes: `box_iou(boxes[:, None], others)`, (N, M).

    Example:
        >>> box_iou(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([0.0, 0.0, 10.0, 5.0])).item()
        0.5
    """
    corners = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    common = (corners[1] - corners[0]).clamp(min=0).prod(dim=-1)
    return common / (box_areas(boxes) + box_areas(others) - common)


def generalized_box_iou(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalized IoU (...), in [-1, 1], of boxes (..., 4) with others (..., 4), one to one; for the loss.

    A box of swapped corners counts as empty. torchvision's loss gives the same for proper boxes, but looks up its
    values on the host.
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
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=-1)


def clip_boxes(boxes: Tensor, image_size: Tensor, least: float = 0.0) -> Tensor:
    """Boxes (..., 4) cut to an image.

    Args:
        boxes: xyxy.
        image_size: (2,) height, width.
        least: How much of the image a box beyond it keeps in each direction, in pixels; 0 leaves it empty.

    Returns:
        Boxes whose x are in [0, width], whose y in [0, height].
    """
    end = image_size.flip(0).to(boxes)
    return torch.cat(
        [boxes[..., :2].clamp(min=0).minimum(end - least), boxes[..., 2:].clamp(min=least).minimum(end)], -1
    )


def is_at_least(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes (..., 4) are at least `min_size` pixels wide and high, and not empty."""
    sizes = box_sizes(boxes)
    return ((sizes >= min_size) & (sizes > 0)).all(dim=-1)


def outermost_pixels(boxes: Tensor) -> Tensor:
    """The first and the last column and row (..., 4), whole numbers, of the pixels that boxes (..., 4) touch."""
    first = boxes[..., :2].floor()
    return torch.cat([first, torch.maximum(boxes[..., 2:].ceil() - 1, first)], dim=-1)


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
    # In float64 torchvision's way of parting labels, moving them far from each other, costs no accuracy, and an IoU
    # equal to the limit stays whatever the limit.
    return batched_nms(boxes.double(), scores.double(), labels, max_iou)
