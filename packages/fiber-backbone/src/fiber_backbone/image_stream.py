"""The image stream: timm's Swin modules, our computation, cross-attention inside the top blocks.

Source: Swin Transformer (Liu et al. 2021), equations 1-3, and FIBER section 3.1:

    a = WindowAttention(LN1(x))
    a = a + gate * Cross(Nq(a), text)          (the top K blocks)
    x = x + DropPath(a)
    x = x + DropPath(MLP(LN2(x)))

What differs from timm's own forward: the cross-attention; relative position bias and shift mask are found from the
map at hand, so that one set of weights serves any size; a map that windows do not tile is padded before it is
shifted, as in the detectors built on Swin (timm pads after).

Shapes: B batch, H W map, C channels, V windows, T tokens of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from fiber_backbone.attention import GatedCrossAttention, KeyValue, merge_heads, split_heads
from fiber_backbone.config import FiberConfig, WindowPolicy

Size = tuple[int, int]


@dataclass(frozen=True)
class WindowPlan:
    """How one map is cut into windows.

    Attributes:
        window: Height and width of a window in tokens.
        shift: Cyclic shift up and left in tokens.
        padded: Height and width of the map after padding to whole windows.
        bias_index: (T * T,) int64, row of the relative position bias table for each pair (query, key).
        region: (V, T) int8, which part of the map a token came from: the cyclic shift brings tokens of different
            parts into one window, and they must not see each other. None without a shift.
    """

    window: Size
    shift: Size
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

    rows = torch.arange(window[0], device=device).repeat_interleave(window[1])
    columns = torch.arange(window[1], device=device).repeat(window[0])
    delta_rows, delta_columns = rows[:, None] - rows, columns[:, None] - columns
    bias_index = (delta_rows + window_size - 1) * (2 * window_size - 1) + delta_columns + window_size - 1

    region = None
    if shift_height or shift_width:
        parts = _parts(padded[0], window[0], shift_height, device)[:, None] * 3
        parts = parts + _parts(padded[1], window[1], shift_width, device)
        region = partition(parts[None, :, :, None], window)[0, :, :, 0]
    return WindowPlan(window, (shift_height, shift_width), padded, bias_index.flatten(), region)


def _parts(side: int, window: int, shift: int, device: torch.device) -> Tensor:
    """For each place along one side, before which cut it came: 0 and 1 are whole windows, 1 and 2 share the last."""
    place = torch.arange(side, device=device)
    if not shift:
        return torch.zeros_like(place, dtype=torch.int8)
    return (place >= side - window).char() + (place >= side - shift).char()


def partition(x: Tensor, window: Size) -> Tensor:
    """(B, H, W, C) to windows (B, V, T, C), row-major."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window[0], window[0], width // window[1], window[1], channels)
    return x.transpose(2, 3).reshape(batch, -1, window[0] * window[1], channels)


def unpartition(x: Tensor, window: Size, size: Size) -> Tensor:
    """Windows (B, V, T, C) back to (B, H, W, C)."""
    batch, channels = x.shape[0], x.shape[-1]
    x = x.view(batch, size[0] // window[0], size[1] // window[1], window[0], window[1], channels)
    return x.transpose(2, 3).reshape(batch, *size, channels)


def within(size: Size, sizes: Tensor) -> Tensor:
    """(B, H, W) bool, true on a map of a size where it belongs to a picture of its own `sizes` (B, 2)."""
    rows, columns = (torch.arange(side, device=sizes.device) for side in size)
    return (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])


