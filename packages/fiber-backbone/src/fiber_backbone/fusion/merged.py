"""Merged attention: one softmax over a block's own tokens and the other stream's, projected into its width.

    image block:  softmax(q [k_window ; t W_k]^T / sqrt(d) + bias) [v_window ; t W_v]
    text layer:   softmax(q [k_text ; x W_k]^T / sqrt(d) + mask) [v_text ; x W_v]

What Dou et al. (2022), METER, section 3.1, call merged attention, here inside the backbone. There is no gate: a fresh
model does not equal its two streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from fiber_backbone.attention import KeyValue, split_heads
from fiber_backbone.config import FiberConfig
from fiber_backbone.fusion.base import Fusion, attention_flops, linear_flops
from fiber_backbone.streams import Insert, StreamSizes, rescale_linear


class ContextProjection(nn.Module):
    """Keys and values of the other stream's tokens, for a block's own queries.

    Args:
        dim: Channels of the block (C).
        context_dim: Channels of the other stream (E).
        num_heads: Attention heads of the block.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_value = nn.Linear(context_dim, 2 * dim)
        nn.init.trunc_normal_(self.key_value.weight, std=0.02)
        nn.init.zeros_(self.key_value.bias)

    def forward(self, context: Tensor) -> KeyValue:
        """Of tokens (B, M, E)."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        return KeyValue(split_heads(key, self.num_heads), split_heads(value, self.num_heads))


class MergedFusion(Fusion):
    """One softmax over own and other tokens.

    Args:
        initializer_range: Standard deviation of new linear weights.
    """

    inserts_context = True

    def __init__(self, initializer_range: float = 0.02) -> None:
        self.initializer_range = initializer_range

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """See `Fusion`."""
        return cls(config.initializer_range)

    def image_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """A projection for each pair."""
        return self._layers(image, text)

    def text_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """A projection for each pair."""
        return self._layers(text, image)

    def _layers(self, own: StreamSizes, other: StreamSizes) -> nn.ModuleList:
        layers = nn.ModuleList(
            ContextProjection(dim, context_dim, heads)
            for dim, heads, context_dim in zip(own.dims, own.heads, other.dims, strict=True)
        )
        rescale_linear(layers, self.initializer_range)
        return layers

    def into_image(self, layer: Any, text: Tensor, mask: Tensor) -> Insert:
        """The text, for every window."""
        return Insert(layer(text), mask)

    def into_text(self, layer: Any, image: Tensor | KeyValue, mask: Tensor | None) -> Insert:
        """The whole image."""
        return Insert(layer(image) if isinstance(image, Tensor) else image, mask)

    def read_image(self, layer: Any, image: Tensor) -> KeyValue:
        """See `Fusion`."""
        return layer(image)

    def flops(self, image: StreamSizes, text: StreamSizes, image_tokens: Sequence[int], text_length: int) -> int:
        """See `Fusion`; windows are counted without their padding."""
        return sum(
            linear_flops(text_length, text_dim, 2 * dim)
            + attention_flops(tokens, text_length, dim)
            + linear_flops(tokens, dim, 2 * text_dim)
            + attention_flops(text_length, tokens, text_dim)
            for tokens, dim, text_dim in zip(image_tokens, image.dims, text.dims, strict=True)
        )
