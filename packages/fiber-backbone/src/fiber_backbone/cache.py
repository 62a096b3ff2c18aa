"""What causal decoding keeps from one token to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fiber_backbone.attention import KeyValue


@dataclass
class DecodingCache:
    """What causal decoding has computed so far; `FiberBackbone.decode_text` fills it.

    Several texts in a row may read one image: R texts over B images, text r reading image r // (R / B). The image's
    keys and values are then held once for all of them.

    Attributes:
        image: Keys and values of the images, one pair for each fused layer, each (B, heads, N, D / heads).
        text: Keys and values of the tokens so far, one pair for each layer, each (R, heads, P, D / heads).
        mask: (R, P), 1 = real token.
        position: (R,) int64, number of tokens so far that are not padding.
    """

    image: list[KeyValue] = field(default_factory=list)
    text: list[KeyValue] = field(default_factory=list)
    mask: Tensor | None = None
    position: Tensor | None = None

    def extend(self, attention_mask: Tensor, num_real: Tensor) -> None:
        """Notes the tokens (R, L) that come next, and how many of each text (R,) are no padding."""
        self.position = num_real if self.position is None else self.position + num_real
        self.mask = attention_mask if self.mask is None else torch.cat([self.mask, attention_mask], dim=1)

    def __getitem__(self, index: Tensor) -> DecodingCache:
        """The cache of other rows, each text with an image of its own."""
        return self.select(index, index)

    def select(self, texts: Tensor, images: Tensor | None = None) -> DecodingCache:
        """The cache of other texts, for example of the beams that survived.

        Args:
            texts: Rows of the texts to keep, in their new order, as many for each image.
            images: Rows of the images that they read, in order; unchanged, and not copied, if None.
        """
        if self.mask is None or self.position is None:
            return DecodingCache()
        image = self.image if images is None else _pick(self.image, images)
        return DecodingCache(image, _pick(self.text, texts), self.mask[texts], self.position[texts])


def _pick(pairs: list[KeyValue], rows: Tensor) -> list[KeyValue]:
    return [KeyValue(pair.key[rows], pair.value[rows]) for pair in pairs]
