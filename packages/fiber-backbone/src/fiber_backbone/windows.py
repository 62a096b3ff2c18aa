"""Attention within windows of a map (Swin Transformer; Liu et al. 2021), for maps of any size.

What differs from timm's: relative position bias and shift mask are found from the map at hand, so that one set of
weights serves any size; a map that windows do not tile is padded before it is shifted, as in the detectors built on
Swin (timm pads after).

Shapes: B batch, H W map, C channels, V windows, T tokens of a window, M tokens from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from fiber_backbone.attention import KeyValue, in_order, merge_heads, split_heads
from fiber_backbone.config import WindowPolicy
from fiber_backbone.streams import Insert, Size


@dataclass(frozen=True)
class WindowPlan:
    """How one map is cut into windows.

    Attributes:
        window: Height and width of a window in tokens.
        shift: Cyclic shift up and left in tokens; tensors without dimensions where only an exported program knows it.
        padded: Height and width of the map after padding to whole windows.
        bias_index: (T * T,) int64, row of the relative position bias table for each pair (query, key).
        region: (V, T) integers, which part of the map a token came from: the cyclic shift brings tokens of different
            parts into one window, and they must not see each other. None without a shift.
    """

    window: Size
    shift: Size | tuple[Tensor, Tensor]
    padded: Size
    bias_index: Tensor
    region: Tensor | None


def plan_windows(size: Size, window_size: int, shifted: bool, policy: WindowPolicy, device: torch.device) -> WindowPlan:
    """Cut a map of a size into windows.

    Args:
        size: Height and width of the map in tokens.
        window_size: Side of the window that the bias table was made for.
        shifted: Whether the block is one of the odd, shifted ones.
        policy: See `FiberConfig.window_policy`.
        device: Where the index and the mask live.
    """
    height, width = size
    shrink = policy == "shrink"
    window = (min(height, window_size), min(width, window_size)) if shrink else (window_size, window_size)
    shift_height, shift_width = (
        window_size // 2 if shifted and not (shrink and side <= window_size) else 0 for side in size
    )
    padded = (-(-height // window[0]) * window[0], -(-width // window[1]) * window[1])

    region = None
    if shift_height or shift_width:
        parts = [_parts(*each, device) for each in zip(padded, window, (shift_height, shift_width), strict=True)]
        region = _regions(parts[0], parts[1], window)
    return WindowPlan(window, (shift_height, shift_width), padded, _bias_index(window, window_size, device), region)


def plan_any_windows(
    size: Size, window_size: int, shifted: bool, policy: WindowPolicy, device: torch.device
) -> WindowPlan:
    """`plan_windows` for export, where a size is a pair of symbols: what hangs on it is left to the program's run.

    Windows have their full size. Where they would shrink to a small map, the map is padded instead, and the padding is
    a part of its own: the map's tokens see the same.
    """
    window, bias_index = (window_size, window_size), _bias_index((window_size, window_size), window_size, device)
    counts = [(side + window_size - 1) // window_size for side in size]
    padded, half = (counts[0] * window_size, counts[1] * window_size), window_size // 2 if shifted else 0
    if policy == "pad":
        parts = [_parts(side, window_size, half, device) for side in padded]
        region = _regions(parts[0], parts[1], window) if half else None
        return WindowPlan(window, (half, half), padded, bias_index, region)
    parts, shifts = [], []
    for side, whole in zip(size, padded, strict=True):
        fits = torch.full((), side, device=device) <= window_size
        location = torch.arange(whole, device=device)
        parts.append(torch.where(fits, (location >= side).char(), _parts(whole, window_size, half, device)))
        shifts.append(torch.where(fits, 0, half))
    shift = (shifts[0], shifts[1]) if half else (0, 0)
    return WindowPlan(window, shift, padded, bias_index, _regions(parts[0], parts[1], window))


def _bias_index(window: Size, window_size: int, device: torch.device) -> Tensor:
    """See `WindowPlan`."""
    rows = torch.arange(window[0], device=device).repeat_interleave(window[1])
    columns = torch.arange(window[1], device=device).repeat(window[0])
    delta_rows, delta_columns = rows[:, None] - rows, columns[:, None] - columns
    index = (delta_rows + window_size - 1) * (2 * window_size - 1) + delta_columns + window_size - 1
    return index.flatten()


def _regions(rows: Tensor, columns: Tensor, window: Size) -> Tensor:
    """See `WindowPlan`, from the parts of each side."""
    rows, columns = rows.view(-1, 1, window[0], 1), columns.view(1, -1, 1, window[1])
    return (rows * 3 + columns).flatten(2).flatten(0, 1)


def _parts(side: int, window: int, shift: int, device: torch.device) -> Tensor:
    """For each location along one side, before which cut it came: 0 and 1 are whole windows, 1 and 2 share the last."""
    location = torch.arange(side, device=device)
    if not shift:
        return torch.zeros_like(location, dtype=torch.int8)
    return (location >= side - window).char() + (location >= side - shift).char()


def partition(x: Tensor, window: Size) -> Tensor:
    """(B, H, W, C) to windows (B, V, T, C), row-major."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window[0], window[0], width // window[1], window[1], channels)
    return _swap(x).reshape(batch, -1, window[0] * window[1], channels)


