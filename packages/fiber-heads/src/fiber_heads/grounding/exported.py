"""The detector as a function of tensors, for export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fiber_backbone import FiberBackbone
from torch import Tensor, nn

from fiber_heads.exported import BATCH, Axis, ExportPart, image_input, text_inputs, whole_strides
from fiber_heads.grounding.boxes import decode_boxes
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.head import GroundingPredictions


class Detector(nn.Module):
    """Boxes at every anchor, and how likely they are and what they are.

    Args:
        model: A `FiberForGrounding`.
        stride: What sides of images are multiples of.
        predict: Its predictions by pixels, sizes, ids and mask.
    """

    def __init__(self, model: nn.Module, stride: int, predict: Callable[..., GroundingPredictions]) -> None:
        super().__init__()
        self.model, self.stride, self._predict = model, stride, predict

    def forward(
        self, pixel_values: Tensor, image_sizes: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `detect_boxes` makes detections of, with everything that needs no sorting done.

        Args:
            pixel_values: (B, 3, H, W), padded with zeros at the right and bottom.
            image_sizes: (B, 2) int64, height and width before padding.
            input_ids: (B, L) int64.
            attention_mask: (B, L) int64, 1 = real token.

        Returns:
            `boxes` (B, A, 4) xyxy in pixels of the prepared images, half-open, not cut to them; `centerness` (B, A) in
            [0, 1], 0 at anchors beyond an image; `token_scores` (B, A, L) in [0, 1]. A phrase's score is the root of
            the mean of its tokens' scores times the centerness.
        """
        found = self._predict(whole_strides(self.stride, pixel_values), image_sizes, input_ids, attention_mask)
        boxes = decode_boxes(found.deltas.float(), found.anchors.float())
        return boxes, found.centerness.sigmoid() * found.valid, found.token_logits.sigmoid()


def detector_part(
    model: nn.Module, backbone: FiberBackbone, config: GroundingConfig, predict: Callable[..., GroundingPredictions]
) -> ExportPart:
    """`Detector` with its inputs.

    Sides are whole strides of the coarsest level, so that each level is twice the next one. To pad so far changes no
    result of a model whose `padding_aware` is on.
    """
    stride = config.strides[-1]
    pixels, image_axes = image_input(stride)
    texts, text_axes = text_inputs(backbone, config.max_tokens)
    sizes = torch.tensor([[3 * stride, 5 * stride - 3], [2 * stride + 1, 4 * stride]])
    inputs = {"pixel_values": pixels, "image_sizes": sizes, **texts}
    axes = {"pixel_values": image_axes, "image_sizes": {0: Axis(BATCH)}, **text_axes}
    return ExportPart(Detector(model, stride, predict), inputs, axes, ("boxes", "centerness", "token_scores"))
