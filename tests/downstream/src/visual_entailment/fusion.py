"""A fusion of one's own: each stream is told the other one's mean.

Shapes: B batch, N image tokens, C channels of an image, L text tokens, D channels of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

from fiber_backbone import FiberConfig, Fusion, Insert, StreamSizes
from torch import Tensor, nn


class AddedMean(nn.Module):
    """Adds to tokens the projected mean of others; nothing at first, so that fresh streams stay what they were.

    Args:
        dim: Channels of the tokens (C).
        context_dim: Channels of the others (E).
    """

    def __init__(self, dim: int, context_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(context_dim, dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, C) and more: the mean of `context` (B, M, E), where the additive mask (B, 1, 1, M) lets it through."""
        mean = context.mean(dim=1, keepdim=True) if mask is None else mask.squeeze(1).softmax(dim=-1) @ context
        return x + self.project(mean)


class ExchangedMeans(Fusion):
    """Each block of the top pairs adds the mean of the other stream's tokens to what it mixed from its own."""

    can_decode = False

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """There is nothing to set."""
        return cls()

    def image_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """A projection for each pair."""
        return nn.ModuleList(map(AddedMean, image.dims, text.dims))

    def text_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """A projection for each pair."""
        return nn.ModuleList(map(AddedMean, text.dims, image.dims))

    def into_image(self, layer: nn.Module, text: Tensor, mask: Tensor) -> Insert:
        """The mean of the text, to every token of the image."""
        return Insert(after=partial(layer, context=text, mask=mask))

    def into_text(self, layer: nn.Module, image: Any, mask: Tensor | None) -> Insert:
        """The mean of the image, to every token of the text."""
        return Insert(after=partial(layer, context=image, mask=mask))

    def flops(self, image: StreamSizes, text: StreamSizes, image_tokens: Sequence[int], text_length: int) -> int:
        """Two projections of one token for each pair."""
        return sum(4 * dim * context_dim for dim, context_dim in zip(image.dims, text.dims, strict=True))
