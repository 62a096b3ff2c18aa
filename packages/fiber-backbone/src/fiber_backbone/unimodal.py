"""A fused backbone from two pre-trained ones: image weights from timm, text weights from transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
from torch import nn
from transformers import AutoConfig, AutoModel

from fiber_backbone.backbone import FiberBackbone
from fiber_backbone.config import FiberConfig
from fiber_backbone.conversion import KeyMap, LoadReport, convert
from fiber_backbone.seams import available
from fiber_backbone.streams import ImageStream, TextStream

# What the libraries' modules have beside the streams: classifiers, poolers, tables that sizes give.
LEFT = re.compile(
    r"^image\.(head|fc_norm|attn_pool)\.|^text\.pooler\.|(relative_position_index|attn_mask|position_ids|token_type_ids)$"
)
FRESH = (
    "image_stream.cross_attention.",
    "text_stream.cross_attention.",
    "joint_projection.",
    "decoder_projections.",
    "image_stream.pyramid_norms.",
)


def from_unimodal(
    image: str | nn.Module = "swin_base_patch4_window12_384.ms_in22k",
    text: str | Path | nn.Module = "FacebookAI/roberta-base",
    pretrained: bool = True,
    **overrides: Any,
) -> FiberBackbone:
    """A fused backbone that starts from two pre-trained ones, and with gated or late fusion keeps their features.

    What depends on the resolution is interpolated where the configuration's differs.

    Args:
        image: A `swin_*` or a plain ViT of timm, by name or as a module.
        text: A RoBERTa or BERT of transformers: a hub name, a folder, or a module.
        pretrained: Whether to load weights for models given by name; False takes only their sizes.
        **overrides: Fields of `FiberConfig`, for example `image_size=576, window_size=18, num_fusion_blocks=4`. By
            default 6 pairs are fused, or as many as both streams have.

    Raises:
        ValueError: If either model is of a family that no stream computes.
    """
    return load_unimodal(image, text, pretrained, **overrides)[0]


def load_unimodal(
    image: str | nn.Module, text: str | Path | nn.Module, pretrained: bool = True, **overrides: Any
) -> tuple[FiberBackbone, LoadReport]:
    """`from_unimodal`, and what became of each tensor (`image.*`, `text.*`)."""
    image_model = timm.create_model(image, pretrained=pretrained, num_classes=0) if isinstance(image, str) else image
    if isinstance(text, nn.Module):
        text_model: Any = text
    elif pretrained:
        text_model = AutoModel.from_pretrained(text, trust_remote_code=False)
    else:
        text_model = AutoModel.from_config(
            AutoConfig.from_pretrained(text, trust_remote_code=False), trust_remote_code=False
        )
    text_model = getattr(text_model, getattr(text_model, "base_model_prefix", ""), text_model)  # without a head

    fields = _describe(image_model, ImageStream, "image_stream") | _describe(text_model, TextStream, "text_stream")
    fields.setdefault("num_fusion_blocks", min(6, sum(fields["depths"][-2:]), fields["num_hidden_layers"]))
    backbone = FiberBackbone.from_config(FiberConfig(**{**fields, **overrides}))
    tensors = {f"image.{name}": value for name, value in image_model.state_dict().items()}
    tensors |= {f"text.{name}": value for name, value in text_model.state_dict().items()}
    shapes = {name: parameter.shape for name, parameter in backbone.named_parameters()}
    left = LEFT if not backbone.config.pyramid_norms else re.compile(rf"{LEFT.pattern}|^image\.norm\.")
    pairs = [
        (name, [name.replace("_stream", "", 1)])
        for name in shapes
        if name.startswith(("image_stream.", "text_stream.")) and not name.startswith(FRESH)
    ]
    values, report = convert(tensors, KeyMap(pairs, optional=FRESH, left=left, resize=backbone.adapt), shapes)
    backbone.load_state_dict(values, strict=False)
    return backbone, report


def _describe(module: Any, kind: Any, field: str) -> dict[str, Any]:
    """The fields of `FiberConfig` for a library's module, by the stream that computes it."""
    reasons = []
    for name, entry in available("fiber.streams").items():
        stream = entry.load()
        if issubclass(stream, kind) and stream.library_class is not None and isinstance(module, stream.library_class):
            try:
                return {field: name, **stream.describe(module)}
            except ValueError as error:
                reasons.append(str(error))
    what = "a swin_* or a plain vit_* of timm" if kind is ImageStream else "a RoBERTa or BERT of transformers"
    raise ValueError(
        "; ".join(reasons) or f"the {field.replace('_', ' ')} is built from {what}, got {type(module).__name__}"
    )
