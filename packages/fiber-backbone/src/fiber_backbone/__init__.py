"""The FIBER vision-language backbone: Swin and RoBERTa with gated cross-attention inside."""

from importlib.metadata import version

from fiber_backbone.attention import GatedCrossAttention
from fiber_backbone.backbone import FiberBackbone, fiber_base, fiber_small, fiber_tiny
from fiber_backbone.cache import DecodingCache
from fiber_backbone.checkpoints import LoadReport, original_key_map, read_original_state_dict
from fiber_backbone.config import FiberConfig
from fiber_backbone.image_stream import resize_relative_position_bias
from fiber_backbone.pretrained import PretrainedModel
from fiber_backbone.states import FusedFeatures, ImageFeatures, ImageState, TextFeatures, TextState
from fiber_backbone.unimodal import from_unimodal

__all__ = [
    "DecodingCache",
    "FiberBackbone",
    "FiberConfig",
    "FusedFeatures",
    "GatedCrossAttention",
    "ImageFeatures",
    "ImageState",
    "LoadReport",
    "PretrainedModel",
    "TextFeatures",
    "TextState",
    "fiber_base",
    "fiber_small",
    "fiber_tiny",
    "from_unimodal",
    "original_key_map",
    "read_original_state_dict",
    "resize_relative_position_bias",
]

__version__ = version("fiber-backbone")