def unpartition(x: Tensor, window: Size, size: Size) -> Tensor:
    """Windows (B, V, T, C) back to (B, H, W, C)."""
    batch, channels = x.shape[0], x.shape[-1]
    x = x.view(batch, size[0] // window[0], size[1] // window[1], window[0], window[1], channels)
    return _swap(x).reshape(batch, *size, channels)


def _swap(x: Tensor) -> Tensor:
    """Dimensions 2 and 3 swapped, ready to be reshaped."""
    return in_order(x.transpose(2, 3))


def within(size: Size, sizes: Tensor) -> Tensor:
    """(B, H, W) bool, true on a map of a size where it belongs to an image of its own `sizes` (B, 2)."""
    rows, columns = (torch.arange(side, device=sizes.device) for side in size)
    return (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])


def window_attention(
    attention: Any, x: Tensor, plan: WindowPlan, sizes: Tensor | None = None, insert: Insert | None = None
) -> Tensor:
    """Self-attention within windows, with relative position bias.

    Args:
        attention: timm's `WindowAttention`: holds `qkv`, `proj` and `relative_position_bias_table`.
        x: (B, H, W, C), already normalized.
        plan: How the map is cut.
        sizes: (B, 2) int64, height and width in tokens of each image where the batch's map is larger. What lies
            beyond is then as the padding to whole windows would be, were the image alone.
        insert: Its `context` is read by every window beside its own tokens, without position bias.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, _ = x.shape
    heads, tokens = attention.num_heads, plan.window[0] * plan.window[1]
    if sizes is not None:
        x = x * within((height, width), sizes)[..., None]
    # Padding is zero, its projection the bias. To project much of it takes longer than to move three times the channels
    project_first = not torch.compiler.is_exporting() and 4 * plan.padded[0] * plan.padded[1] > 5 * height * width
    if project_first:
        x = _pad(attention.qkv(x), plan.padded, attention.qkv.bias)
    else:
        x = pad(x, (0, 0, 0, plan.padded[1] - width, 0, plan.padded[0] - height))
    x = partition(_roll(x, plan.shift, -1), plan.window)
    x = x if project_first else attention.qkv(x)
    query, key, value = (split_heads(part, heads) for part in x.chunk(3, dim=-1))  # (B, V, heads, T, C/heads)

    bias = attention.relative_position_bias_table[plan.bias_index].view(tokens, tokens, heads).permute(2, 0, 1)
    bias = bias[None, None]  # (1, 1, heads, T, T)
    if plan.region is not None:
        bias = bias - 100.0 * _apart(plan, plan.region, sizes)[:, :, None]
    if insert is not None and insert.context is not None:
        key, value, bias = _with_context(key, value, bias, insert.context, insert.mask)
    # One bias for every window: windows join the batch. A bias for each: they join the heads, so that the mask is not
    # repeated over the batch.
    first = 0 if plan.region is None else 1
    query, key, value, bias = (part.flatten(first, first + 1) for part in (query, key, value, bias))
    x = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
    x = merge_heads(x.reshape(batch, -1, heads, tokens, x.shape[-1]))

    x = _roll(unpartition(x, plan.window, plan.padded), plan.shift, 1)
    return attention.proj(_crop(x, (height, width)))


def _roll(x: Tensor, shift: Sequence[int | Tensor], sign: Literal[-1, 1]) -> Tensor:
    """(B, H, W, ...) moved cyclically down and to the right by `sign` times the shift."""
    for axis, tokens in zip((1, 2), shift, strict=True):
        if isinstance(tokens, Tensor):
            side = x.shape[axis]
            place = torch.arange(side, device=x.device) - sign * tokens
            place = place + side * (place < 0).long() - side * (place >= side).long()
            x = x.index_select(axis, place)
        elif tokens:
            x = torch.roll(x, sign * tokens, dims=axis)
    return x


def _crop(x: Tensor, size: Size) -> Tensor:
    """(B, H, W, C) up to a size."""
    if not torch.compiler.is_exporting():
        return x[:, : size[0], : size[1]]
    for axis, side in zip((1, 2), size, strict=True):  # the symbol of a slice's size would be another
        x = x.index_select(axis, torch.arange(side, device=x.device))
    return x


def _apart(plan: WindowPlan, region: Tensor, sizes: Tensor | None) -> Tensor:
    """(1 or B, V, T, T) bool: which tokens of a window must not see each other."""
    apart = (region[:, :, None] != region[:, None, :])[None]
    if sizes is None:
        return apart
    # windows across an image's end hold tokens that it would not have alone
    window = torch.tensor(plan.window, device=sizes.device)
    own = within(plan.padded, -(-sizes // window) * window)
    own = partition(_roll(own, plan.shift, -1)[..., None], plan.window)
    return apart | (own != own.transpose(2, 3))


def _with_context(
    key: Tensor, value: Tensor, bias: Tensor, context: KeyValue, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (B, V, heads, T + M, C / heads) with those of a context, the bias (B, V, heads, T, T + M)."""
    shape = (*key.shape[:2], *bias.shape[2:4])
    key, value = (
        torch.cat([own, other[:, None].expand(-1, shape[1], -1, -1, -1)], dim=3)
        for own, other in zip((key, value), context, strict=True)
    )
    more = bias.new_zeros(1) if mask is None else mask[:, None].to(bias.dtype)
    return key, value, torch.cat([bias.expand(*shape, -1), more.expand(*shape, context.key.shape[2])], dim=-1)


def _pad(x: Tensor, size: Size, value: Tensor) -> Tensor:
    """(B, H, W, C) with a value (C,) to the right and below, up to a size."""
    batch, height, width, channels = x.shape
    x = torch.cat([x, value.to(x.dtype).expand(batch, height, size[1] - width, channels)], dim=2)
    return torch.cat([x, value.to(x.dtype).expand(batch, size[0] - height, size[1], channels)], dim=1)


def resize_relative_position_bias(table: Tensor, window_size: int) -> Tensor:
    """A bias table for another window size, by bicubic interpolation of the grid of offsets.

    Args:
        table: ((2 w - 1)^2, heads).
        window_size: Side of the new window in tokens (w').

    Returns:
        ((2 w' - 1)^2, heads).
    """
    side, new_side = round(table.shape[0] ** 0.5), 2 * window_size - 1
    if side == new_side:
        return table
    grid = table.T.reshape(1, -1, side, side)
    grid = nn.functional.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
    return grid.reshape(table.shape[1], -1).T.contiguous()
