"""What every attention here shares: heads, keys and values, masks.

Shapes: B batch, N tokens, M context tokens, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KeyValue(NamedTuple):
    """Keys and values of an attention, each of shape (B, heads, M, C / heads)."""

    key: Tensor
    value: Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return in_order(x.unflatten(-1, (num_heads, -1)).transpose(-3, -2))


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, C / heads) to (B, N, C)."""
    return in_order(x.transpose(-3, -2)).flatten(-2)


def in_order(x: Tensor) -> Tensor:
    """A tensor as it is; a copy in export, where whether `reshape` has to copy must not hang on a symbol."""
    return x.clone(memory_format=torch.contiguous_format) if torch.compiler.is_exporting() else x


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
