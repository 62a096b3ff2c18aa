"""What the grounding head learns from: tokens of an anchor, its box, how central it lies.

    Shapes: B images, A anchors over all levels, L tokens of the batch's longest text, n boxes of an image.

After `fine_grained/maskrcnn_benchmark/modeling/rpn/loss.py` of microsoft/FIBER. Every term is a sum over all anchors in
which those without a box weigh nothing, so nothing is read back to the host and an image without boxes is an ordinary
case. Differences:
    * an anchor without a box answers to no token; there to the last of 256, which is masked unless the text fills all
      256 (`no_object_column=255`);
    * the loss of the unused class logits, zero times a number that can be infinite, is left out;
    * all processes take part in the sums, also one whose images hold no box (there it leaves the others waiting);
    * anchors in the padding can be left out;
    * boxes are half-open; there their last pixel belongs to them (`margin=0.5` for the same losses).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, autograd
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from fiber_heads.distributed import mean_over_processes
from fiber_heads.grounding.assignment import matched_boxes, matched_tokens
from fiber_heads.grounding.boxes import box_centers, decode_boxes, generalized_box_iou, shrink_boxes


@dataclass(frozen=True)
class LossSums:
    """Of each image of a batch (B,) the sums that the losses are made of.

    Attributes:
        box: Weighted 1 - generalized IoU.
        centerness: Over the anchors with a box.
        token: Over all anchors.
        central: How central the anchors with a box lie, by which the box loss is divided.
        positive: Anchors with a box, by which the others are divided.
    """

    box: Tensor
    centerness: Tensor
    token: Tensor
    central: Tensor
    positive: Tensor

    def by_sample(self) -> dict[str, Tensor]:
        """By loss each image's sum and what it is divided by, (2, B), without gradient."""
        pairs = {
            "box": (self.box, self.central),
            "centerness": (self.centerness, self.positive),
            "token": (self.token, self.positive),
        }
        return {name: torch.stack(pair).detach() for name, pair in pairs.items()}


@dataclass(frozen=True)
class GroundingLoss:
    """The three losses of a batch, from predictions and matched boxes.

    Attributes:
        alpha: Weight of the tokens to answer to, in (0, 1); the others weigh 1 - alpha.
        gamma: How fast easy tokens fade, at least 0.
        box_weight: Factor of the box loss.
        centerness_weight: Factor of the centerness loss.
        token_weight: Factor of the token loss.
        no_object_column: See `matched_tokens`.
        margin: Pixels by which boxes, predicted and right ones, are smaller on every side in the generalized IoU and
            for the distances that make up centerness.
        reduce: Gives the mean over the parts of the global batch of a small tensor, without gradient.
        least: Fewest anchors with a box to divide by: 1 over the number of parts.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    box_weight: float = 2.0
    centerness_weight: float = 1.0
    token_weight: float = 1.0
    no_object_column: int | None = None
    margin: float = 0.0
    reduce: Callable[[Tensor], Tensor] = mean_over_processes
    least: float = 1.0

    def sums(
        self,
        token_logits: Tensor,
        deltas: Tensor,
        centerness: Tensor,
        *,
        anchors: Tensor,
        matched: Tensor,
        boxes: Sequence[Tensor],
        positive_maps: Sequence[Tensor],
        text_mask: Tensor,
        valid: Tensor | None = None,
    ) -> LossSums:
        """The sums of each image, in float32 at least; `means` makes the losses of them.

        Args:
            token_logits: (B, A, L), how well each anchor answers to each token.
            deltas: (B, A, 4), boxes relative to their anchors.
            centerness: (B, A) logits.
            anchors: (A, 4) xyxy in pixels.
            matched: (B, A) int64 from `assign_anchors`: the row of the anchor's box, or -1.
            boxes: For each image (n, 4) xyxy in pixels.
            positive_maps: For each image (n, L) bool, the tokens of each box.
            text_mask: (B, L), 1 for the tokens that count.
            valid: (B, A) bool, the anchors whose tokens count; all if None.

        Raises:
            ValueError: If a positive map has not a row for each box and a column for each token.
        """
        _check_maps(positive_maps, boxes, token_logits.shape[2])
        token_logits, deltas, centerness = _at_least_float32(token_logits, deltas, centerness)
        anchors, positive = anchors.to(deltas), matched >= 0
        target, central = self._targets(anchors, boxes, matched)

        # Masked before decoding: an anchor without a box sends back exactly nothing, however wild its deltas are.
        predicted = decode_boxes(deltas.masked_fill(~positive[..., None], 0), anchors)
        predicted = shrink_boxes(predicted, self.margin)
        box = (central * (1 - generalized_box_iou(predicted, target))).sum(1)
        center = binary_cross_entropy_with_logits(centerness, central, reduction="none").where(positive, 0).sum(1)
        return LossSums(
            self.box_weight * box,
            self.centerness_weight * center,
            self._token_loss(token_logits, matched, positive_maps, text_mask, valid),
            central.sum(1),
            positive.sum(1).to(central),
        )

    def means(self, sums: LossSums) -> dict[str, Tensor]:
        """The losses of a batch.

        Returns:
            Scalars `box` (1 - generalized IoU, weighted by how central the anchor lies), `centerness` and `token`.
            Their means over processes of equally many images are the losses of one process with all images.
        """
        num_positive, central = self.reduce(torch.stack([sums.positive.sum(), sums.central.sum()])).unbind()
        num_positive = num_positive.clamp(min=self.least)
        return {
            "box": sums.box.sum() / central.clamp(min=1e-6),
            "centerness": sums.centerness.sum() / num_positive,
            "token": sums.token.sum() / num_positive,
        }

    def totals(self, anchors: Tensor, boxes: Sequence[Tensor], matched: Tensor) -> Tensor:
        """What the losses are divided by, (2,): anchors with a box, and the sum of their centerness.

        Args:
            anchors: As of a call, like the others; in the type of the predictions.
            boxes: As there.
            matched: As there.
        """
        return _totals(matched >= 0, self._targets(anchors, boxes, matched)[1])

    def _targets(self, anchors: Tensor, boxes: Sequence[Tensor], matched: Tensor) -> tuple[Tensor, Tensor]:
        """The box that each anchor shall predict, (B, A, 4), and how central it lies in it, (B, A)."""
        target = shrink_boxes(matched_boxes(anchors, boxes, matched), self.margin)
        return target, torch.where(matched >= 0, centerness_targets(target, anchors), 0)

    def _token_loss(
        self,
        token_logits: Tensor,
        matched: Tensor,
        positive_maps: Sequence[Tensor],
        text_mask: Tensor,
        valid: Tensor | None,
    ) -> Tensor:
        """The weighted sums (B,); image by image, so that targets of one image exist at a time."""
        sums = []
        for row, positive_map in enumerate(positive_maps):
            targets = matched_tokens(positive_map, matched[row], self.no_object_column)
            counts = text_mask[row].bool().expand_as(targets)
            counts = counts if valid is None else counts & valid[row][:, None]
            sums.append(focal_loss_sum(token_logits[row], targets, counts, self.alpha, self.gamma))
        return self.token_weight * torch.stack(sums)


def centerness_targets(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How central each anchor (..., 4) lies in its box (..., 4): 1 in the middle, 0 at an edge and outside."""
    centers = box_centers(anchors)
    near, far = centers - boxes[..., :2], boxes[..., 2:] - centers
    ratio = torch.minimum(near, far).clamp(min=0) / torch.maximum(near, far)
    return ratio.prod(dim=-1).sqrt()


