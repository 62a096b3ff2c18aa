"""What of a task model can be exported: functions of tensors, with what their inputs may be.

Every function takes images and texts of any number, size and length within the ranges that its inputs declare.

Shapes: B batch, L tokens, N image tokens, C channels of the image stream, D of the text stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import DecodingCache, FiberBackbone
from fiber_backbone.attention import KeyValue
from torch import Tensor, nn

BATCH, LENGTH = "batch", "length"


@dataclass(frozen=True)
class Axis:
    """A dimension of an input that may vary.

    Attributes:
        name: Dimensions of one name are equal.
        least: The smallest.
        most: The largest; None for any.
        multiple: What it is a multiple of.
    """

    name: str
    least: int = 1
    most: int | None = None
    multiple: int = 1

    def __str__(self) -> str:
        words = f"{self.name} >= {self.least}" if self.most is None else f"{self.least} <= {self.name} <= {self.most}"
        return words if self.multiple == 1 else f"{words}, a multiple of {self.multiple}"


@dataclass(frozen=True)
class ExportPart:
    """A function of tensors.

    Attributes:
        module: Takes the inputs by name, gives a tuple of the outputs.
        inputs: An example of each, of at least 2 in every dimension that may vary.
        axes: For each input the dimensions that may vary.
        outputs: Names.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, Axis]]
    outputs: tuple[str, ...]


