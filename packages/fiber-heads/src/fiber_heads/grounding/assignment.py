"""Which anchor answers for which box: adaptive training sample selection (ATSS; Zhang et al., arXiv:1912.02424).

    Shapes: B images, A anchors over all levels, A_l of one level, n boxes of an image, K candidates of a box.

After `fine_grained/maskrcnn_benchmark/modeling/rpn/loss.py` of microsoft/FIBER. Differences:
    * all boxes of an image at once, and nothing is read back to the host;
    * a box counts whatever its label is; there a box of label 0 takes anchors from others and then gives them up;
    * anchors in the padding can be left out, so that an image's targets do not depend on the rest of its batch;
    * boxes are half-open; there their last pixel belongs to them (`margin=0.5` for the same targets).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fiber_heads.grounding.boxes import box_centers, box_iou, shrink_boxes

MIN_INSIDE = 0.01  # pixels that an anchor's center must lie inside the box


def assign_anchors(
    anchors: Tensor,
    anchors_per_level: Sequence[int],
    boxes: Sequence[Tensor],
    valid: Tensor | None = None,
    top_k: int = 9,
    margin: float = 0.0,
) -> Tensor:
    """Matches the anchors of a batch with the boxes of its images.

    A box's candidates are the `top_k` anchors of each level whose centers are nearest to its own; those take it whose
    IoU reaches the candidates' mean plus standard deviation and whose center lies inside. An anchor that several boxes
    claim takes the one of the highest IoU.

    Args:
        anchors: (A, 4) xyxy in pixels of the padded image, fine levels first; the same for all images.
        anchors_per_level: The A_l, sum A.
        boxes: For each image (n, 4) xyxy; n may be 0.
        valid: (B, A) bool, anchors that may take a box; all if None.
        top_k: Candidates of a box on each level; all of the level if it has fewer.
        margin: Pixels by which a box is smaller on every side when its anchors' centers have to lie inside.

    Returns:
        (B, A) int64: the row of the image's box, or -1.

    Raises:
        ValueError: If the levels do not add up to the anchors.
    """
    if sum(anchors_per_level) != len(anchors):
        raise ValueError(
            f"anchors_per_level must add up to the number of anchors, {len(anchors)}; got {list(anchors_per_level)}, "
            f"which is {sum(anchors_per_level)}"
        )
    rows = [None] * len(boxes) if valid is None else valid
    return torch.stack(
        [
            _assign(anchors, anchors_per_level, own.to(anchors), row, top_k, margin)
            for own, row in zip(boxes, rows, strict=True)
        ]
    )


def matched_boxes(anchors: Tensor, boxes: Sequence[Tensor], matched: Tensor) -> Tensor:
    """The box that each anchor shall predict.

    Args:
        anchors: (A, 4).
        boxes: For each image (n, 4).
        matched: (B, A) from `assign_anchors`.

    Returns:
        (B, A, 4) xyxy; an anchor without a box has itself, that is deltas of zero.
    """
    none = anchors[:1]  # something to look up where an image has no box
    rows = [torch.cat([none, own.to(anchors)])[index + 1] for own, index in zip(boxes, matched, strict=True)]
    return torch.where((matched >= 0)[..., None], torch.stack(rows), anchors)


def matched_tokens(positive_map: Tensor, matched: Tensor, no_object_column: int | None = None) -> Tensor:
    """The tokens that each anchor of one image shall answer to.

    Args:
        positive_map: (n, L) bool, or 0 and 1: the tokens of each box.
        matched: (A,) one row of `assign_anchors`.
        no_object_column: A token that all anchors without a box shall answer to; none by default, and none if the
            text is shorter.

    Returns:
        (A, L) bool.
    """
    rows = torch.cat([positive_map.new_zeros(1, positive_map.shape[1], dtype=torch.bool), positive_map.bool()])
    if no_object_column is not None:
        rows[0, no_object_column : no_object_column + 1] = True
    return rows[matched + 1]


def _assign(
    anchors: Tensor, anchors_per_level: Sequence[int], boxes: Tensor, valid: Tensor | None, top_k: int, margin: float
) -> Tensor:
    """Rows (A,) of one image's boxes (n, 4), or -1."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    centers = box_centers(anchors)
    distances = (centers[:, None] - box_centers(boxes)).square().sum(dim=-1)  # (A, n)
    if valid is not None:
        distances = distances.masked_fill(~valid[:, None], torch.inf)
    candidates, start = [], 0
    for level in distances.split(list(anchors_per_level)):
        candidates.append(level.topk(min(top_k, len(level)), dim=0, largest=False).indices + start)
        start += len(level)
    chosen = torch.cat(candidates)  # (K, n)
    iou = box_iou(anchors[chosen], boxes)
    real = distances.gather(0, chosen).isfinite()
    inner = shrink_boxes(boxes, margin)
    inside = torch.cat([centers[chosen] - inner[:, :2], inner[:, 2:] - centers[chosen]], dim=-1).amin(dim=-1)
    positive = real & (iou >= _threshold(iou, real)) & (inside > MIN_INSIDE)
    claims = torch.full_like(distances, -torch.inf).scatter(0, chosen, iou.masked_fill(~positive, -torch.inf))
    best, row = claims.max(dim=1)
    return torch.where(best.isfinite(), row, -1)


def _threshold(iou: Tensor, real: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation (n,) of each box's IoUs (K, n), over the candidates that are real."""
    count = real.sum(dim=0)
    mean = iou.where(real, 0).sum(dim=0) / count
    variance = (iou - mean).square().where(real, 0).sum(dim=0) / (count - 1).clamp(min=1)
    return mean + variance.sqrt()