def focal_loss_sum(logits: Tensor, targets: Tensor, counts: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The sum of the binary focal loss (Lin et al., arXiv:1708.02002) over the entries that count.

    With p the probability of the target: `-weight * (1 - p) ** gamma * log(p)`, weight `alpha` where the target is
    true. Keeps one tensor of the logits' size for the backward pass, where the same formula in plain operations keeps
    about eight; it can be differentiated once.

    Args:
        logits: Any shape, float32 or float64.
        targets: Same shape, bool.
        counts: Bool, same shape.
        alpha: In (0, 1).
        gamma: At least 0.

    Returns:
        A scalar.
    """
    return _FocalLossSum.apply(logits, targets, counts, alpha, gamma)


class _FocalLossSum(autograd.Function):
    """The sum, with its gradient worked out on the way."""

    @staticmethod
    def forward(
        ctx: autograd.function.FunctionCtx, logits: Tensor, targets: Tensor, counts: Tensor, alpha: float, gamma: float
    ) -> Tensor:
        sign = 1 - 2 * targets.to(logits)  # of the derivative of the miss by the logit
        log_loss = softplus(logits * sign)  # -log(p)
        miss = (logits * sign).sigmoid()  # 1 - p
        weight = torch.full_like(logits, 1 - alpha).masked_fill_(targets, alpha) * counts * miss**gamma
        ctx.save_for_backward(weight * sign * (gamma * (1 - miss) * log_loss + miss))
        return (weight * log_loss).sum()

    @staticmethod
    @autograd.function.once_differentiable
    def backward(ctx: autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grad, None, None, None, None


def _totals(positive: Tensor, central: Tensor) -> Tensor:
    return torch.stack([positive.sum().to(central), central.sum()])


def _at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in tensors)


def _check_maps(positive_maps: Sequence[Tensor], boxes: Sequence[Tensor], length: int) -> None:
    for row, (positive_map, own) in enumerate(zip(positive_maps, boxes, strict=True)):
        if positive_map.shape != (len(own), length):
            raise ValueError(
                f"positive_maps[{row}] must have the shape (boxes, tokens) = {(len(own), length)}, got "
                f"{tuple(positive_map.shape)}; pad it to the batch's longest text"
            )
