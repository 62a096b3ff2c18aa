"""The backbone, cut in two at the first fused block: begin, fuse, finish (FIBER, figure 2).

    image = backbone.begin_image(pixel_values)             # bottom blocks, no text
    text = backbone.begin_text(input_ids, attention_mask)  # bottom layers, no image
    fused = backbone.fuse(image, text)                     # top K pairs, each reading the other's value before the step

In eval mode `fuse` gives the same numbers however its states were made: at once, indexed, repeated or concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fiber_backbone.attention import GatedCrossAttention, padding_mask
from fiber_backbone.cache import DecodingCache
from fiber_backbone.checkpoints import LoadReport, load_original_backbone
from fiber_backbone.config import FiberConfig
from fiber_backbone.image_stream import ImageStream, resize_relative_position_bias, within
from fiber_backbone.pretrained import PretrainedModel
from fiber_backbone.projection import JointProjection
from fiber_backbone.states import FusedFeatures, ImageFeatures, ImageState, TextFeatures, TextState
from fiber_backbone.text_stream import TextStream


class FiberBackbone(PretrainedModel):
    """Swin and RoBERTa with gated cross-attention inside their top blocks.

    Args:
        config: Sizes and switches; see `fiber_base`, `fiber_small` and `fiber_tiny` for named ones.
    """

    def __init__(self, config: FiberConfig) -> None:
        super().__init__()
        self.config = config
        self.image_stream = ImageStream(config)
        self.text_stream = TextStream(config)
        if config.joint_projection:
            self.joint_projection = JointProjection(config.hidden_size, config.image_dim)
        if config.decoder_projections:
            self.decoder_projections = nn.ModuleList(
                nn.Linear(config.image_dim, dim) if dim != config.image_dim else nn.Identity()
                for dim in (config.stage_dims[config.block_stages[block]] for block, _ in config.fused_blocks)
            )
            for linear in self.decoder_projections:
                if isinstance(linear, nn.Linear):
                    nn.init.normal_(linear.weight, std=0.02)
                    nn.init.zeros_(linear.bias)
        with torch.no_grad():  # both libraries, like the above, draw with a deviation of 0.02
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(config.initializer_range / 0.02)
                elif isinstance(module, GatedCrossAttention):
                    module.gate.fill_(config.initial_gate)

    def to_config(self) -> dict[str, Any]:
        """The configuration as a dictionary."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FiberBackbone:
        """A fresh backbone from `to_config`'s dictionary."""
        return cls(FiberConfig(**config))

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> FusedFeatures:
        """Pictures and texts, pair by pair.

        Args:
            pixel_values: (B, 3, height, width) normalised; sides are multiples of the last stride (32).
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 = real token; all real if None.
        """
        return self.fuse(self.begin_image(pixel_values), self.begin_text(input_ids, attention_mask))

    def begin_image(
        self, pixel_values: Tensor, return_pyramid: bool = False, image_sizes: Tensor | None = None
    ) -> ImageState:
        """The image stream up to the cut.

        Args:
            pixel_values: (B, 3, height, width) normalised; sides are multiples of the last stride (32). Pad pictures of
                differing sizes with zeros at the right and bottom.
            return_pyramid: Whether to keep the outputs of the stages, for `FusedFeatures.pyramid`.
            image_sizes: (B, 2) int64, true height and width of padded pictures. With them the features of a picture are
                those that it would have alone, padded to a multiple of the last stride only.

        Raises:
            ValueError: If the shape is not as described, or `image_sizes` come with windows that shrink with the map.
        """
        stride = self.config.strides[-1]
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(
                f"pixel_values must have the shape (batch, 3, height, width), got {tuple(pixel_values.shape)}"
            )
        if pixel_values.shape[2] % stride or pixel_values.shape[3] % stride:
            height, width = (-(-side // stride) * stride for side in pixel_values.shape[2:])
            raise ValueError(
                f"height and width of pixel_values must be multiples of {stride}, got {tuple(pixel_values.shape[2:])}; "
                f"pad with zeros at the right and bottom to ({height}, {width}) or resize"
            )
        sizes = None
        if image_sizes is not None:
            if self.config.window_policy == "shrink":
                raise ValueError(
                    "image_sizes need FiberConfig(window_policy='pad'): windows must not hang on the batch"
                )
            sizes = -(-image_sizes.to(pixel_values.device) // stride) * stride
        x, pyramid = self._run_image(
            self.image_stream.embed(pixel_values), 0, self.config.fused_blocks[0][0], return_pyramid, sizes
        )
        return ImageState(x, pyramid, sizes)

    def begin_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextState:
        """The text stream up to the cut.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 = real token; all real if None.

        Raises:
            ValueError: If the shapes do not fit, or the text is longer than the position table.
        """
        attention_mask = self._check_text(input_ids, attention_mask)
        hidden = self.text_stream.embed(input_ids)
        mask = padding_mask(attention_mask, hidden.dtype)
        for layer in range(self.config.fused_blocks[0][1]):
            hidden, _ = self.text_stream.run(hidden, layer, mask)
        return TextState(hidden, attention_mask)

    def fuse(self, image: ImageState, text: TextState) -> FusedFeatures:
        """The top K pairs of blocks; each reads the other stream's value from before the step.

        Args:
            image: B pictures, from `begin_image`.
            text: B texts, from `begin_text`.

        Raises:
            ValueError: If the two differ in number.
        """
        if len(image) != len(text):
            raise ValueError(
                f"fuse pairs pictures with texts one to one, got {len(image)} pictures and {len(text)} texts; "
                "index or repeat_interleave one of the states"
            )
        x, hidden, pyramid = image.hidden_state, text.hidden_state, list(image.pyramid)
        mask = padding_mask(text.attention_mask, hidden.dtype)
        for block, layer in self.config.fused_blocks:
            last = layer + 1 == self.config.num_hidden_layers
            next_x, output = self.image_stream.run(x, block, context=hidden, mask=mask, sizes=image.sizes)
            hidden, _ = self.text_stream.run(
                hidden,
                layer,
                mask,
                context=x.flatten(1, 2),
                context_mask=self._image_mask(x, block, image.sizes),
                final_norm=not last or self.config.fused_text_norm,
            )
            x = next_x
            if pyramid and output is not None:
                pyramid.append(self.image_stream.pyramid_level(self.config.block_stages[block], output))
        fused = FusedFeatures(hidden, x.flatten(1, 2), text.attention_mask, tuple(pyramid))
        if self.config.joint_projection:
            fused.text_features, fused.image_features, fused.pooled = self.joint_projection(
                fused.text_hidden_state, fused.image_hidden_state
            )
        return fused

    def finish_image(self, image: ImageState) -> ImageFeatures:
        """The top image blocks without text, as a plain Swin would run them."""
        x, pyramid = self._run_image(
            image.hidden_state,
            self.config.fused_blocks[0][0],
            sum(self.config.depths),
            bool(image.pyramid),
            image.sizes,
        )
        tokens = x.flatten(1, 2)
        return ImageFeatures(self.image_stream.final_norm(tokens), tokens, image.pyramid + pyramid)

    def finish_text(self, text: TextState) -> TextFeatures:
        """The top text layers without image, as a plain RoBERTa would run them."""
        hidden, mask = text.hidden_state, padding_mask(text.attention_mask, text.hidden_state.dtype)
        for _, layer in self.config.fused_blocks:
            hidden, _ = self.text_stream.run(hidden, layer, mask)
        return TextFeatures(hidden, text.attention_mask)

    def decode_text(
        self,
        input_ids: Tensor,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: DecodingCache | None = None,
    ) -> TextFeatures:
        """Causal text over a finished image (captioning): each token sees itself, those before it and the picture.

        With a cache, pass only the tokens that it has not seen; the numbers equal those of the whole sequence.

        Args:
            input_ids: (R, L) int64.
            image_features: (B, N, C), `finish_image(...).unnormalized`; not needed once the cache holds them. R is a
                multiple of B: texts that read the same image follow one another.
            attention_mask: (R, L), 1 = real token; all real if None.
            cache: A `DecodingCache`, empty at first; updated in place.

        Raises:
            ValueError: If the model has no decoder projections, no image is given, the texts cannot be shared out
                among the images, or the text outgrows the positions.
        """
        config = self.config
        if not config.decoder_projections:
            raise ValueError("this model cannot decode text: build it with FiberConfig(decoder_projections=True)")
        cache = DecodingCache() if cache is None else cache
        past = 0 if cache.mask is None else cache.mask.shape[1]
        attention_mask = self._check_text(input_ids, attention_mask, past)
        if not cache.image:
            if image_features is None:
                raise ValueError("decode_text needs image_features, (batch, tokens, channels), in its first call")
            projected = [project(image_features) for project in self.decoder_projections]
            cross = self.text_stream.cross_attention
            cache.image = [layer.project_context(x) for layer, x in zip(cross, projected, strict=True)]
        if len(input_ids) % (images := len(cache.image[0].key)):
            raise ValueError(f"{len(input_ids)} texts cannot read {images} images; give as many texts for each image")
        hidden = self.text_stream.embed(input_ids, cache.position)
        cache.extend(attention_mask, (input_ids != config.pad_token_id).sum(dim=1))
        length = input_ids.shape[1]
        future = torch.ones(length, past + length, dtype=torch.bool, device=hidden.device).triu(past + 1)
        assert cache.mask is not None, "just extended"
        mask = padding_mask(cache.mask, hidden.dtype).masked_fill(future, -torch.inf)
        known, cache.text = cache.text or [None] * config.num_hidden_layers, []  # type: ignore[list-item]
        for layer in range(config.num_hidden_layers):
            fused = layer - config.fused_blocks[0][1]
            context = cache.image[fused] if fused >= 0 else None
            hidden, key_value = self.text_stream.run(hidden, layer, mask, context, known[layer])
            cache.text.append(key_value)
        features = self.joint_projection.text_transform(hidden) if config.joint_projection else None
        return TextFeatures(hidden, attention_mask, features)

    def set_gradient_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.image_stream.gradient_checkpointing = self.text_stream.gradient_checkpointing = enable

    def resize(self, image_size: int, window_size: int | None = None) -> FiberBackbone:
        """Prepare the model for pictures of another size, in place: bias tables are interpolated to new windows.

        Args:
            image_size: New nominal side in pixels.
            window_size: New side of a window in tokens; by default windows grow with the picture, as in the
                coarse stage (384 px with windows of 12 become 576 px with windows of 18).

        Raises:
            ValueError: If the default window is not a whole number of tokens.
        """
        if window_size is None:
            if self.config.window_size * image_size % self.config.image_size:
                raise ValueError(
                    f"windows of {self.config.window_size} tokens at {self.config.image_size} px do not become whole "
                    f"windows at {image_size} px; pass window_size"
                )
            window_size = self.config.window_size * image_size // self.config.image_size
        for layer in self.image_stream.layers:
            for block in layer.blocks:
                table = block.attn.relative_position_bias_table
                resized = resize_relative_position_bias(table.detach(), window_size)
                block.attn.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.config = self.image_stream.config = self.text_stream.config = replace(
            self.config, image_size=image_size, window_size=window_size
        )
        self.image_stream._plans.clear()
        return self

    def load_original_checkpoint(self, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
        """Load a checkpoint of the original code, of the coarse or of the fine stage.

        Args:
            source: A file, or the state dict already read by `checkpoints.read_original_state_dict`.

        Returns:
            Which keys were used, which have no effect in the original either, and which belong to heads.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the checkpoint is of another model, or keys are missing, unknown or of another shape.
        """
        return load_original_backbone(self, source)

    def cross_modal_parameter_names(self) -> set[str]:
        """Names of the parameters that let the streams read each other (the original's faster learning rate group)."""
        parts = ("cross_attention.", "joint_projection.", "decoder_projections.")
        return {name for name, _ in self.named_parameters() if any(part in name for part in parts)}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are scalars, vectors or bias tables."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim < 2 or "relative_position_bias_table" in name
        }

    def _image_mask(self, x: Tensor, block: int, sizes: Tensor | None) -> Tensor | None:
        """Additive mask of the image tokens (B, H, W, C) that text must not read."""
        if sizes is None:
            return None
        stride = self.config.strides[self.config.block_stages[block]]
        return padding_mask(within((x.shape[1], x.shape[2]), sizes // stride).flatten(1), x.dtype)

    def _run_image(
        self, x: Tensor, first: int, stop: int, return_pyramid: bool, sizes: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        pyramid = []
        for block in range(first, stop):
            x, output = self.image_stream.run(x, block, sizes=sizes)
            if return_pyramid and output is not None:
                pyramid.append(self.image_stream.pyramid_level(self.config.block_stages[block], output))
        return x, tuple(pyramid)

    def _check_text(self, input_ids: Tensor, attention_mask: Tensor | None, past: int = 0) -> Tensor:
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must have the shape (batch, length), got {tuple(input_ids.shape)}")
        longest = self.config.max_position_embeddings - self.config.pad_token_id - 1
        if past + input_ids.shape[1] > longest:
            raise ValueError(
                f"the text has {past + input_ids.shape[1]} tokens but the model has positions for {longest}; "
                "truncate it (tokenizer(..., truncation=True, max_length=...)) or raise max_position_embeddings"
            )
        if attention_mask is None:
            return torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, "
                f"got {tuple(attention_mask.shape)}"
            )
        return attention_mask


def fiber_base(**overrides: Any) -> FiberBackbone:
    """FIBER-Base: Swin-B with windows of 12 at 384 px, RoBERTa-base, 6 fused pairs. Overrides are config fields."""
    return FiberBackbone(FiberConfig.from_preset("fiber_base", **overrides))


def fiber_small(**overrides: Any) -> FiberBackbone:
    """Swin-T with windows of 7 at 224 px, 6 RoBERTa layers, 4 fused pairs. Overrides are fields of the config."""
    return FiberBackbone(FiberConfig.from_preset("fiber_small", **overrides))


def fiber_tiny(**overrides: Any) -> FiberBackbone:
    """A model of a few million parameters at 64 px, for tests and CPUs. Overrides are fields of the config."""
    return FiberBackbone(FiberConfig.from_preset("fiber_tiny", **overrides))
