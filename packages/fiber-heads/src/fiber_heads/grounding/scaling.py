"""Boxes between the images as they came and the prepared ones, in which the network works.

Shapes: B images, n boxes of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fiber_heads.grounding.boxes import clip_boxes


@dataclass(frozen=True)
class Scaling:
    """How the images of a batch were resized, and what becomes of their boxes.

    Boxes are half-open. The original's (`inclusive`) are x1, y1, x2 - 1, y2 - 1 in the pixels of the image as it came,
    and it resizes those corners, by r: the pixel that it counts in the prepared image is another than the one that it
    took off before. So a box that it is taught ends 1 - r pixels further than the resized half-open box, and the boxes
    that it finds end 1 - r pixels too far.

    Attributes:
        image_sizes: (B, 2) height, width of the prepared images, before padding.
        original_sizes: (B, 2), likewise of the images as they came; None if these are the prepared ones.
        inclusive: `GroundingConfig.inclusive_boxes`.
    """

    image_sizes: Tensor
    original_sizes: Tensor | None = None
    inclusive: bool = False

    @property
    def ratios(self) -> Tensor:
        """The r, (B, 2) of height and width: pixels of the prepared image for one of the image as it came."""
        sizes = self.image_sizes if self.original_sizes is None else self.original_sizes
        return self.image_sizes / sizes

    @property
    def limits(self) -> Tensor:
        """Heights and widths (B, 2) at which boxes that are found are to be cut.

        Those of the prepared images. Inclusive boxes of an image that was made smaller may end 1 - r pixels later, or
        none would reach its border; the original cuts them off.
        """
        return self.image_sizes + (1 - self.ratios).clamp(min=0) if self.inclusive else self.image_sizes

    def to_taught(self, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Boxes (n, 4) of each prepared image as the network shall learn them.

        They are given back as they are; only inclusive ones are moved, and have at least one pixel, as in the original.
        """
        if not self.inclusive:
            return list(boxes)
        shifts = [(1 - ratio.flip(0)).to(own) for ratio, own in zip(self.ratios, boxes, strict=True)]
        return [_with_ends(own, own[:, 2:] + shift, 1) for own, shift in zip(boxes, shifts, strict=True)]

    def to_original(self, found: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Detections whose `boxes` (n, 4), as the network found them, are in pixels of the images as they came."""
        sizes = self.image_sizes if self.original_sizes is None else self.original_sizes
        return [
            {**each, "boxes": self._to_original(each["boxes"], ratio, size)}
            for each, ratio, size in zip(found, self.ratios, sizes, strict=True)
        ]

    def _to_original(self, boxes: Tensor, ratio: Tensor, size: Tensor) -> Tensor:
        ratio = ratio.flip(0).to(boxes)  # width, height
        if self.inclusive:
            # As far as the original's, which reach beyond the border by less than a pixel if the image was enlarged.
            return _with_ends(boxes, boxes[:, 2:] - (1 - ratio), ratio) / ratio.repeat(2)
        return clip_boxes(boxes / ratio.repeat(2), size)  # the border is met exactly, whatever the division rounds to


def _with_ends(boxes: Tensor, ends: Tensor, least: Tensor | float) -> Tensor:
    """Boxes (n, 4) with other ends (n, 2), at least `least` after their starts."""
    return torch.cat([boxes[:, :2], torch.maximum(ends, boxes[:, :2] + least)], dim=1)
