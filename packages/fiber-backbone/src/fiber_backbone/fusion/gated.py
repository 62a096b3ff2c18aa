"""Gated cross-attention, the one thing that FIBER adds to its two streams (paper section 3.1).

    Cross(q, kv) = W_p softmax(Nq(q) W_q (kv W_k)^T / sqrt(d) + mask) (kv W_v)
    output       = q + gate * Cross(q, kv)

Shapes: B batch, N query tokens, M context tokens, C channels of the query, E channels of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fiber_backbone.attention import KeyValue, merge_heads, split_heads
from fiber_backbone.config import FiberConfig
from fiber_backbone.fusion.base import Fusion, attention_flops, linear_flops
from fiber_backbone.streams import Insert, StreamSizes, rescale_linear


class GatedCrossAttention(nn.Module):
    """Adds to a stream what it reads from another one, scaled by a learned gate that starts at zero.

    At the start the output equals `hidden` exactly, so a fresh fused model equals its two pre-trained backbones.

    Args:
        dim: Channels of the stream that asks (C).
        context_dim: Channels of the stream that is read (E).
        num_heads: Attention heads; must divide `dim`.
        normalize_query: Whether a layer norm precedes the query (the sum stays un-normalized).
        dropout: Dropout on the output before the gate, in [0, 1).
        attention_dropout: Dropout on the attention probabilities, in [0, 1).
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        normalize_query: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.norm = nn.LayerNorm(dim, eps=1e-5) if normalize_query else nn.Identity()
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(context_dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Parameter(torch.zeros(1))
        for linear in (self.query, self.key_value, self.output):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def project_context(self, context: Tensor) -> KeyValue:
        """Keys and values of a context; compute them once when many queries read it.

        Args:
            context: (B, M, E).
        """
        key, value = self.key_value(context).chunk(2, dim=-1)
        return KeyValue(split_heads(key, self.num_heads), split_heads(value, self.num_heads))

    def forward(self, hidden: Tensor, context: Tensor | KeyValue, mask: Tensor | None = None) -> Tensor:
        """Read the context.

        Args:
            hidden: (B, N, C).
            context: (B, M, E), or its keys and values from `project_context`.
            mask: Additive, broadcastable to (B, heads, N, M), for example from `padding_mask`.

        Returns:
            (B, N, C).
        """
        query, key, value = self._project(hidden, context)
        read = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask.to(query.dtype),
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return hidden + self.gate * self.dropout(self.output(merge_heads(read)))

    def attend(self, hidden: Tensor, context: Tensor | KeyValue, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward` without dropout, by probabilities that can be seen; its last bits may differ.

        Args:
            hidden: As of `forward`.
            context: As of `forward`.
            mask: As of `forward`.

        Returns:
            (B, N, C), and the attention probabilities (B, heads, N, M), whose rows sum to one.
        """
        query, key, value = self._project(hidden, context)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        probabilities = (scores if mask is None else scores + mask.to(query.dtype)).softmax(dim=-1)
        return hidden + self.gate * self.output(merge_heads(probabilities @ value)), probabilities

    def _project(self, hidden: Tensor, context: Tensor | KeyValue) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.project_context(context) if isinstance(context, Tensor) else context
        return split_heads(self.query(self.norm(hidden)), self.num_heads), key, value


class GatedFusion(Fusion):
    """FIBER's: what a block's self-attention gives, plus what it reads from the other stream, times a learned gate.

    Args:
        normalize_image_query: Whether a layer norm precedes the query of the image side.
        initial_gate: A fresh model's gates; 0 leaves both streams as they are.
        initializer_range: Standard deviation of new linear weights.
    """

    def __init__(
        self, normalize_image_query: bool = True, initial_gate: float = 0.0, initializer_range: float = 0.02
    ) -> None:
        self.normalize_image_query, self.initial_gate = normalize_image_query, initial_gate
        self.initializer_range = initializer_range

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """See `Fusion`."""
        return cls(config.normalize_image_query, config.initial_gate, config.initializer_range)

    def image_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """One cross-attention for each pair."""
        return self._layers(image, text, self.normalize_image_query)

    def text_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """One cross-attention for each pair."""
        return self._layers(text, image)

    def _layers(self, own: StreamSizes, other: StreamSizes, normalize_query: bool = False) -> nn.ModuleList:
        layers = nn.ModuleList(
            GatedCrossAttention(dim, context_dim, heads, normalize_query, own.dropout, own.attention_dropout)
            for dim, heads, context_dim in zip(own.dims, own.heads, other.dims, strict=True)
        )
        rescale_linear(layers, self.initializer_range)
        for layer in layers:
            nn.init.constant_(layer.gate, self.initial_gate)  # type: ignore[arg-type]
        return layers

    def into_image(self, layer: nn.Module, text: Tensor, mask: Tensor) -> Insert:
        """Token by token over the whole map: text needs no windows."""
        return Insert(after=partial(layer, context=text, mask=mask))

    def into_text(self, layer: nn.Module, image: Tensor | KeyValue, mask: Tensor | None) -> Insert:
        """Of the whole image."""
        return Insert(after=partial(_read_in_groups, layer, image, mask))

    def read_image(self, layer: Any, image: Tensor) -> KeyValue:
        """See `Fusion`."""
        return layer.project_context(image)

    def flops(self, image: StreamSizes, text: StreamSizes, image_tokens: Sequence[int], text_length: int) -> int:
        """See `Fusion`."""
        return sum(
            _flops(tokens, dim, text_length, text_dim) + _flops(text_length, text_dim, tokens, dim)
            for tokens, dim, text_dim in zip(image_tokens, image.dims, text.dims, strict=True)
        )


def _read_in_groups(layer: nn.Module, image: Tensor | KeyValue, mask: Tensor | None, attended: Tensor) -> Tensor:
    """Texts in a row that read one image are one long query of it: its keys and values are never repeated."""
    images = (image if isinstance(image, Tensor) else image.key).shape[0]
    return layer(attended.reshape(images, -1, attended.shape[-1]), image, mask).view_as(attended)


def _flops(queries: int, dim: int, keys: int, context_dim: int) -> int:
    projections = 2 * linear_flops(queries, dim, dim) + linear_flops(keys, context_dim, 2 * dim)
    return projections + attention_flops(queries, keys, dim)
