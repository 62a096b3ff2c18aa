"""Which cells of a batch's maps belong to which image: what is beyond them must not be seen in any result.

An image's own canvas is its size rounded up to a multiple of the backbone's last stride, as it would be padded alone.
What it owns at a level is what that canvas has there, whatever the batch was padded to.

Shapes: B batch, H W map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Extent:
    """What each image owns of one level's map, from the first row and column on.

    Attributes:
        sizes: (B, 2) int64 rows and columns owned; (1, 2) where every image owns the whole map.
        mask: (B, 1, H, W), 1 inside and 0 outside; None where every image owns the whole map.
        weights: (B or 1, H W), to average over what an image owns: 1 / count inside, 0 outside.
        shape: H and W.
    """

    sizes: Tensor
    mask: Tensor | None
    weights: Tensor
    shape: tuple[int, int]

    def clear(self, x: Tensor) -> Tensor:
        """(B, C, H, W) with zeros outside."""
        return x if self.mask is None else x * self.mask.to(x.dtype)

    def mean(self, x: Tensor) -> Tensor:
        """(B, C) averages of (B, C, H, W) over what each image owns."""
        weights = self.weights.to(x.dtype).expand(x.shape[0], -1)
        return torch.bmm(x.flatten(2), weights[:, :, None])[:, :, 0]


def level_extents(
    shapes: list[tuple[int, int]],
    strides: tuple[int, ...],
    image_sizes: Tensor | None,
    like: Tensor,
    canvas_multiple: int = 32,
) -> list[Extent]:
    """The extents of all levels.

    Args:
        shapes: H and W of each level.
        strides: Pixels per cell of each level.
        image_sizes: (B, 2) true height and width of each image in pixels; None: everybody owns everything. On the
            CPU, masks that would leave out nothing are not made; on a device, finding that out would stall it.
        like: Gives the device and the number type.
        canvas_multiple: What an image's own canvas is a multiple of: the backbone's last stride.
    """
    extents = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        place = None if image_sizes is None else image_sizes.device
        # each filled in by itself, since in export they are symbols
        whole = torch.stack([torch.full((1,), side, device=place) for side in (height, width)], dim=1)
        sizes, mask = whole.to(like.device), None
        weights = like.new_full((1, height * width), 1 / (height * width))
        if image_sizes is not None:
            owned = _divide_up(_divide_up(image_sizes, canvas_multiple) * canvas_multiple, stride).minimum(whole)
            if owned.device.type != "cpu" or torch.compiler.is_compiling() or (owned != whole).any():
                sizes = owned.to(like.device)
                rows = torch.arange(height, device=like.device) < sizes[:, :1]
                columns = torch.arange(width, device=like.device) < sizes[:, 1:]
                mask = (rows[:, None, :, None] & columns[:, None, None, :]).to(like.dtype)
                weights = mask.flatten(1) / sizes.prod(dim=1, keepdim=True)
        extents.append(Extent(sizes, mask, weights, (height, width)))
    return extents


def _divide_up(number: Tensor, divisor: int) -> Tensor:
    return (number + divisor - 1).div(divisor, rounding_mode="floor")
