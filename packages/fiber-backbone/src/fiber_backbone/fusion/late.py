"""Late fusion: both streams finish by themselves, then layers of co-attention on top (METER; Dou et al. 2022).

    h = LN(x + SelfAttn(x));   h = LN(h + CrossAttn(h, other));   x = LN(h + FFN(h))

METER first brings both streams to one width; here each keeps its own, so that what follows a fusion is the same for
all. The maps of the image blocks have read no text: there is no fused pyramid, and so no grounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from fiber_backbone.attention import KeyValue, merge_heads, split_heads
from fiber_backbone.config import FiberConfig
from fiber_backbone.fusion.base import Fusion, attention_flops, linear_flops
from fiber_backbone.streams import Insert, StreamSizes, rescale_linear

MLP_RATIO = 4


class CoAttention(nn.Module):
    """Reads itself, then the other stream, then thinks: a layer of BERT with cross-attention.

    Args:
        dim: Channels (C).
        context_dim: Channels of the other stream (E).
        num_heads: Attention heads of both attentions.
        dropout: On the outputs of the three parts, in [0, 1).
        attention_dropout: On attention probabilities, in [0, 1).
    """

    def __init__(
        self, dim: int, context_dim: int, num_heads: int, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, attention_dropout
        self.qkv, self.self_output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.query, self.key_value, self.cross_output = (
            nn.Linear(dim, dim),
            nn.Linear(context_dim, 2 * dim),
            nn.Linear(dim, dim),
        )
        self.intermediate, self.output = nn.Linear(dim, MLP_RATIO * dim), nn.Linear(MLP_RATIO * dim, dim)
        self.self_norm, self.cross_norm, self.output_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None, context_mask: Tensor | None) -> Tensor:
        """One layer.

        Args:
            x: (B, N, C).
            context: (B, M, E), the other stream from before this layer.
            mask: Additive, (B, 1, 1, N).
            context_mask: Additive, (B, 1, 1, M).

        Returns:
            (B, N, C).
        """
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        x = self.self_norm(x + self.dropout(self.self_output(self._attend(query, key, value, mask))))
        key, value = self.key_value(context).chunk(2, dim=-1)
        read = self._attend(self.query(x), key, value, context_mask)
        x = self.cross_norm(x + self.dropout(self.cross_output(read)))
        return self.output_norm(x + self.dropout(self.output(gelu(self.intermediate(x)))))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (split_heads(part, self.num_heads) for part in (query, key, value))
        dropout = self.attention_dropout if self.training else 0.0
        mask = None if mask is None else mask.to(query.dtype)
        return merge_heads(scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout))


class LateFusion(Fusion):
    """`FiberConfig.num_fusion_blocks` layers of co-attention for each stream, on top of the finished streams.

    Args:
        initializer_range: Standard deviation of new linear weights.
    """

    has_pyramid = False
    can_decode = False

    def __init__(self, initializer_range: float = 0.02) -> None:
        self.initializer_range = initializer_range

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """See `Fusion`."""
        return cls(config.initializer_range)

    def pairs(self, num_blocks: int, num_layers: int, count: int) -> tuple[tuple[int, int], ...]:
        """None: all blocks lie below the cut."""
        return ()

    def image_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """K layers."""
        return self._layers(image, text, count)

    def text_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """K layers."""
        return self._layers(text, image, count)

    def _layers(self, own: StreamSizes, other: StreamSizes, count: int) -> nn.ModuleList:
        sizes = own.dims[-1], other.dims[-1], own.heads[-1], own.dropout, own.attention_dropout
        layers = nn.ModuleList(CoAttention(*sizes) for _ in range(count))
        rescale_linear(layers, self.initializer_range)
        return layers

    def into_image(self, layer: nn.Module, text: Tensor, mask: Tensor) -> Insert:
        """Nothing."""
        return Insert()

    def into_text(self, layer: nn.Module, image: Tensor | KeyValue, mask: Tensor | None) -> Insert:
        """Nothing."""
        return Insert()

    def on_top(
        self, image_layers: nn.ModuleList, text_layers: nn.ModuleList, image: Tensor, text: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The layers, each reading the other stream's value from before the step."""
        for image_layer, text_layer in zip(image_layers, text_layers, strict=True):
            image, text = image_layer(image, text, None, mask), text_layer(text, image, mask, None)
        return image, text

    def flops(self, image: StreamSizes, text: StreamSizes, image_tokens: Sequence[int], text_length: int) -> int:
        """See `Fusion`."""
        sides = ((image.dims[-1], text.dims[-1]), (text.dims[-1], image.dims[-1]))
        return sum(
            _flops(queries, dim, keys, context_dim)
            for tokens in image_tokens
            for queries, keys, (dim, context_dim) in zip(
                (tokens, text_length), (text_length, tokens), sides, strict=True
            )
        )


def _flops(queries: int, dim: int, keys: int, context_dim: int) -> int:
    own = linear_flops(queries, dim, 4 * dim) + attention_flops(queries, queries, dim)
    cross = 2 * linear_flops(queries, dim, dim) + linear_flops(keys, context_dim, 2 * dim)
    return own + cross + attention_flops(queries, keys, dim) + 2 * linear_flops(queries, dim, MLP_RATIO * dim)
