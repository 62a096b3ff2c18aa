"""The feature pyramid: five maps of one width from the backbone's last three, fine to coarse.

Source: Feature Pyramid Networks (Lin et al. 2017), with the two coarser levels of FCOS / RetinaNet:

    m5 = 1x1(C5);  m4 = 1x1(C4) + nearest(m5);  m3 = 1x1(C3) + nearest(m4)
    P_i = 3x3(m_i);  P6 = 3x3 stride 2 (P5);  P7 = 3x3 stride 2 (relu(P6))

In training DropBlock (Ghiasi et al. 2018) acts on what the 3x3 convolutions of P3 and P4 read, not on the way down.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.extents import Extent


class FeaturePyramid(nn.Module):
    """P3 to P7.

    Args:
        in_channels: Widths of C3, C4, C5.
        config: The head's settings.
    """

    def __init__(self, in_channels: tuple[int, int, int], config: GroundingConfig) -> None:
        super().__init__()
        channels = config.channels
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.drop_block, self.drop_block_size = config.drop_block, config.drop_block_size
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor], extents: list[Extent]) -> list[Tensor]:
        """The pyramid, zero outside what each image owns.

        Args:
            maps: C3, C4, C5: (B, C_i, H_i, W_i), sides halving exactly.
            extents: Of the five levels.

        Returns:
            P3 to P7: (B, C, H_i, W_i).
        """
        merged: list[Tensor] = []
        for lateral, x, extent in zip(self.lateral[::-1], maps[::-1], extents[2::-1], strict=True):
            # for convolutions over maps of channels-last memory torch.export asks whether the batch exceeds 1
            x = lateral(x.contiguous() if torch.compiler.is_exporting() else x)
            if merged:
                x = x + interpolate(merged[-1], size=x.shape[2:], mode="nearest")
            merged.append(extent.clear(x))
        levels: list[Tensor] = []
        for index, (output, x) in enumerate(zip(self.output, merged[::-1], strict=True)):
            if self.training and self.drop_block and index < 2:
                x = drop_blocks(x, self.drop_block, self.drop_block_size, extents[index])
            levels.append(extents[index].clear(output(x)))
        levels.append(extents[3].clear(self.p6(levels[-1])))
        levels.append(extents[4].clear(self.p7(levels[-1].relu())))
        return levels


def drop_blocks(x: Tensor, probability: float, size: int, extent: Extent) -> Tensor:
    """DropBlock: squares of cells become zero in all channels; the rest is scaled up to keep the batch's sum.

    Args:
        x: (B, C, H, W).
        probability: Share of cells to drop, about.
        size: Side of a square in cells, odd.
        extent: What each image owns of the map: the scale counts these cells.
    """
    seeds = torch.rand_like(x[:, :1]) < probability / size**2
    kept = 1 - max_pool2d(seeds.to(x.dtype), size, stride=1, padding=size // 2)
    owned = torch.ones_like(kept) if extent.mask is None else extent.mask.to(x.dtype)
    return x * kept * (owned.sum() / (owned * kept).sum().clamp(min=1))
