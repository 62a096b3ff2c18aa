"""The boxes that the head corrects: one square for each cell of each level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def level_anchors(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scale: float = 8.0,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Anchors of every level, row after row.

    A level's first anchor is centered on the middle of its first cell, at stride / 2.

    Args:
        shapes: Rows and columns of each level.
        strides: Pixels per cell of each level.
        scale: Side of an anchor over the stride of its level.
        device: Where the anchors shall live.

    Returns:
        For each level (H W, 4) float32 xyxy in pixels of the padded image, half-open.

    Example:
        >>> level_anchors([(1, 2)], [8])[0].tolist()
        [[-28.0, -28.0, 36.0, 36.0], [-20.0, -28.0, 44.0, 36.0]]
    """
    levels = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        half = scale * stride / 2
        cells = torch.arange(height * width, device=device)
        rows = cells // width
        y, x = (place * stride + stride / 2 for place in (rows, cells - rows * width))
        levels.append(torch.stack([x - half, y - half, x + half, y + half], dim=1).float())
    return levels