def window_attention(attention: WindowAttention, x: Tensor, plan: WindowPlan, sizes: Tensor | None = None) -> Tensor:
    """Self-attention within windows, with relative position bias.

    Args:
        attention: Holds `qkv`, `proj` and `relative_position_bias_table`.
        x: (B, H, W, C), already normalised.
        plan: How the map is cut.
        sizes: (B, 2) int64, height and width in tokens of each picture where the batch's map is larger. What lies
            beyond is then as the padding to whole windows would be, were the picture alone.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, _ = x.shape
    heads, tokens = attention.num_heads, plan.window[0] * plan.window[1]
    if sizes is not None:
        x = x * within((height, width), sizes)[..., None]
    # Padding is zero, its projection the bias. To project much of it takes longer than to move three times the channels
    project_first = 4 * plan.padded[0] * plan.padded[1] > 5 * height * width
    if project_first:
        x = _pad(attention.qkv(x), plan.padded, attention.qkv.bias)
    else:
        x = pad(x, (0, 0, 0, plan.padded[1] - width, 0, plan.padded[0] - height))
    if any(plan.shift):
        x = torch.roll(x, (-plan.shift[0], -plan.shift[1]), dims=(1, 2))
    x = partition(x, plan.window)
    x = x if project_first else attention.qkv(x)
    query, key, value = (split_heads(part, heads) for part in x.chunk(3, dim=-1))  # (B, V, heads, T, C/heads)

    bias = attention.relative_position_bias_table[plan.bias_index].view(tokens, tokens, heads).permute(2, 0, 1)
    if plan.region is None:  # one bias for every window, which lies inside or outside a picture: windows join the batch
        query, key, value = (part.flatten(0, 1) for part in (query, key, value))
        bias = bias[None]
    else:  # a bias for each window: windows join the heads, so that the mask is not repeated over the batch
        query, key, value = (part.flatten(1, 2) for part in (query, key, value))
        apart = (plan.region[:, :, None] != plan.region[:, None, :])[None]  # (1, V, T, T)
        if sizes is not None:  # windows across a picture's end hold tokens that it would not have alone
            window = torch.tensor(plan.window, device=sizes.device)
            own = within(plan.padded, -(-sizes // window) * window)
            own = partition(torch.roll(own, (-plan.shift[0], -plan.shift[1]), dims=(1, 2))[..., None], plan.window)
            apart = apart | (own != own.transpose(2, 3))  # (B, V, T, T)
        bias = (bias - 100.0 * apart[:, :, None]).flatten(1, 2)
    x = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
    x = merge_heads(x.reshape(batch, -1, heads, tokens, x.shape[-1]))

    x = unpartition(x, plan.window, plan.padded)
    if any(plan.shift):
        x = torch.roll(x, plan.shift, dims=(1, 2))
    return attention.proj(x[:, :height, :width])


def _pad(x: Tensor, size: Size, value: Tensor) -> Tensor:
    """(B, H, W, C) with a value (C,) to the right and below, up to a size."""
    batch, height, width, channels = x.shape
    x = torch.cat([x, value.to(x.dtype).expand(batch, height, size[1] - width, channels)], dim=2)
    return torch.cat([x, value.to(x.dtype).expand(batch, size[0] - height, size[1], channels)], dim=1)


class ImageStream(nn.Module):
    """Swin with room for text: `run` advances any range of blocks, with or without text to read.

    Parameter names are timm's (`patch_embed`, `layers.{i}.downsample`, `layers.{i}.blocks.{j}`, `norm`), so that any
    `swin_*` of timm loads by name; `cross_attention.{k}` belongs to the k-th fused block.
    """

    # Any: the library's modules, whose attributes the type checker cannot know
    patch_embed: Any
    layers: Any
    norm: nn.Module
    pyramid_norms: Any
    cross_attention: Any

    def __init__(self, config: FiberConfig) -> None:
        super().__init__()
        swin = SwinTransformer(
            img_size=config.strides[-1],  # the least: sizes are found at run time, and timm's own masks stay small
            patch_size=config.patch_size,
            num_classes=0,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=config.image_num_heads,
            window_size=config.window_size,
            mlp_ratio=config.image_mlp_ratio,
            drop_path_rate=config.drop_path_rate,
            strict_img_size=False,
            always_partition=True,  # bias tables of full size in every stage, whatever the picture's size
        )
        self.patch_embed, self.layers = swin.patch_embed, swin.layers
        if config.pyramid_norms:
            self.pyramid_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-5) for dim in config.stage_dims[1:])
        else:
            self.norm = swin.norm
        self.cross_attention = nn.ModuleList(
            GatedCrossAttention(
                config.stage_dims[config.block_stages[block]],
                config.hidden_size,
                config.image_num_heads[config.block_stages[block]],
                normalize_query=config.normalize_image_query,
            )
            for block, _ in config.fused_blocks
        )
        self.config = config
        self.gradient_checkpointing = False
        self._plans: dict[tuple[Size, bool, torch.device], WindowPlan] = {}

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Patches of pictures.

        Args:
            pixel_values: (B, 3, height, width), normalised.

        Returns:
            (B, H, W, C), the input of the first block.
        """
        return self.patch_embed(pixel_values)

    def run(
        self,
        x: Tensor,
        block: int,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One block, and the step down to the next stage where the block is the last of its own.

        Args:
            x: (B, H, W, C), input of the block.
            block: Number of the block, counted over all stages.
            context: Text to read, (B, L, D), for a fused block; None leaves the block unfused.
            mask: Additive text mask, see `attention.padding_mask`.
            sizes: (B, 2) int64, height and width in pixels of each picture where the batch's are larger.

        Returns:
            The input of the next block, and the stage's output (B, H, W, C) if the block ends a stage.
        """
        stage = self.config.block_stages[block]
        index = block - sum(self.config.depths[:stage])
        module = self.layers[stage].blocks[index]
        plan = self._plan((x.shape[1], x.shape[2]), bool(index % 2), x.device)
        cross = None if context is None else self.cross_attention[block - self.config.fused_blocks[0][0]]
        sizes = None if sizes is None else sizes // self.config.strides[stage]
        if self.gradient_checkpointing and self.training:
            x = checkpoint(self._block, module, x, plan, cross, context, mask, sizes, use_reentrant=False)
        else:
            x = self._block(module, x, plan, cross, context, mask, sizes)
        if index + 1 < self.config.depths[stage]:
            return x, None
        if stage + 1 < len(self.config.depths):
            return self.layers[stage + 1].downsample(x), x
        return x, x

    def pyramid_level(self, stage: int, x: Tensor) -> Tensor:
        """A stage's output as a map (B, C, H, W), normalised where the configuration says so."""
        if self.config.pyramid_norms and stage > 0:
            x = self.pyramid_norms[stage - 1](x)
        return x.permute(0, 3, 1, 2)

    def final_norm(self, x: Tensor) -> Tensor:
        """The last stage's norm, for a stream that read no text."""
        return (self.pyramid_norms[-1] if self.config.pyramid_norms else self.norm)(x)

    def _block(
        self,
        block: SwinTransformerBlock,
        x: Tensor,
        plan: WindowPlan,
        cross: GatedCrossAttention | None,
        context: Tensor | KeyValue | None,
        mask: Tensor | None,
        sizes: Tensor | None,
    ) -> Tensor:
        attended = window_attention(block.attn, block.norm1(x), plan, sizes)
        if cross is not None and context is not None:  # token by token over the whole map: text needs no windows
            attended = cross(attended.flatten(1, 2), context, mask).view_as(attended)
        x = x + block.drop_path1(attended)
        return x + block.drop_path2(block.mlp(block.norm2(x)))

    def _plan(self, size: Size, shifted: bool, device: torch.device) -> WindowPlan:
        key = (size, shifted, device)
        if key not in self._plans:
            if len(self._plans) >= 256:  # training on pictures of many sizes must not fill the memory
                self._plans.clear()
            self._plans[key] = plan_windows(size, self.config.window_size, shifted, self.config.window_policy, device)
        return self._plans[key]


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
