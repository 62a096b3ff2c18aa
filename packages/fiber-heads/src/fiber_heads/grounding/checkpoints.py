"""The head of original detectors' checkpoints: which of their tensors make up each of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from fiber_backbone import read_original_state_dict
from torch import Tensor

if TYPE_CHECKING:
    from fiber_heads.grounding.config import GroundingConfig
    from fiber_heads.grounding.head import GroundingHead

# What belongs to this head, and what of it has no effect: class logits that are multiplied by zero, anchors.
HEAD = re.compile(r"^(fusion_backbone\.backbone\.fpn|rpn)\.")
DEAD = re.compile(r"^rpn\.(head\.cls_logits\.|anchor_generator\.cell_anchors\.)")
BRANCHES = {"upper": 0, "same": 1, "lower": 2}


@dataclass
class GroundingLoadReport:
    """What became of the head's tensors in an original checkpoint.

    Attributes:
        used: Keys whose values are now in the head.
        dead: Keys that have no effect in the original either.
    """

    used: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.used)} tensors used, {len(self.dead)} without effect"


def original_grounding_map(config: GroundingConfig) -> dict[str, list[str]]:
    """Our name of each parameter of the head to the original's; several are concatenated."""
    return dict(_pairs(config))


def _pairs(config: GroundingConfig) -> Iterator[tuple[str, list[str]]]:
    fpn, head = "fusion_backbone.backbone.fpn", "rpn.head"
    parts = {
        **{f"pyramid.lateral.{level}": f"{fpn}.fpn_inner{level + 2}" for level in range(3)},
        **{f"pyramid.output.{level}": f"{fpn}.fpn_layer{level + 2}" for level in range(3)},
        **{f"pyramid.{name}": f"{fpn}.top_blocks.{name}" for name in ("p6", "p7")},
        "box": f"{head}.bbox_pred",
        "centerness": f"{head}.centerness",
        "alignment.project": f"{head}.dot_product_projection_text",
    }
    for number in range(config.num_blocks):
        ours, original = f"tower.blocks.{number}", f"{head}.dyhead_tower.{number}"
        parts[f"{ours}.offset"] = f"{original}.offset"
        parts[f"{ours}.attention"] = f"{original}.AttnConv.1"
        parts[f"{ours}.relu.squeeze"] = f"{original}.relu.fc.0"
        parts[f"{ours}.relu.expand"] = f"{original}.relu.fc.2"
        for name, index in BRANCHES.items():
            parts[f"{ours}.{name}.conv"] = f"{original}.DyConv.{index}.conv"
            parts[f"{ours}.{name}.norm"] = f"{original}.DyConv.{index}.bn"
    for part, original in parts.items():
        for kind in ("weight", "bias"):
            yield f"{part}.{kind}", [f"{original}.{kind}"]
    yield "box_scales", [f"{head}.scales.{level}.scale" for level in range(len(config.strides))]
    for name, original in (("log_scale", "log_scale"), ("text_bias", "bias_lang"), ("bias", "bias0")):
        yield f"alignment.{name}", [f"{head}.{original}"]


def load_original_grounding(head: GroundingHead, source: str | Path | Mapping[str, Tensor]) -> GroundingLoadReport:
    """Load the head of an original detector; the backbone's tensors in the checkpoint are left to the backbone.

    Args:
        head: To be filled; `GroundingConfig.flat_offsets`, which the original trained with, is switched on.
        source: A file, or the state dict already read.

    Returns:
        Which keys were used, and which have no effect.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If keys of the head are missing, unknown or of another shape.
    """
    tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    parameters, loaded, report = dict(head.named_parameters()), {}, GroundingLoadReport()
    missing, mismatched = [], []
    for ours, originals in original_grounding_map(head.config).items():
        absent = [name for name in originals if name not in tensors]
        missing.extend(absent)
        if absent:
            continue
        value, parameter = torch.cat([tensors[name] for name in originals]), parameters[ours]
        if value.ndim == 4 and parameter.ndim == 2:  # a 1x1 convolution, which is a linear map here
            value = value.flatten(1)
        if value.shape != parameter.shape:
            mismatched.append(f"{originals[0]} {tuple(value.shape)} for {tuple(parameter.shape)}")
        loaded[ours] = value
        report.used.extend(originals)
    others = [name for name in tensors if HEAD.match(name) and name not in report.used]
    report.dead = [name for name in others if DEAD.match(name)]
    unknown = [name for name in others if not DEAD.match(name)]
    for kind, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes:", mismatched)):
        if names:
            raise ValueError(
                f"{origin} {kind} {len(names)} tensors of the grounding head (first: {names[0]}); choose the sizes in "
                "GroundingConfig that the checkpoint was trained with"
            )
    head.load_state_dict(loaded)
    head.set_flat_offsets()
    return report
