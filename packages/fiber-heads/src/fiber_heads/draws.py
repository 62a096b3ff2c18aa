"""Random numbers that follow from a sample's own seed, so that they are alike in any batch, process and order."""

from __future__ import annotations

from torch import Tensor


def uniform(seeds: Tensor, purpose: int = 0) -> Tensor:
    """One number in [0, 1) for each seed, (B,) float32, by the finalizer of splitmix64 (Steele et al., 2014).

    Args:
        seeds: (B,) int64.
        purpose: What it is for, at least 0; another one gives another number.
    """
    x = seeds + _signed((purpose + 1) * 0x9E3779B97F4A7C15)  # the golden ratio times 2^64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return _shifted(x ^ _shifted(x, 31), 41).float() / 2**23


def draw(weights: Tensor, numbers: Tensor) -> Tensor:
    """The columns (B,) int64 where the cumulated weights of each row pass a number: a draw by these weights.

    Args:
        weights: (B, N), non-negative, some of each row positive. A column without weight is never drawn.
        numbers: (B,) in [0, 1), at most 1 - 2^-23.
    """
    total = weights.cumsum(dim=1)
    whole = total.masked_fill(weights == 0, 0).amax(dim=1, keepdim=True)
    passed = (total > numbers[:, None] * whole) & (weights > 0)
    return passed.byte().argmax(dim=1)  # the first one


def _signed(number: int) -> int:
    """The int64 of the same 64 lowest bits."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
