"""Both stages at a size, with random weights from a seed, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads import FiberForGrounding, FiberForPretraining, GroundingConfig, PretrainingConfig, TaskModel


@dataclass(frozen=True)
class Sizes:
    """How large everything is: sides in pixels, `deformable` is batch, channels, height and width."""

    preset: str
    side: int
    fine_side: int
    text_length: int
    head: dict[str, int]
    batches: tuple[int, ...]
    fine_batches: tuple[int, ...]
    deformable: tuple[int, int, int, int]
    tokens: int
    rounds: int  # of a timing


FULL = Sizes(
    "fiber_base", 384, 800, 40, {}, (8, 16, 32, 64, 96, 128, 192, 256), (1, 2, 4, 8), (2, 256, 100, 168), 20, 5
)
TINY = Sizes("fiber_tiny", 64, 128, 12, {"channels": 32, "num_blocks": 1}, (2, 4), (1, 2), (1, 16, 12, 20), 6, 1)


def coarse_model(sizes: Sizes) -> FiberForPretraining:
    """The coarse stage with open gates, without dropout."""
    torch.manual_seed(0)
    return FiberForPretraining(FiberBackbone.from_config(backbone_config(sizes)), PretrainingConfig(queue_size=0))


def fine_model(sizes: Sizes) -> FiberForGrounding:
    """The fine stage, likewise."""
    torch.manual_seed(0)
    config = backbone_config(sizes).fine_stage().replaced(drop_path_rate=0.0)
    strides = tuple(config.strides[-3] * 2**level for level in range(5))
    head: dict[str, Any] = {"strides": strides, "drop_block": 0.0, **sizes.head}
    return FiberForGrounding(FiberBackbone.from_config(config), GroundingConfig(**head))


def backbone_config(sizes: Sizes, **overrides: Any) -> FiberConfig:
    """Of the size, with open gates, without dropout."""
    still: dict[str, Any] = {
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "initial_gate": 0.5,
    }
    return FiberConfig.from_preset(sizes.preset, **still, **overrides)


def coarse_batch(model: TaskModel, sizes: Sizes, number: int) -> dict[str, Any]:
    """Pairs for all three objectives."""
    torch.manual_seed(1)
    ids = torch.randint(5, model.backbone.config.vocab_size, (number, sizes.text_length))
    labels = ids.where(torch.rand(ids.shape) < 0.15, -100)
    return {
        "pixel_values": torch.randn(number, 3, sizes.side, sizes.side),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mlm_input_ids": ids.masked_fill(labels != -100, 4),
        "mlm_labels": labels,
        "image_ids": torch.arange(number),
        "seeds": torch.arange(number),
    }


def fine_batch(model: TaskModel, sizes: Sizes, number: int) -> dict[str, Any]:
    """Images, a text for each, and five boxes that it speaks of."""
    torch.manual_seed(1)
    side, length = sizes.fine_side, sizes.text_length
    ids = torch.randint(5, model.backbone.config.vocab_size, (number, length))
    corners = torch.rand(number, 5, 2) * side / 2
    boxes = torch.cat([corners, corners + side / 3], dim=2)
    return {
        "pixel_values": torch.randn(number, 3, side, side),
        "image_sizes": torch.tensor([[side, side]] * number),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "targets": [{"boxes": each, "positive_map": torch.eye(5, length) > 0} for each in boxes],
    }


STAGES: dict[str, tuple[Callable[[Sizes], TaskModel], Callable[[TaskModel, Sizes, int], dict[str, Any]]]] = {
    "coarse": (coarse_model, coarse_batch),
    "fine": (fine_model, fine_batch),
}
