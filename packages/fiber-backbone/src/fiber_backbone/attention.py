"""Gated cross-attention, the one thing that FIBER adds to its two backbones (paper section 3.1).

    Cross(q, kv) = W_p softmax(Nq(q) W_q (kv W_k)^T / sqrt(d) + mask) (kv W_v)
    output       = q + gate * Cross(q, kv)

Shapes: B batch, N query tokens, M context tokens, C channels of the query, E channels of the context.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class KeyValue(NamedTuple):
    """Keys and values of an attention, each of shape (B, heads, M, C / heads)."""

    key: Tensor
    value: Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, C / heads) to (B, N, C)."""
    return x.transpose(-3, -2).flatten(-2)


def padding_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive attention mask, 0 for real keys and the lowest finite number for padding.

    Finite, so that a row without any real key averages over its padding instead of becoming NaN.

    Args:
        attention_mask: (B, M), 1 or True for real tokens.
        dtype: The dtype of the queries.

    Returns:
        (B, 1, 1, M), to be broadcast over heads and queries.
    """
    padding = ~attention_mask.bool()[:, None, None, :]
    return torch.zeros(padding.shape, dtype=dtype, device=padding.device).masked_fill(padding, torch.finfo(dtype).min)


class GatedCrossAttention(nn.Module):
    """Adds to a stream what it reads from another one, scaled by a learned gate that starts at zero.

    At the start the output equals `hidden` exactly, so a fresh fused model equals its two pre-trained backbones.

    Args:
        dim: Channels of the stream that asks (C).
        context_dim: Channels of the stream that is read (E).
        num_heads: Attention heads; must divide `dim`.
        normalize_query: Whether a layer norm precedes the query (the sum stays un-normalised).
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
        key, value = self.project_context(context) if isinstance(context, Tensor) else context
        query = split_heads(self.query(self.norm(hidden)), self.num_heads)
        read = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask.to(query.dtype),
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return hidden + self.gate * self.dropout(self.output(merge_heads(read)))
