"""The dynamic head: blocks in which each level of the pyramid reads itself and its two neighbors.

Source: Dynamic Head (Dai et al. 2021). For level l, with offsets and modulation found from x_l by one convolution:

    same  = GN(D1(x_l));   lower = GN(D2(x_{l-1})), stride 2;   upper = resize(GN(D0(x_{l+1})))
    fused = mean over the branches there are of  g_b · b,   g_b = hard_sigmoid(relu(w · average(b) + w0))
    y     = max(a1 · fused + b1, a2 · fused + b2),          a, b from average(fused): dynamic ReLU

D are modulated deformable convolutions, GN group norms, resize is bilinear with aligned corners.

What differs in the computation, not in its numbers: all that follows a convolution scales and shifts whole channels of
one image, so every average is found from the averages of the convolutions' channels, and the maps themselves are read
once for their variance and once for the sum.

Shapes: B batch, C channels, H W map of the level, h w map of the branch.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, hardsigmoid
from torch.utils.checkpoint import checkpoint

from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.deformable import TAPS, DeformableConv
from fiber_heads.grounding.extents import Extent


class DynamicHead(nn.Module):
    """The blocks in a row, in float32 also under autocast.

    Args:
        config: The head's settings.
    """

    def __init__(self, config: GroundingConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DynamicBlock(config) for _ in range(config.num_blocks))
        self.gradient_checkpointing = False

    def forward(self, levels: list[Tensor], extents: list[Extent]) -> list[Tensor]:
        """Maps (B, C, H_l, W_l) of all levels, zero outside what each image owns, to maps of the same kind."""
        exporting = torch.compiler.is_exporting()  # without autocast, which a program cannot hold
        with nullcontext() if exporting else torch.autocast(levels[0].device.type, enabled=False):
            dtype = next(self.parameters()).dtype  # float32, unless all weights are halved
            levels = [x.to(dtype) for x in levels]
            for block in self.blocks:
                if self.gradient_checkpointing and self.training:
                    levels = checkpoint(block, levels, extents, use_reentrant=False, preserve_rng_state=False)
                else:
                    levels = block(levels, extents)
        return levels


class DynamicBlock(nn.Module):
    """One block; the five levels share its weights.

    Args:
        config: The head's settings.
    """

    def __init__(self, config: GroundingConfig) -> None:
        super().__init__()
        channels = config.channels
        self.offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.upper = Branch(config)
        self.same = Branch(config)
        self.lower = Branch(config, stride=2)
        self.attention = nn.Linear(channels, 1)
        nn.init.normal_(self.attention.weight, std=0.01)
        nn.init.zeros_(self.attention.bias)
        self.relu = DynamicReLU(channels)
        self.flat_offsets = config.flat_offsets

    def forward(self, levels: list[Tensor], extents: list[Extent]) -> list[Tensor]:
        """As `DynamicHead.forward`."""
        return [self._level(level, levels, extents) for level in range(len(levels))]

    def _level(self, level: int, levels: list[Tensor], extents: list[Extent]) -> Tensor:
        here = extents[level]
        offsets, modulation = self.offset(levels[level]).split([2 * TAPS, TAPS], dim=1)
        modulation = modulation.sigmoid()
        branches = [self.same(levels[level], offsets, modulation, here)]
        if level > 0:
            branches.append(self.lower(levels[level - 1], offsets, modulation, here))
        if level + 1 < len(levels):
            above = extents[level + 1]
            if self.flat_offsets:
                offsets, modulation = (reread(part, here, above) for part in (offsets, modulation))
            else:
                offsets, modulation = offsets[:, :, ::2, ::2], modulation[:, :, ::2, ::2]
            branches.append(self.upper(levels[level + 1], offsets, modulation, above).resized(above, here))
        return here.clear(self.relu(*self._fuse(branches)))

    def _fuse(self, branches: list[Features]) -> tuple[Tensor, Tensor]:
        """The gated mean of the branches, (B, C, H, W), and its averages, (B, C)."""
        averages = [branch.scale * branch.average + branch.shift for branch in branches]
        gates = [hardsigmoid(self.attention(average).relu()) / len(branches) for average in averages]
        shifts = [gate * branch.shift for gate, branch in zip(gates, branches, strict=True)]
        total = torch.stack(shifts).sum(dim=0)[:, :, None, None]
        for gate, branch in zip(gates, branches, strict=True):
            total = torch.addcmul(total, branch.maps, (gate * branch.scale)[:, :, None, None])
        return total, torch.stack([g * x for g, x in zip(gates, averages, strict=True)]).sum(dim=0)


class Features(NamedTuple):
    """A branch before its last scaling: the branch is `maps * scale + shift`.

    Attributes:
        maps: (B, C, h, w).
        average: (B, C) averages of the maps over what each image owns.
        scale: (B, C).
        shift: (B, C).
    """

    maps: Tensor
    average: Tensor
    scale: Tensor
    shift: Tensor

    def resized(self, source: Extent, target: Extent) -> Features:
        """The branch on a finer map: resizing mixes cells with shares that sum to 1, so it may come before scaling."""
        if torch.compiler.is_exporting():
            maps = _resized_by_grid_sample(self.maps, source, target)
            return Features(maps, target.mean(maps), self.scale, self.shift)
        rows, columns = (resizing_matrix(source, target, axis, self.maps) for axis in (0, 1))
        batch, channels, height, width = self.maps.shape
        x = rows @ self.maps.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        x = columns[:, None] @ x.view(batch, -1, width, channels)
        maps = x.permute(0, 3, 1, 2)
        return Features(maps, target.mean(maps), self.scale, self.shift)


class Branch(nn.Module):
    """A deformable convolution and the scale and shift of its group norm.

    Args:
        config: The head's settings.
        stride: Of the convolution.
    """

    def __init__(self, config: GroundingConfig, stride: int = 1) -> None:
        super().__init__()
        self.conv = DeformableConv(config.channels, stride, config.deformable)
        self.norm = nn.GroupNorm(config.norm_groups, config.channels)

    def forward(self, x: Tensor, offsets: Tensor, modulation: Tensor, extent: Extent) -> Features:
        """Convolve, and find what normalizes the result.

        Args:
            x: (B, C, H, W).
            offsets: (B, 18, h, w).
            modulation: (B, 9, h, w).
            extent: What each image owns of the (h, w) map.
        """
        maps, norm = self.conv(x, offsets, modulation), self.norm
        average = extent.mean(maps)
        variance = extent.mean((maps - average[:, :, None, None]).square())
        groups = average.unflatten(1, (norm.num_groups, -1))
        mean = groups.mean(dim=2, keepdim=True)
        variance = variance.unflatten(1, (norm.num_groups, -1)) + (groups - mean).square()
        deviation = (variance.mean(dim=2, keepdim=True) + norm.eps).sqrt()
        scale = norm.weight / deviation.expand_as(groups).flatten(1)
        shift = norm.bias - mean.expand_as(groups).flatten(1) * scale
        return Features(maps, average, scale, shift)


class DynamicReLU(nn.Module):
    """The larger of two lines in each channel; slopes and intercepts depend on the image (Chen et al. 2020).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4)
        self.expand = nn.Linear(channels // 4, 4 * channels)

    def forward(self, x: Tensor, average: Tensor) -> Tensor:
        """(B, C, H, W) of x with averages (B, C)."""
        lines = hardsigmoid(self.expand(self.squeeze(average).relu())) - 0.5
        slope1, shift1, slope2, shift2 = (part[:, :, None, None] for part in lines.chunk(4, dim=1))
        return torch.maximum(x * (2 * slope1 + 1) + shift1, x * (2 * slope2) + shift2)


def reread(x: Tensor, source: Extent, target: Extent) -> Tensor:
    """The original's quirk: an image's map, row after row and channel after channel, read as if it were smaller.

    Its kernel takes the offsets of a finer level for those of a coarser one without looking at their size: the first
    C h w numbers of the (C, H, W) map serve as (C, h, w).

    Args:
        x: (B, C, H, W).
        source: What each image owns of it; these numbers alone are counted.
        target: What each image owns of the smaller map.

    Returns:
        (B, C, h, w), of use inside the target.
    """
    height, width = target.shape
    channel = torch.arange(x.shape[1], device=x.device)[:, None, None]
    row, column = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    rows, columns = source.sizes[:, :, None, None, None].unbind(1)
    target_rows, target_columns = target.sizes[:, :, None, None, None].unbind(1)
    place = (channel * target_rows + row) * target_columns + column  # (B or 1, C, h, w)
    cell = place % (rows * columns)
    index = (place // (rows * columns) * x.shape[2] + cell // columns) * x.shape[3] + cell % columns
    index = index.clamp(max=x[0].numel() - 1).flatten(1).expand(x.shape[0], -1)  # beyond the target anything will do
    return x.flatten(1).gather(1, index).view(x.shape[0], x.shape[1], height, width)


def resizing_matrix(source: Extent, target: Extent, axis: int, like: Tensor) -> Tensor:
    """Shares of the source's rows (axis 0) or columns (1) in the target's: bilinear, corners aligned.

    Returns:
        (B or 1, side of the target, side of the source); rows beyond what an image owns repeat its last one.
    """
    place = _resizing_places(source, target, axis, like)
    cell = torch.arange(source.shape[axis], device=like.device)
    return (1 - (place[:, :, None] - cell).abs()).clamp(min=0)


def _resizing_places(source: Extent, target: Extent, axis: int, like: Tensor) -> Tensor:
    """Where in the source the target's rows or columns lie, in cells (B or 1, side of the target)."""
    owned, size = source.sizes[:, axis, None], target.sizes[:, axis, None]
    place = torch.arange(target.shape[axis], device=like.device).minimum(size - 1).to(like.dtype)
    return place * (owned - 1) / (size - 1).clamp(min=1)


def _resized_by_grid_sample(x: Tensor, source: Extent, target: Extent) -> Tensor:
    """For export, whose products of matrices would not take a batch or a map of one."""
    rows, columns = ((2 * _resizing_places(source, target, axis, x) + 1) / source.shape[axis] - 1 for axis in (0, 1))
    size = (x.shape[0], *target.shape)
    grid = torch.stack([columns[:, None, :].expand(size), rows[:, :, None].expand(size)], dim=-1)
    return grid_sample(x, grid, align_corners=False)
