"""Images that were begun, kept for the texts to come: of few images many questions are asked."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fiber_backbone.states import ImageState

_MOST_BYTES = 256 * 2**20


class ImageCache:
    """The newest images as they stand at the first fused block, found again by their pixels.

    `backbone.image_cache = ImageCache()` gives one to a backbone in eval mode whose weights stay as they are. States
    are constants: no gradient reaches what is below the cut. For one thread at a time.

    Args:
        max_bytes: How much is kept; the newest batch is, however large it may be.
    """

    def __init__(self, max_bytes: int = _MOST_BYTES) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Any, ...], ImageState] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """What is kept takes so many bytes."""
        return sum(_num_bytes(state) for state in self._kept.values())

    def state(
        self,
        begin: Callable[[Tensor, bool, Tensor | None], ImageState],
        pixel_values: Tensor,
        return_pyramid: bool,
        image_sizes: Tensor | None,
    ) -> ImageState:
        """What `begin` gives for its arguments, those of `FiberBackbone.begin_image`."""
        content = pixel_values.detach().cpu().float().contiguous().numpy().tobytes()
        sizes = None if image_sizes is None else tuple(image_sizes.flatten().tolist())
        where = (pixel_values.device, pixel_values.dtype)
        key = (hashlib.sha256(content).digest(), tuple(pixel_values.shape), *where, return_pyramid, sizes)
        if key not in self._kept:
            self._kept[key] = begin(pixel_values.detach(), return_pyramid, image_sizes).map(Tensor.detach)
            while len(self._kept) > 1 and self.num_bytes > self.max_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _num_bytes(state: ImageState) -> int:
    tensors = [state.hidden_state, *state.pyramid]
    return sum(each.untyped_storage().nbytes() for each in tensors)
