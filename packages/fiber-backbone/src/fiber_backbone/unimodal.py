"""A fused backbone from two pre-trained ones: Swin weights from timm, RoBERTa weights from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from fiber_backbone.backbone import FiberBackbone
from fiber_backbone.config import FiberConfig
from fiber_backbone.image_stream import resize_relative_position_bias


def from_unimodal(
    image: str | nn.Module = "swin_base_patch4_window12_384.ms_in22k",
    text: str | Path | nn.Module = "FacebookAI/roberta-base",
    pretrained: bool = True,
    **overrides: Any,
) -> FiberBackbone:
    """A fused backbone that starts from two pre-trained ones and equals them exactly until its gates move.

    Bias tables of another window size than the configuration's are interpolated.

    Args:
        image: A `swin_*` of timm, by name or as a module.
        text: A RoBERTa of transformers: a hub name, a folder, or a module.
        pretrained: Whether to load weights for models given by name; False takes only their sizes.
        **overrides: Fields of `FiberConfig`, for example `image_size=576, window_size=18, num_fusion_blocks=4`.

    Raises:
        ValueError: If either model is of another family.
    """
    swin = timm.create_model(image, pretrained=pretrained, num_classes=0) if isinstance(image, str) else image
    if not isinstance(swin, SwinTransformer):
        raise ValueError(f"the image stream is built from a swin_* of timm, got {type(swin).__name__}")
    if isinstance(text, nn.Module):
        roberta = text
    elif pretrained:
        roberta = AutoModel.from_pretrained(text)
    else:
        roberta = AutoModel.from_config(AutoConfig.from_pretrained(text))
    roberta = getattr(roberta, "roberta", roberta)  # the encoder of a model with a head
    if not isinstance(roberta, PreTrainedModel) or roberta.config.model_type not in (
        "roberta",
        "xlm-roberta",
        "camembert",
    ):
        raise ValueError(f"the text stream is built from a RoBERTa of transformers, got {type(roberta).__name__}")

    backbone = FiberBackbone(FiberConfig(**{**_sizes(swin, roberta), **overrides}))
    weights = {f"image_stream.{name}": value for name, value in swin.state_dict().items()}
    weights |= {f"text_stream.{name}": value for name, value in roberta.state_dict().items()}
    for name in weights:
        if name.endswith("relative_position_bias_table"):
            weights[name] = resize_relative_position_bias(weights[name], backbone.config.window_size)
    own = backbone.state_dict()
    backbone.load_state_dict({name: value for name, value in weights.items() if name in own}, strict=False)
    return backbone


def _sizes(swin: Any, roberta: PreTrainedModel) -> dict[str, Any]:
    """The fields of `FiberConfig` that two backbones determine."""
    blocks = [list(layer.blocks) for layer in swin.layers]
    text = roberta.config
    return {
        "image_size": swin.patch_embed.img_size[0],
        "patch_size": swin.patch_embed.patch_size[0],
        "embed_dim": swin.embed_dim,
        "depths": tuple(len(stage) for stage in blocks),
        "image_num_heads": tuple(stage[0].attn.num_heads for stage in blocks),
        "window_size": blocks[0][0].attn.window_size[0],
        "image_mlp_ratio": blocks[0][0].mlp.fc1.out_features / blocks[0][0].mlp.fc1.in_features,
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_position_embeddings,
        "type_vocab_size": text.type_vocab_size,
        "pad_token_id": text.pad_token_id,
        "layer_norm_eps": text.layer_norm_eps,
        "hidden_dropout": text.hidden_dropout_prob,
        "attention_dropout": text.attention_probs_dropout_prob,
    }
