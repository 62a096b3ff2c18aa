"""From the grounding head's outputs to boxes with scores and labels.

    Shapes: B images, A anchors over all levels, A_l of one level, L tokens, C classes (or phrases) of a prompt.

After `fine_grained/maskrcnn_benchmark/modeling/rpn/inference.py` of microsoft/FIBER. Differences:
    * scores of all classes are one matrix product; there a loop over classes;
    * suppression follows the original's CUDA code on every device (its CPU code returns wrong rows);
    * a class without a token scores 0 (there not a number);
    * results come sorted by score;
    * anchors in the padding can be left out, so that an image's result does not depend on the rest of its batch;
    * boxes are half-open, and what is empty or lies beyond the image is no detection (`keep_outside`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fiber_heads.grounding.boxes import box_iou, class_nms, clip_boxes, decode_boxes, is_at_least
from fiber_heads.grounding.config import Aggregation, DetectionSettings, Merging


@torch.no_grad()
def detect_boxes(
    token_logits: Tensor,
    deltas: Tensor,
    centerness: Tensor,
    *,
    anchors: Tensor,
    anchors_per_level: Sequence[int],
    image_sizes: Tensor,
    class_tokens: Sequence[Tensor],
    labels: Sequence[Tensor] | None = None,
    valid: Tensor | None = None,
    settings: DetectionSettings | None = None,
    keep_outside: bool = False,
) -> list[dict[str, Tensor]]:
    """The detections of a batch.

    Args:
        token_logits: (B, A, L).
        deltas: (B, A, 4).
        centerness: (B, A) logits.
        anchors: (A, 4) xyxy in pixels, fine levels first.
        anchors_per_level: The A_l, sum A.
        image_sizes: (B, 2) height, width before padding.
        class_tokens: For each image (C, L) bool, the tokens of each class or phrase; C may differ.
        labels: For each image (C,) int64, what to call the classes in the result; 0 to C - 1 if None.
        valid: (B, A) bool, the anchors that may answer; all if None.
        settings: Thresholds and counts.
        keep_outside: Whether a box beyond the image becomes its outermost pixels, as in the original.

    Returns:
        For each image `boxes` (K, 4) xyxy within the unpadded image, none of them empty, `scores` (K,) in [0, 1],
        descending, and `labels` (K,) int64.
    """
    settings = settings or DetectionSettings()
    token_logits, deltas, centerness = token_logits.float(), deltas.float(), centerness.float()
    anchors = anchors.float()
    results = []
    for row, tokens in enumerate(class_tokens):
        scores = class_scores(token_logits[row], tokens, settings.aggregation)
        candidate = scores > settings.score_threshold
        if valid is not None:
            candidate &= valid[row][:, None]
        scores = (scores * centerness[row].sigmoid()[:, None]).masked_fill(~candidate, -1)
        own = torch.arange(len(tokens), device=scores.device) if labels is None else labels[row].to(scores.device)
        best, anchor, label = _best_of_levels(scores, anchors_per_level, settings.candidates_per_level)
        boxes = decode_boxes(deltas[row][anchor], anchors[anchor])
        boxes = clip_boxes(boxes, image_sizes[row], least=1.0 if keep_outside else 0.0)
        fits = is_at_least(boxes, settings.min_size)
        results.append(_suppress(boxes[fits], best[fits].sqrt(), own[label[fits]], settings))
    return results


def class_scores(token_logits: Tensor, class_tokens: Tensor, aggregation: Aggregation = "mean") -> Tensor:
    """Probabilities (A, C) of classes from logits (A, L) of tokens; see `DetectionSettings.aggregation`.

    Args:
        token_logits: (A, L).
        class_tokens: (C, L) bool; a class without a token gets 0.
        aggregation: How the tokens of a class are taken together.
    """
    tokens = class_tokens.to(token_logits.device).bool()
    share = (tokens / tokens.sum(dim=1, keepdim=True).clamp(min=1)).to(token_logits).T  # (L, C)
    if aggregation == "mean":
        return token_logits.sigmoid() @ share
    if aggregation == "power":
        return (logsigmoid(token_logits) @ share).exp() * tokens.any(dim=1)
    longest = int(tokens.sum(dim=1).max()) if len(tokens) else 0
    held, order = tokens.int().topk(max(longest, 1), dim=1)  # (C, longest), so that (A, C, L) is never held
    return (token_logits.sigmoid()[:, order] * held).amax(dim=-1)


def merge_chunks(chunks: Sequence[dict[str, Tensor]], max_detections: int | None = None) -> dict[str, Tensor]:
    """The detections of one image from those of several prompts, whose labels must not overlap.

    Args:
        chunks: Results of `detect_boxes` for the same image, one for each prompt.
        max_detections: The most to keep, more only where scores tie; all if None, as the original does.

    Returns:
        As `detect_boxes` gives them.

    Raises:
        ValueError: If there is no result.
    """
    if not chunks:
        raise ValueError("there is no result to merge; give at least one")
    merged = {key: torch.cat([chunk[key] for chunk in chunks]) for key in ("boxes", "scores", "labels")}
    order = merged["scores"].argsort(descending=True, stable=True)
    merged = {key: value[order] for key, value in merged.items()}
    return merged if max_detections is None else _limit(merged, max_detections)


def merge_views(
    views: Sequence[dict[str, Tensor]],
    settings: DetectionSettings,
    merging: Merging = "nms",
    max_detections: int | None = None,
) -> dict[str, Tensor]:
    """The detections of one image from those of several views of it: at other sizes, mirrored.

    Args:
        views: Results of `detect_boxes`, their boxes in pixels of the one image.
        settings: Of which `max_iou` decides which boxes are of one thing.
        merging: `"nms"` keeps the best box of each thing; `"vote"` moves it to the mean of all its boxes, weighted by
            score (Gidaris and Komodakis, ICCV 2015).
        max_detections: As of `merge_chunks`.

    Returns:
        As `detect_boxes` gives them; of one view what it is.
    """
    every = merge_chunks(views)
    if len(views) > 1:
        kept = class_nms(every["boxes"], every["scores"], every["labels"], settings.max_iou)
        found = {key: value[kept] for key, value in every.items()}
        if merging == "vote" and len(kept):
            alike = found["labels"][:, None] == every["labels"]
            alike &= box_iou(found["boxes"][:, None], every["boxes"]) > settings.max_iou
            votes = (alike * every["scores"]).to(every["boxes"])
            mean = votes @ every["boxes"] / votes.sum(dim=1, keepdim=True).clamp(min=1e-12)
            found["boxes"] = torch.where(votes.any(dim=1, keepdim=True), mean, found["boxes"])
        every = found
    return every if max_detections is None else _limit(every, max_detections)


def mirror_boxes(boxes: Tensor, width: Tensor | float) -> Tensor:
    """Half-open boxes (n, 4) of an image `width` pixels wide as they are in its mirror image, and back."""
    first, top, last, bottom = boxes.unbind(dim=-1)
    return torch.stack([width - last, top, width - first, bottom], dim=-1)


def _best_of_levels(scores: Tensor, anchors_per_level: Sequence[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Score, anchor and class (N,) of the best `count` candidates of each level; scores (A, C), none where < 0."""
    best, place, start = [], [], 0
    for level in scores.split(list(anchors_per_level)):
        top = level.flatten().topk(min(count, level.numel()))
        best.append(top.values)
        place.append(top.indices + start)
        start += level.numel()
    score, index = torch.cat(best), torch.cat(place)
    index = index[score >= 0]
    num_classes = max(scores.shape[1], 1)
    return score[score >= 0], index // num_classes, index % num_classes


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, settings: DetectionSettings) -> dict[str, Tensor]:
    kept = class_nms(boxes, scores, labels, settings.max_iou)
    found = {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
    return _limit(found, settings.max_detections)


def _limit(found: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The best `count` of sorted detections, and those that tie with the last of them."""
    if len(found["scores"]) <= count:
        return found
    kept = int((found["scores"] >= found["scores"][count - 1]).sum())
    return {key: value[:kept] for key, value in found.items()}
