"""Modulated deformable 3x3 convolution, by ways that agree: torchvision's operator, and ordinary PyTorch.

Source: Deformable ConvNets v2 (Zhu et al. 2019), equation 1, one deformable group:

    y(p) = bias + sum over taps k of  W_k · m_k(p) · x(stride p + k - 1 + offset_k(p))

x between cells is bilinear, x outside the map is zero. The plain path sees the four corners of each tap as a bag of
rows of the channels-last map: one `embedding_bag` with the bilinear weights (times m) gives the rows that one matrix
product then maps to the output. Bags are contiguous in memory on both sides, which the operator's columns are not. In
export the taps are grid samples, of which a program has fewer operations.

Shapes: B batch, C channels, H W input map, h w output map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding_bag, grid_sample
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d

from fiber_heads.grounding.config import DeformablePath

TAPS = 9
# Output cells that the plain path handles at once: 9 C numbers each bound its memory.
CHUNK = 4096


class DeformableConv(nn.Module):
    """A 3x3 convolution that reads where it is told to, with padding 1.

    Args:
        channels: Width of the input and of the output (C).
        stride: Input cells per output cell.
        path: See `GroundingConfig.deformable`.
    """

    def __init__(self, channels: int, stride: int = 1, path: DeformablePath = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.stride, self.path = stride, path
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, offsets: Tensor, modulation: Tensor) -> Tensor:
        """Sample and convolve.

        Args:
            x: (B, C, H, W).
            offsets: (B, 18, h, w) in cells of x: for each tap, row-major, (down, right).
            modulation: (B, 9, h, w), a factor for each tap.

        Returns:
            (B, C, h, w) with h = ceil(H / stride), w = ceil(W / stride); of channels-last memory in the plain path.

        Raises:
            ValueError: If offsets or modulation have another size than the output.
        """
        size = tuple(-(-side // self.stride) for side in x.shape[2:])
        if offsets.shape[1:] != (2 * TAPS, *size) or modulation.shape[1:] != (TAPS, *size):
            raise ValueError(
                f"offsets must have the shape (batch, 18, {size[0]}, {size[1]}) and modulation (batch, 9, {size[0]}, "
                f"{size[1]}) for an input of {tuple(x.shape)} at stride {self.stride}, got {tuple(offsets.shape)} and "
                f"{tuple(modulation.shape)}"
            )
        parts: tuple[Tensor, ...] = (x, offsets, modulation, self.weight, self.bias)
        if x.dtype in (torch.float16, torch.bfloat16):  # in which places would be off by half a cell
            parts = tuple(part.float() for part in parts)
        image, places, factors, weight, bias = parts
        operator = self.path == "operator" or (self.path == "auto" and x.is_cuda)
        if operator and not torch.compiler.is_exporting():
            y = deform_conv2d(image, places, weight, bias, self.stride, padding=1, mask=factors)
        else:
            y = plain_deformable_conv(image, places, factors, weight, bias, self.stride)
        return y.to(x.dtype)


def plain_deformable_conv(
    x: Tensor, offsets: Tensor, modulation: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """The plain path; shapes as in `DeformableConv.forward`, weight (C', C, 3, 3), bias (C',)."""
    if torch.compiler.is_exporting():
        return _by_grid_sample(x, offsets, modulation, weight, bias, stride)
    batch, _, height, width = offsets.shape
    index, share = corners(offsets, modulation, (x.shape[2], x.shape[3]), stride)
    table = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    matrix = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
    arguments = (table, index, share, matrix, bias)
    if torch.is_grad_enabled() and any(part.requires_grad for part in (table, share, matrix)):
        # rows are nine times the map: found again in the backward pass instead of kept
        y = checkpoint(_gather_and_multiply, *arguments, use_reentrant=False, preserve_rng_state=False)
    else:
        y = _in_chunks(*arguments)
    return y.view(batch, height, width, -1).permute(0, 3, 1, 2)


def corners(offsets: Tensor, modulation: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Which cells each tap reads, and how much of each.

    Args:
        offsets: (B, 18, h, w).
        modulation: (B, 9, h, w).
        size: Height and width of the map that is read.
        stride: Cells of that map per output cell.

    Returns:
        Row of the flattened map (B H W) and share of that row, each (B h w 9, 4): the corners up left, up right,
        down left, down right. The share of a corner outside the map is 0.
    """
    down, right = _places(offsets, stride)
    rows, row_shares = _along(down, size[0])  # two of (B, 9, h, w) each
    columns, column_shares = _along(right, size[1])
    images = torch.arange(len(offsets), device=offsets.device)[:, None, None, None] * (size[0] * size[1])
    index = torch.stack([images + row * size[1] + column for row in rows for column in columns], dim=-1)
    row_shares = [share * modulation for share in row_shares]
    share = torch.stack([by_row * by_column for by_row in row_shares for by_column in column_shares], dim=-1)
    return index.permute(0, 2, 3, 1, 4).reshape(-1, 4), share.permute(0, 2, 3, 1, 4).reshape(-1, 4)


def _places(offsets: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Where each tap reads, in rows and in columns of the map: (B, 9, h, w) each."""
    tap = torch.arange(TAPS, device=offsets.device)[:, None, None]
    down = torch.arange(offsets.shape[2], device=offsets.device)[:, None] * stride + tap // 3 - 1
    right = torch.arange(offsets.shape[3], device=offsets.device) * stride + tap % 3 - 1
    return down + offsets[:, 0::2], right + offsets[:, 1::2]


def _along(place: Tensor, side: int) -> tuple[list[Tensor], list[Tensor]]:
    """The two cells around each place on one axis, kept inside the map, and their shares, 0 for one outside."""
    place = place.clamp(-2, side)  # beyond these both cells are outside; whole numbers must not overflow
    first = place.detach().floor()
    beyond = place - first
    shares = [part * ((cell >= 0) & (cell < side)) for cell, part in ((first, 1 - beyond), (first + 1, beyond))]
    # a place that is NaN has shares that are NaN, but reads a row that exists
    return [cell.nan_to_num(0).clamp(0, side - 1).long() for cell in (first, first + 1)], shares


def _gather_and_multiply(table: Tensor, index: Tensor, share: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    rows = embedding_bag(index, table, mode="sum", per_sample_weights=share)
    # a product of matrices as a 1x1 convolution: on some CPUs the library behind it is twice as fast
    rows = rows.view(1, -1, 1, matrix.shape[1]).permute(0, 3, 1, 2)
    return conv2d(rows, matrix[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(-1, matrix.shape[0])


def _in_chunks(table: Tensor, index: Tensor, share: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    parts = zip(index.split(CHUNK * TAPS), share.split(CHUNK * TAPS), strict=True)
    return torch.cat([_gather_and_multiply(table, *part, matrix, bias) for part in parts])


def _by_grid_sample(
    x: Tensor, offsets: Tensor, modulation: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """For export: an operation that every runtime has reads the taps, since to trace and to run many is slow."""
    down, right = _places(offsets, stride)
    places = [(right, x.shape[3]), (down, x.shape[2])]
    # -1 and 1 are the outer edges of the map; far beyond it nothing is read, wherever it is
    grid = torch.stack([(2 * place.clamp(-2, side) + 1) / side - 1 for place, side in places], dim=-1)
    rows = grid_sample(x, grid.flatten(1, 2), align_corners=False).unflatten(2, (TAPS, -1)) * modulation[:, None]
    return conv2d(rows.flatten(1, 2), weight.flatten(1)[:, :, None, None], bias)
