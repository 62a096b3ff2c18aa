"""The head of original detectors' checkpoints: which of their tensors make up each of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from fiber_backbone import KeyMap
from torch import Tensor

from fiber_heads.grounding.config import GroundingConfig

# What belongs to this head, and what of it has no effect: class logits that are multiplied by zero, anchors.
HEAD = re.compile(r"^(fusion_backbone\.backbone\.fpn|rpn)\.")
DEAD = re.compile(r"^rpn\.(head\.cls_logits\.|anchor_generator\.cell_anchors\.)")
OTHERS = re.compile(rf"^(?!{HEAD.pattern[1:]})")
BRANCHES = {"upper": 0, "same": 1, "lower": 2}


def original_grounding_map(config: GroundingConfig, prefix: str = "") -> KeyMap:
    """The map of the head.

    Args:
        config: Of the head.
        prefix: What our names begin with, such as `grounding_head.` in a model.
    """
    pairs = [(prefix + ours, originals) for ours, originals in _pairs(config)]
    return KeyMap(pairs, dead=DEAD, left=OTHERS, resize=_flatten)


def _flatten(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """A 1x1 convolution as the linear map that it is here."""
    return value.flatten(1) if value.ndim == 4 and len(shape) == 2 else value


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
