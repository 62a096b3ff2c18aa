"""A process's share of the global batch: pairs, what is begun of them, and rows of it wherever they lie.

Shapes: S pairs of this process, B of them computed at a time, P processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fiber_backbone import ImageState, TextState
from torch import Tensor
from torch.nn.functional import pad

from fiber_heads.distributed import all_gather, max_over_processes, rank, world_size
from fiber_heads.exchange import Exchange

Begun = dict[str, Tensor]
"""What an objective needs of images and texts below the cut, a row for each pair: the states `image` (B, H, W, C),
`text` and `masked_text` (B, L, D), and the contrast's unit vectors `image_features` and `text_features` (B, D)."""


@dataclass
class Pairs:
    """The tensors of a batch that the coarse stage reads, see `FiberForPretraining.forward`."""

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    mlm_input_ids: Tensor | None = None
    mlm_labels: Tensor | None = None
    image_ids: Tensor | None = None
    seeds: Tensor | None = None
    source: Tensor | None = None

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a negative can be encoded again from."""
        return self.pixel_values, self.input_ids, self.attention_mask


@dataclass
class Share:
    """All that this process has begun of the global batch, as candidates and to be fetched from.

    Attributes:
        begun: All S rows.
        attention_mask: (S, L).
        image_ids: (S,), equal for pairs of the same image; None where nothing is known.
        gradients: Where the gradients of fetched states add up, if not through the graph.
    """

    begun: Begun
    attention_mask: Tensor
    image_ids: Tensor | None
    gradients: Begun | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the global batch (P S)."""
        return len(self.attention_mask) * world_size()

    def own_rows(self, part: slice) -> Tensor:
        """Where rows of this process stand in the global batch, (B,)."""
        size, device = len(self.attention_mask), self.attention_mask.device
        return torch.arange(size, device=device)[part] + size * rank()

    def other_images(self, part: slice) -> Tensor:
        """(B, P S) bool: which rows of the global batch have another image than each of this process's rows."""
        columns = torch.arange(self.num_rows, device=self.attention_mask.device)
        other = self.own_rows(part)[:, None] != columns
        return other if self.image_ids is None else other & (self.image_ids[part, None] != all_gather(self.image_ids))

    def fetch_images(self, rows: Tensor) -> ImageState:
        """Begun images of rows (B,) of the global batch, of whatever process."""
        return ImageState(self._fetch("image", self.begun["image"], Exchange(rows, len(self.attention_mask))))

    def fetch_texts(self, rows: Tensor) -> TextState:
        """Begun texts of rows (B,) of the global batch, as long as the longest of any process."""
        text, mask = self.begun["text"], self.attention_mask
        if self.gradients is None:  # else it was made as long before
            length = max_over_processes(mask.shape[1], mask.device)
            text, mask = padded(text, length), padded(mask, length)
        exchange = Exchange(rows, len(mask))
        return TextState(self._fetch("text", text, exchange), exchange.fetch(mask))

    def _fetch(self, name: str, state: Tensor, exchange: Exchange) -> Tensor:
        return exchange.fetch(state, None if self.gradients is None else self.gradients[name])


def padded(tensor: Tensor, length: int) -> Tensor:
    """Tokens (B, L) or their states (B, L, D) with zeros up to a length."""
    missing = length - tensor.shape[1]
    return pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing)) if missing else tensor
