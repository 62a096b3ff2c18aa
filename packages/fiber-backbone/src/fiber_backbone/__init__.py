"""The FIBER vision-language backbone: two streams that read each other inside their top blocks."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiber_backbone.attention import KeyValue, merge_heads, padding_mask, split_heads
    from fiber_backbone.backbone import FiberBackbone
    from fiber_backbone.bert import BertStream
    from fiber_backbone.cache import DecodingCache
    from fiber_backbone.config import FiberConfig
    from fiber_backbone.conversion import KeyMap, LoadReport, convert
    from fiber_backbone.fusion import Fusion, FusionCost, GatedCrossAttention, GatedFusion, LateFusion, MergedFusion
    from fiber_backbone.image_cache import ImageCache
    from fiber_backbone.original import check_original, original_backbone_map, read_original_state_dict
    from fiber_backbone.presets import fiber_base, fiber_small, fiber_tiny
    from fiber_backbone.pretrained import PretrainedModel, read_config
    from fiber_backbone.roberta import RobertaStream
    from fiber_backbone.states import FusedFeatures, ImageFeatures, ImageState, TextFeatures, TextState
    from fiber_backbone.streams import ImageStream, Insert, StreamSizes, TextStream
    from fiber_backbone.swin import SwinStream
    from fiber_backbone.unimodal import from_unimodal, load_unimodal
    from fiber_backbone.vit import VitStream
    from fiber_backbone.windows import resize_relative_position_bias

# Imported when they are first asked for, so that a command which needs no model does not wait for torch.
_MODULES = {
    "attention": ("KeyValue", "merge_heads", "padding_mask", "split_heads"),
    "backbone": ("FiberBackbone",),
    "bert": ("BertStream",),
    "cache": ("DecodingCache",),
    "config": ("FiberConfig",),
    "conversion": ("KeyMap", "LoadReport", "convert"),
    "fusion": ("Fusion", "FusionCost", "GatedCrossAttention", "GatedFusion", "LateFusion", "MergedFusion"),
    "image_cache": ("ImageCache",),
    "original": ("check_original", "original_backbone_map", "read_original_state_dict"),
    "presets": ("fiber_base", "fiber_small", "fiber_tiny"),
    "pretrained": ("PretrainedModel", "read_config"),
    "roberta": ("RobertaStream",),
    "states": ("FusedFeatures", "ImageFeatures", "ImageState", "TextFeatures", "TextState"),
    "streams": ("ImageStream", "Insert", "StreamSizes", "TextStream"),
    "swin": ("SwinStream",),
    "unimodal": ("from_unimodal", "load_unimodal"),
    "vit": ("VitStream",),
    "windows": ("resize_relative_position_bias",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__version__ = version("fiber-backbone")
__all__ = [
    "BertStream",
    "DecodingCache",
    "FiberBackbone",
    "FiberConfig",
    "FusedFeatures",
    "Fusion",
    "FusionCost",
    "GatedCrossAttention",
    "GatedFusion",
    "ImageCache",
    "ImageFeatures",
    "ImageState",
    "ImageStream",
    "Insert",
    "KeyMap",
    "KeyValue",
    "LateFusion",
    "LoadReport",
    "MergedFusion",
    "PretrainedModel",
    "RobertaStream",
    "StreamSizes",
    "SwinStream",
    "TextFeatures",
    "TextState",
    "TextStream",
    "VitStream",
    "check_original",
    "convert",
    "fiber_base",
    "fiber_small",
    "fiber_tiny",
    "from_unimodal",
    "load_unimodal",
    "merge_heads",
    "original_backbone_map",
    "padding_mask",
    "read_config",
    "read_original_state_dict",
    "resize_relative_position_bias",
    "split_heads",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