def whole_strides(stride: int, pixel_values: Tensor) -> Tensor:
    """Images as they are, to the tracer with sides that are whole strides, which can be divided without rest."""
    *lead, height, width = pixel_values.shape
    return pixel_values.view(*lead, height // stride * stride, width // stride * stride)


class _Images(nn.Module):
    """Images as the image stream alone sees them, and with a head their unit vectors."""

    def __init__(self, backbone: FiberBackbone, head: Any = None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        pixel_values = whole_strides(self.backbone.image_stream.stride, pixel_values)
        tokens = self.backbone.finish_image(self.backbone.begin_image(pixel_values)).hidden_state
        return (tokens,) if self.head is None else (tokens, self.head.encode_images(tokens))


class _Texts(nn.Module):
    """Texts as the text stream alone sees them, and with a head their unit vectors."""

    def __init__(self, backbone: FiberBackbone, head: Any = None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        tokens = self.backbone.finish_text(self.backbone.begin_text(input_ids, attention_mask)).hidden_state
        return (tokens,) if self.head is None else (tokens, self.head.encode_texts(tokens))


class _Pairs(nn.Module):
    """Images and texts that read each other, pair by pair, and with a head its logits."""

    def __init__(self, backbone: FiberBackbone, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        pixel_values = whole_strides(self.backbone.image_stream.stride, pixel_values)
        fused = self.backbone(pixel_values, input_ids, attention_mask)
        found = (fused.text_hidden_state, fused.image_hidden_state)
        if fused.pooled is None:
            return found
        return (*found, fused.pooled) if self.head is None else (*found, fused.pooled, self.head(fused.pooled))


class _Couples(nn.Module):
    """Two images each that are read with one text: logits of a head of both results."""

    def __init__(self, backbone: FiberBackbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        pixels = whole_strides(self.backbone.image_stream.stride, pixel_values)
        text = self.backbone.begin_text(input_ids, attention_mask)
        found = [self.backbone.fuse(self.backbone.begin_image(pixels[:, place]), text).pooled for place in (0, 1)]
        return (self.head(torch.cat([each for each in found if each is not None], dim=1)),)


class DecoderImages(nn.Module):
    """What a text that is written reads of images.

    Args:
        backbone: With decoder projections.
    """

    def __init__(self, backbone: FiberBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of images (B, 3, H, W), each (fused layers, B, heads, N, D / heads)."""
        backbone = self.backbone
        pixel_values = whole_strides(backbone.image_stream.stride, pixel_values)
        tokens = backbone.finish_image(backbone.begin_image(pixel_values)).unnormalized
        layers = zip(backbone.text_stream.cross_attention, backbone.decoder_projections, strict=True)
        found = [backbone.fusion.read_image(layer, project(tokens)) for layer, project in layers]
        return torch.stack([each.key for each in found]), torch.stack([each.value for each in found])


class DecoderStep(nn.Module):
    """One token further, with what was computed before as two tensors.

    Args:
        backbone: With decoder projections.
        word_head: Over its text features.
    """

    def __init__(self, backbone: FiberBackbone, word_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.word_head = backbone, word_head

    def forward(
        self, tokens: Tensor, image_keys: Tensor, image_values: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the next tokens, and the cache for them.

        Args:
            tokens: (B, K) int64, the newest token of K texts about each image; at first the begin token.
            image_keys: (fused layers, B, heads, N, D / heads), of `DecoderImages`.
            image_values: The same.
            keys: (layers, B, K, heads, P, D / heads) of the P tokens before; at first P is 0.
            values: The same.

        Returns:
            `logits` (B, K, V), and `keys` and `values` of P + 1 tokens.
        """
        before = keys.shape[4]
        past = [KeyValue(key.flatten(0, 1), value.flatten(0, 1)) for key, value in zip(keys, values, strict=True)]
        image = [KeyValue(key, value) for key, value in zip(image_keys, image_values, strict=True)]
        rows = tokens.flatten()
        # A row that has ended may go on with whatever token: nobody reads it. So no token before is padding.
        mask, position = rows.new_ones(rows.shape[0], before), torch.full_like(rows, before)
        cache = DecodingCache(image, past, mask, position)
        features = self.backbone.decode_text(rows[:, None], cache=cache).text_features
        assert features is not None
        logits = self.word_head(features[:, -1]).unflatten(0, tokens.shape)
        parts = (torch.stack([each[part] for each in cache.text]).unflatten(1, tokens.shape) for part in (0, 1))
        return (logits, *parts)


def image_input(stride: int, each: int | None = None) -> tuple[Tensor, dict[int, Axis]]:
    """`pixel_values` (B, 3, H, W), or (B, each, 3, H, W), as an example and with its axes; sides of whole strides."""
    lead = (2,) if each is None else (2, each)
    example = torch.randn(*lead, 3, 3 * stride, 5 * stride, generator=torch.Generator().manual_seed(0))
    last = example.ndim
    sides = {last - 2: Axis("height", stride, multiple=stride), last - 1: Axis("width", stride, multiple=stride)}
    return example, {0: Axis(BATCH), **sides}


def text_inputs(
    backbone: FiberBackbone, most: int | None = None
) -> tuple[dict[str, Tensor], dict[str, dict[int, Axis]]]:
    """`input_ids` and `attention_mask` (B, L), as examples and with their axes."""
    longest = min(backbone.max_text_length, most or backbone.max_text_length)
    ids = torch.full((2, min(7, longest)), (backbone.pad_token_id + 1) % backbone.vocab_size)
    axes = {0: Axis(BATCH), 1: Axis(LENGTH, most=longest)}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, {"input_ids": axes, "attention_mask": axes}


def tower_parts(backbone: FiberBackbone, contrast: Any = None) -> dict[str, ExportPart]:
    """`image` and `text`: each stream by itself, (B, N, C) and (B, L, D), with a contrastive head unit vectors too."""
    pixels, image_axes = image_input(backbone.image_stream.stride)
    texts, text_axes = text_inputs(backbone)
    more = ("unit_vectors",) if contrast is not None else ()
    return {
        "image": ExportPart(
            _Images(backbone, contrast), {"pixel_values": pixels}, {"pixel_values": image_axes}, ("tokens", *more)
        ),
        "text": ExportPart(_Texts(backbone, contrast), texts, text_axes, ("tokens", *more)),
    }


def fused_part(backbone: FiberBackbone, head: nn.Module | None = None) -> ExportPart:
    """Pairs: tokens of both streams, `pooled` if there is a joint projection, and `logits` of a head of it."""
    pixels, image_axes = image_input(backbone.image_stream.stride)
    texts, text_axes = text_inputs(backbone)
    names = ["text_tokens", "image_tokens"]
    if backbone.config.joint_projection:
        names += ["pooled", *(["logits"] if head is not None else [])]
    inputs, axes = {"pixel_values": pixels, **texts}, {"pixel_values": image_axes, **text_axes}
    return ExportPart(_Pairs(backbone, head), inputs, axes, tuple(names))


def couples_part(backbone: FiberBackbone, head: nn.Module) -> ExportPart:
    """Pairs of images with a text each: `logits`."""
    pixels, image_axes = image_input(backbone.image_stream.stride, 2)
    texts, text_axes = text_inputs(backbone)
    inputs, axes = {"pixel_values": pixels, **texts}, {"pixel_values": image_axes, **text_axes}
    return ExportPart(_Couples(backbone, head), inputs, axes, ("logits",))


def decoder_parts(backbone: FiberBackbone, word_head: nn.Module) -> dict[str, ExportPart]:
    """`decoder_image` and `decoder_step`: what texts read of images, and a text's next token."""
    pixels, image_axes = image_input(backbone.image_stream.stride)
    begin = DecoderImages(backbone)
    sizes, layers = backbone.text_stream.sizes, len(backbone.text_stream.sizes.dims)
    heads, width, fused = sizes.heads[0], sizes.dims[0] // sizes.heads[0], layers - backbone.cut[1]
    axis, texts = Axis(BATCH), Axis("texts")
    image, image_dynamic = torch.zeros(fused, 2, heads, 6, width), {1: axis, 3: Axis("image_tokens", 2)}
    past = torch.zeros(layers, 2, 3, heads, 4, width)
    past_dynamic = {1: axis, 2: texts, 4: Axis("past", 0, backbone.max_text_length - 1)}
    inputs = {
        "tokens": torch.full((2, 3), (backbone.pad_token_id + 1) % backbone.vocab_size),
        **{"image_keys": image, "image_values": image.clone(), "keys": past, "values": past.clone()},
    }
    axes = {"tokens": {0: axis, 1: texts}, "image_keys": image_dynamic, "image_values": image_dynamic}
    axes |= {"keys": past_dynamic, "values": past_dynamic}
    return {
        "decoder_image": ExportPart(
            begin, {"pixel_values": pixels}, {"pixel_values": image_axes}, ("image_keys", "image_values")
        ),
        "decoder_step": ExportPart(
            DecoderStep(backbone, word_head), inputs, axes, ("logits", "new_keys", "new_values")
        ),
    }
