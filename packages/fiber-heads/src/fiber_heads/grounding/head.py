"""The network from the backbone's maps and text to a box, a centerness and token logits at every anchor.

Source: FIBER section 3.3 on GLIP's head (Li et al. 2022): feature pyramid, dynamic head, one-layer predictions.

What differs from the original: the class logits that it multiplies by zero do not exist; results do not depend on how
far the batch was padded, nor are texts padded beyond its longest (`GroundingConfig.as_original` restores the former).

Shapes: B batch, C channels, A anchors over all levels (fine to coarse, rows before columns), L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fiber_backbone import LoadReport, convert, read_original_state_dict
from torch import Tensor, nn

from fiber_heads.grounding.alignment import Alignment
from fiber_heads.grounding.anchors import level_anchors
from fiber_heads.grounding.checkpoints import original_grounding_map
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.dyhead import DynamicHead
from fiber_heads.grounding.extents import Extent, level_extents
from fiber_heads.grounding.pyramid import FeaturePyramid


@dataclass
class GroundingPredictions:
    """What the head says at every anchor.

    Attributes:
        deltas: (B, A, 4) from anchor to box, in the box coder's units.
        centerness: (B, A) logits.
        token_logits: (B, A, L).
        anchors: (A, 4) xyxy in pixels of the padded image, half-open.
        anchors_per_level: The levels' shares of A.
        valid: (B, A) bool, False where an anchor belongs to the batch's padding and not to the image's own canvas.
            Neither the losses nor the results may count these anchors.
    """

    deltas: Tensor
    centerness: Tensor
    token_logits: Tensor
    anchors: Tensor
    anchors_per_level: tuple[int, ...]
    valid: Tensor


class GroundingHead(nn.Module):
    """Pyramid, dynamic head and predictions.

    Args:
        in_channels: Widths of the backbone's maps at strides 8, 16 and 32.
        hidden_size: Width of the text (D).
        config: Settings; the defaults if None.
    """

    def __init__(
        self, in_channels: tuple[int, int, int], hidden_size: int, config: GroundingConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config = GroundingConfig() if config is None else replace(config)  # one of its own
        self.pyramid = FeaturePyramid(in_channels, config)
        self.tower = DynamicHead(config)
        self.box = nn.Linear(config.channels, 4)
        self.box_scales = nn.Parameter(torch.ones(len(config.strides)))
        self.centerness = nn.Linear(config.channels, 1)
        self.alignment = Alignment(config.channels, hidden_size, config.prior, config.log_scale)
        self.prompt = nn.Parameter(torch.zeros(config.max_tokens, hidden_size)) if config.prompt_vectors else None
        for linear in (self.box, self.centerness):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(
        self, maps: Sequence[Tensor], text: Tensor, attention_mask: Tensor, image_sizes: Tensor | None = None
    ) -> GroundingPredictions:
        """Predictions at every anchor.

        Args:
            maps: C3, C4, C5 of the backbone: (B, C_i, H / s, W / s) for strides s of 8, 16, 32.
            text: (B, L, D), the backbone's fused text.
            attention_mask: (B, L), 1 = real token.
            image_sizes: (B, 2) true height and width in pixels; None: no image is padded beyond its own canvas.
                Keep them on the CPU with a model on the CPU: then equal images cost no masks.

        Raises:
            ValueError: If the maps are not three that halve exactly.
        """
        sides = [tuple(x.shape[2:]) for x in maps]
        if len(maps) != 3 or any(a != 2 * b for i in (0, 1) for a, b in zip(sides[i], sides[i + 1], strict=True)):
            raise ValueError(
                f"maps must be the backbone's three of strides 8, 16 and 32, got sizes {sides}; pad images to "
                f"multiples of {self.config.strides[2]}"
            )
        extents = self._extents((maps[2].shape[2], maps[2].shape[3]), image_sizes, maps[0])
        levels = self.tower(self.pyramid(list(maps), extents), extents)
        x = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        anchors, counts, valid = self._places(extents, maps[0].shape[0], x.device)
        if self.prompt is not None:
            text = text + self.prompt[: text.shape[1]].to(text.dtype)
        scales = torch.cat([scale.expand(count) for scale, count in zip(self.box_scales, counts, strict=True)])
        return GroundingPredictions(
            deltas=self.box(x) * scales[:, None],
            centerness=self.centerness(x)[..., 0],
            token_logits=self.alignment(x, text, attention_mask),
            anchors=anchors,
            anchors_per_level=counts,
            valid=valid,
        )

    def read_as(self, config: GroundingConfig) -> None:
        """Takes over how weights are to be read that were trained under `config`: its offsets and its boxes."""
        self.config.flat_offsets, self.config.inclusive_boxes = config.flat_offsets, config.inclusive_boxes
        for block in self.tower.blocks:
            block.flat_offsets = config.flat_offsets  # type: ignore[assignment]

    def places(self, pixel_values: Tensor, image_sizes: Tensor | None) -> tuple[Tensor, tuple[int, ...], Tensor]:
        """The anchors of images (B, 3, H, W) without looking at them: `anchors`, `anchors_per_level` and `valid`."""
        last = self.config.strides[2]
        shape = (pixel_values.shape[2] // last, pixel_values.shape[3] // last)
        return self._places(self._extents(shape, image_sizes, pixel_values), pixel_values.shape[0], pixel_values.device)

    def _extents(self, last_shape: tuple[int, int], image_sizes: Tensor | None, like: Tensor) -> list[Extent]:
        """Of every level, for images whose map of the backbone's last stride has this height and width."""
        (height, width), last = last_shape, self.config.strides[2]
        shapes = [(_shrink(height, last, stride), _shrink(width, last, stride)) for stride in self.config.strides]
        owned = image_sizes if self.config.padding_aware else None
        return level_extents(shapes, self.config.strides, owned, like, last)

    def _places(
        self, extents: Sequence[Extent], size: int, device: torch.device
    ) -> tuple[Tensor, tuple[int, ...], Tensor]:
        """Anchors (A, 4), how many each level has, and which belong to their image, (B, A)."""
        shapes = [extent.shape for extent in extents]
        anchors = torch.cat(level_anchors(shapes, self.config.strides, self.config.anchor_scale, device))
        valid = torch.cat([(extent.weights > 0).expand(size, -1) for extent in extents], dim=1)
        return anchors, tuple(height * width for height, width in shapes), valid

    def load_original_checkpoint(self, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
        """Loads the head of an original detector, and reads offsets and boxes as it was trained to (`read_as`).

        Args:
            source: A file, or the state dict already read by `fiber_backbone.read_original_state_dict`.

        Returns:
            What became of each tensor; the backbone's are left.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If keys of the head are missing, unknown or of another shape; the message names them.
        """
        tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
        origin = "the state dict" if isinstance(source, Mapping) else str(source)
        shapes = {name: value.shape for name, value in self.named_parameters()}
        key_map = original_grounding_map(self.config)
        values, report = convert(tensors, key_map, shapes, f"{origin} (for the grounding head)")
        self.load_state_dict(values)
        self.read_as(GroundingConfig.as_original())
        return report


def _shrink(side: int, last: int, stride: int) -> int:
    """Cells of a level whose canvas has so many cells of the backbone's last stride."""
    return -(-side * last // stride)
